"""Devices, memory, threads, fast products and the SVD."""
