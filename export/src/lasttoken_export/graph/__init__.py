"""The packed ONNX graph: one module a part, assembled by `decoder`."""
