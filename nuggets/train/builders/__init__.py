"""How arms are built: from configuration to what is trained."""
