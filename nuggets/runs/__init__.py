"""Durable background runs: a folder per run, one worker process, atomic commits."""
