"""GGUF files: their header read by hand, and the function that it describes."""
