"""What a run's worker does, in order: measuring, transfer, evaluating, cutting, exporting."""
