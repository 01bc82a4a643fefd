"""Activations: vectors of a network's sites, as shuffled batches for training and as firings for everything after."""

from polyseme.activations.config import HarvestConfig
from polyseme.activations.disk import harvest_to_disk
from polyseme.activations.drawn import DrawnSource
from polyseme.activations.firings import Firings, FiringsCollector, collect_firings
from polyseme.activations.live import LiveSource
from polyseme.activations.memory import TensorSource
from polyseme.activations.source import ActivationSource
from polyseme.activations.statistics import SiteStatistics, site_means, site_statistics

__all__ = [
    "ActivationSource",
    "DrawnSource",
    "Firings",
    "FiringsCollector",
    "HarvestConfig",
    "LiveSource",
    "SiteStatistics",
    "TensorSource",
    "collect_firings",
    "harvest_to_disk",
    "site_means",
    "site_statistics",
]
