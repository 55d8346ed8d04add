"""Sweeps: a recipe plus a space to search, its trials as ordinary runs, and their confirmation."""
