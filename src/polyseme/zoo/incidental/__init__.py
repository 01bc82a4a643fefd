"""The toy `incidental`."""

from polyseme.zoo.incidental.toy import ENTRY

__all__ = ["ENTRY"]
