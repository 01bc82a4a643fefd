"""What the stages of one subject give: statistics, dictionaries, readings, and what patching costs."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from polyseme.activations.firings import Firings
from polyseme.activations.massive import Ordinary, Spread
from polyseme.core.config import fingerprint
from polyseme.core.site import Site
from polyseme.dictionaries import Dictionary, load_dictionary
from polyseme.evaluation import DocumentSums
from polyseme.evaluation.matches import Sides
from polyseme.store import Artifact
from polyseme.studies.subject import dictionary_name, file_name
from polyseme.training import HistoryPoint

COPIES = "copies"
"""Folder of the copies of dictionaries along their training."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of a sample of a subject's train vectors.

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
        copied_at: the numbers of tokens after which copies were kept.
    """

    dictionaries: dict[tuple[str, int], Dictionary]
    history: dict[tuple[str, int], tuple[HistoryPoint, ...]]
    means: dict[str, Tensor]
    statistics: Statistics
    artifact: Artifact
    target_l0: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    copied_at: tuple[int, ...] = ()

    def copy(self, n_tokens: int, site: str, seed: int) -> Dictionary:
        """One of the copies, read from its file."""
        return load_dictionary(self.artifact.file(f"{copy_name(n_tokens, site, seed)}/dictionary.json").parent)

    def of_seed(self, seed: int) -> dict[str, Dictionary]:
        """Site name to dictionary."""
        return {site: d for (site, s), d in self.dictionaries.items() if s == seed}


@dataclass(frozen=True)
class Readings:
    """What one pass over held-out windows gave.

    Attributes:
        sums: (site name, seed) to its reconstruction metrics.
        firings: (site name, seed) to its latents.
        left_out: site name to the rows of the firings that the figures of ordinary vectors leave out.
        artifact: where they are kept.
    """

    sums: dict[tuple[str, int], list[DocumentSums]]
    firings: dict[tuple[str, int], Firings]
    left_out: dict[str, Int[np.ndarray, " row"]]
    artifact: Artifact

    def alive(self, site: str, seed: int) -> Bool[np.ndarray, " n_latents"]:
        """Which latents fired at all."""
        return self.firings[site, seed].counts > 0


@dataclass(frozen=True)
class Matching:
    """What the train tokens gave that matches of latents are chosen on; each part is read when it is asked for.

    Attributes:
        artifact: where they are kept.
    """

    artifact: Artifact

    def firings(self, site: str, seed: int) -> Firings:
        """Firings of one dictionary."""
        return Firings.load(self.artifact.path, dictionary_name(site, seed))

    def random(self, site: str) -> Sides:
        """Firings of random latents on both sides; only the study itself has them."""
        return Sides(*(Firings.load(self.artifact.path, random_name(site, side)) for side in ("learn", "heldout")))


def copy_name(n_tokens: int, site: str, seed: int) -> str:
    """Where the copy of a dictionary after a number of tokens is kept."""
    return f"{COPIES}/{n_tokens}/{dictionary_name(site, seed)}"


def random_name(site: str, side: Literal["learn", "heldout"]) -> str:
    """What the firings of a site's random latents are called on one side."""
    return f"{file_name(site)}-random-{side}"


@dataclass(frozen=True)
class Spliced:
    """What the network loses when reconstructions stand in for its own vectors.

    Attributes:
        sums: the metrics of every site and of all jointly, for the judged seed.
        artifact: where they are kept.
    """

    sums: list[DocumentSums]
    artifact: Artifact
