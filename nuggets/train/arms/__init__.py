"""The arms of a comparison, as configuration."""
