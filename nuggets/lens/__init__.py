"""On one prompt: when a model knows the answer, and on which layers its loss rests."""
