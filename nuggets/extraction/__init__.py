"""From a sensitivity map to low-rank factors: layers, matrices, plan, SVD, adapter, cut."""
