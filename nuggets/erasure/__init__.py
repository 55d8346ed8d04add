"""Is a map true? Weights are set to 0, and what the model can still do is measured."""
