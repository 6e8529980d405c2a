"""Export text-embedding checkpoints to packed ONNX graphs and Triton model repositories."""
