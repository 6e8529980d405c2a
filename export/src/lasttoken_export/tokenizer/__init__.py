"""Builds the text of a tokenizer.json where a checkpoint has none."""
