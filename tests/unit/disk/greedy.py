"""What children do that take too much, or fail; apart, so that they import hardly anything."""

from nuggets.errors import Unsupported


def spin() -> None:
    """Takes all the time that there is."""
    while True:
        pass


def hoard() -> int:
    """Takes more memory than there is."""
    return len(bytearray(2**36))


def stumble() -> None:
    """Fails as libraries do on odd bytes."""
    raise ValueError("odd\n bytes.")


def refuse() -> None:
    """Refuses in our own words."""
    raise Unsupported("as it was said.")
