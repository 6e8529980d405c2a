"""Quantisation: rounding of weights, smoothing of activations, calibration on texts. No graphs."""
