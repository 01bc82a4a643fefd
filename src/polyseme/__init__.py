"""polyseme finds the features inside a neural network and says which of them are really the network's."""

__version__ = "0.1.0"
