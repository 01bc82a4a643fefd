"""The toy `hedging`."""

from polyseme.zoo.hedging.toy import ENTRY

__all__ = ["ENTRY"]
