"""Architectures, headers, loading, fused layouts, references, the hub."""
