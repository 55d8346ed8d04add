"""A part at a time: positions that the head reads, and what stands between streamed blocks."""
