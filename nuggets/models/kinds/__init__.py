"""The kinds of models that are known: architectures, and wrappers around them."""
