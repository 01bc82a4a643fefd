"""The toy `skip_trigram`."""

from polyseme.zoo.skip_trigram.toy import ENTRY

__all__ = ["ENTRY"]
