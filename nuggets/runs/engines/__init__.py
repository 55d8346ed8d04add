"""Engines start workers, here or on a cluster; which one is for the machine to say."""
