"""The toy `scaling`."""

from polyseme.zoo.scaling.toy import ENTRY

__all__ = ["ENTRY"]
