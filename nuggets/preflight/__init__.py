"""What a pair needs and what can be cut, from configs and headers alone."""
