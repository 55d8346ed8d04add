"""`python -m nuggets` is the command line."""

from nuggets.cli import main

main()
