"""What a precision costs: vectors against those of the fp32 graph, on held-out text."""
