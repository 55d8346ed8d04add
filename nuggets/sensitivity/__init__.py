"""Where a model keeps a skill: scores, hooks, streaming, maps."""
