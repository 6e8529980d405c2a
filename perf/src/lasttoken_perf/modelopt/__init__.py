"""The exporter's own calibration beside nvidia-modelopt's, on the same weights and texts."""
