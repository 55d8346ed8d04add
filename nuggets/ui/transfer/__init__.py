"""Parts of the Transfer page."""
