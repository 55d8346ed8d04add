"""Benchmarks, their items, judges, and the outcome of every item."""
