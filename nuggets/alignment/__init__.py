"""How two models resemble each other: states, similarity, linear maps, stitching."""
