"""Fine-tuning and the arms that are compared."""
