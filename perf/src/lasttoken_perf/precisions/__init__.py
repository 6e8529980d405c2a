"""Every precision that runs here, side by side: size, memory, speed and quality."""
