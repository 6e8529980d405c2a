"""Hostile input to everything that reads what somebody else wrote."""
