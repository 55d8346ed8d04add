"""A process that keeps models in memory and answers questions."""
