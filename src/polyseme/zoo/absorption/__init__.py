"""The toy `absorption`."""

from polyseme.zoo.absorption.toy import ENTRY

__all__ = ["ENTRY"]
