"""Parts of the Alignment page."""
