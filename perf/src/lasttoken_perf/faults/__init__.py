"""Faults, tried for real on a live local server under load: what callers see, what is lost."""
