"""Paired statistics and the verdict, without any model."""
