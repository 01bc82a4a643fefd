"""The toy `missed_solution`."""

from polyseme.zoo.missed_solution.toy import ENTRY

__all__ = ["ENTRY"]
