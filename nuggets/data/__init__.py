"""Samples: formats, JSONL files, data sets."""
