"""A user's own samples, recipes and the tour."""
