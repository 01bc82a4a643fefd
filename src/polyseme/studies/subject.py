"""A study's subject: the network with its sites, and the dictionaries trained on it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from polyseme.activations.massive import Ordinary, Spread
from polyseme.core.config import fingerprint
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.dictionaries import Dictionary
from polyseme.networks import Network
from polyseme.nulls import Null, on_network
from polyseme.nulls.weights import WeightNull
from polyseme.store import Artifact
from polyseme.studies.config import StudyConfig
from polyseme.studies.stages.tokens import Tokens
from polyseme.training import HistoryPoint

K = TypeVar("K")


@dataclass
class Subject:
    """What one study is about; the network is built when a stage first needs it, so that a cached study never does.

    Attributes:
        study: its config.
        label: `trained`, or the control's name.
        loaded: the study's network, before a null changed its weights.
        base: its fingerprint.
        sites: name in the config to the resolved site.
        tokens: what it is trained and measured on.
        null: what it is a null of; None for the study itself.
        reporter: receives the progress of making the null's network.
    """

    study: StudyConfig
    label: str
    loaded: Network
    base: str
    sites: dict[str, Site]
    tokens: Tokens
    null: Null | None = None
    reporter: Reporter = field(default_factory=Silent, repr=False)

    @cached_property
    def network(self) -> Network:
        """The network, its weights random where the subject is a null of weights."""
        return on_network(self.null, self.loaded, self.reporter)

    @property
    def identity(self) -> dict[str, object]:
        """The parts of the config that decide what the network computes at which sites."""
        sites = {name: site.model_dump(mode="json") for name, site in self.sites.items()}
        random = self.null.made if isinstance(self.null, WeightNull) else None
        return {"dtype": self.study.network.dtype, "reinit": random, "sites": sites}

    def forget_network(self) -> None:
        """Let the network's memory go; it is built again if it is needed again."""
        self.__dict__.pop("network", None)


@dataclass(frozen=True)
class Statistics:
    """Of a sample of a subject's train vectors.

    Attributes:
        means: site name to the mean vector.
        spreads: site name to how far the vectors lie from the site's centre.
        trained_on: site to what tells the vectors that training leaves in, of the sites where it leaves some out.
        ordinary: site to what tells the vectors that are not massive, whether training leaves these in or not, and not
            at positions that it leaves out.
    """

    means: dict[str, Tensor]
    spreads: dict[str, Spread]
    trained_on: dict[Site, Ordinary]
    ordinary: dict[Site, Ordinary]

    @property
    def trained_on_key(self) -> str:
        """Hash of what tells the vectors that training leaves in; empty where it leaves none out."""
        return fingerprint(_identities(self.trained_on)) if self.trained_on else ""

    @property
    def ordinary_key(self) -> str:
        """Hash of what tells the ordinary vectors."""
        return fingerprint(_identities(self.ordinary))


def _identities(by_site: dict[Site, Ordinary]) -> dict[str, str]:
    return {str(site): ordinary.identity for site, ordinary in by_site.items()}


@dataclass(frozen=True)
class Trained:
    """Every dictionary of a subject.

    Attributes:
        dictionaries: (site name, seed) to dictionary.
        history: (site name, seed) to its training curve.
        means: site name to the mean vector over train tokens that are trained on.
        statistics: of the train vectors.
        artifact: where they are kept.
        target_l0: (site name, seed) to the L0 its coefficient was steered to, where it was.
    """

    dictionaries: dict[tuple[str, int], Dictionary]
    history: dict[tuple[str, int], tuple[HistoryPoint, ...]]
    means: dict[str, Tensor]
    statistics: Statistics
    artifact: Artifact
    target_l0: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])

    def of_seed(self, seed: int) -> dict[str, Dictionary]:
        """Site name to dictionary."""
        return {site: d for (site, s), d in self.dictionaries.items() if s == seed}


def dictionary_name(site: str, seed: int) -> str:
    """The name of a dictionary within its study, safe as a file name."""
    return f"{file_name(site)}-seed{seed}"


def file_name(site: str) -> str:
    """A site's name, safe as a file name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in site)


def on(device: torch.device, dictionaries: dict[K, Dictionary]) -> dict[K, Dictionary]:
    """The same dictionaries with their tensors on `device`."""
    for dictionary in dictionaries.values():
        for tensor in dictionary.tensors().values():
            tensor.data = tensor.data.to(device)
    return dictionaries
