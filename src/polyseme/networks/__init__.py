"""Networks: load them, name their sites, read and edit them in one pass, re-initialise them."""

from polyseme.networks.edits import Edit, EditFrom, add, mean_ablate, replace, zero_ablate
from polyseme.networks.families import FAMILIES, Family
from polyseme.networks.inputs import Inputs
from polyseme.networks.load import NetworkConfig, load_network
from polyseme.networks.network import Network, Output
from polyseme.networks.prefix import Prefix

__all__ = [
    "FAMILIES",
    "Edit",
    "EditFrom",
    "Family",
    "Inputs",
    "Network",
    "NetworkConfig",
    "Output",
    "Prefix",
    "add",
    "load_network",
    "mean_ablate",
    "replace",
    "zero_ablate",
]
