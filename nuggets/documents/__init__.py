"""What is written for people to keep: HTML pages, static figures, and the colours of both."""
