"""The toy `bit_extraction`."""

from polyseme.zoo.bit_extraction.toy import ENTRY

__all__ = ["ENTRY"]
