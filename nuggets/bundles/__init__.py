"""A run in one file, and the page inside it."""
