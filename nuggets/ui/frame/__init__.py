"""What every page shares: shell, links, export, live runs."""
