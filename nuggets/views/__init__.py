"""NumPy-only reductions of what was measured, for pictures."""
