"""Parts of the Sensitivity page."""
