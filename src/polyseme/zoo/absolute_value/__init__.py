"""The toy `absolute_value`."""

from polyseme.zoo.absolute_value.toy import ENTRY

__all__ = ["ENTRY"]
