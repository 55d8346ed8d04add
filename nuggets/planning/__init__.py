"""Everything that is known before a run: checks, outlook, machine, jobs, caches."""
