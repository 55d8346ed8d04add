"""Values in, values out: sensitivity, alignment, extraction, injection."""
