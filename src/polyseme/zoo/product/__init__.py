"""The toy `product`."""

from polyseme.zoo.product.toy import ENTRY

__all__ = ["ENTRY"]
