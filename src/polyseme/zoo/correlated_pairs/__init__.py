"""The toy `correlated_pairs`."""

from polyseme.zoo.correlated_pairs.toy import ENTRY

__all__ = ["ENTRY"]
