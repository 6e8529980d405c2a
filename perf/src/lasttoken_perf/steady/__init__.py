"""A long soak under a load that can be sustained: mixed traffic, open loop, both ways in."""
