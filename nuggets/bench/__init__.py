"""Evaluation, paired statistics and the verdict."""
