"""TensorRT plans: built from the exporter's ONNX graphs, by TensorRT or TensorRT-RTX alike."""
