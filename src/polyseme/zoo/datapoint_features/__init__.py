"""The toy `datapoint_features`."""

from polyseme.zoo.datapoint_features.toy import ENTRY

__all__ = ["ENTRY"]
