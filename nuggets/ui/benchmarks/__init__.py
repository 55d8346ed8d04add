"""Parts of the Results and Paper pages."""
