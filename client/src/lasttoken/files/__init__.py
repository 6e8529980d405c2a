"""Texts from files and vectors into files, with bounded memory: `lasttoken embed`'s parts."""
