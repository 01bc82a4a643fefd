"""The toy `wrong_l0`."""

from polyseme.zoo.wrong_l0.toy import ENTRY

__all__ = ["ENTRY"]
