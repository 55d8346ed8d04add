"""Files that are whole or absent: atomic commits, manifests, locks, untrusted input."""
