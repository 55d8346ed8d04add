"""Parts of the Benchmarks and Paper pages."""
