"""Any other encoder: exported by optimum, with the pooling head on it, and run padded."""
