"""Benchmarks: one command, one table, ratios in one run."""
