"""The toy `compressed_computation`."""

from polyseme.zoo.compressed_computation.toy import ENTRY

__all__ = ["ENTRY"]
