"""The built-in skills and the model pairs trained on them."""
