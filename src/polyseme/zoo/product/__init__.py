"""The toy `product`."""
