"""Many arms and seeds trained side by side."""
