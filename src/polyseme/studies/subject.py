"""Whom the stages of a study are about: the study itself or one of its controls."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch

from polyseme.core.binding import Binding
from polyseme.core.config import identity
from polyseme.core.progress import Reporter, Silent
from polyseme.core.site import Site
from polyseme.dictionaries import Dictionary
from polyseme.networks import Network
from polyseme.nulls import Null, on_network
from polyseme.nulls.weights import WeightNull
from polyseme.studies.config import StudyConfig
from polyseme.studies.stage import Worker
from polyseme.studies.stages.tokens import Tokens, TokensStage, under

K = TypeVar("K")


@dataclass(frozen=True, eq=False)
class Role:
    """Whom stages are about: the study itself or one of its controls.

    Attributes:
        label: `trained`, or the control's name.
        null: what it is a null of; None for the study itself.
        seeds: of its dictionaries.
        train, heldout: the stages of its tokens, before a null changed them.
    """

    label: str
    null: Null | None
    seeds: tuple[int, ...]
    train: TokensStage
    heldout: TokensStage

    def subject(self, at: Worker) -> "Subject":
        """The subject in this role, the same one each time."""
        return at.once(self.label, lambda: self._subject(at))

    def _subject(self, at: Worker) -> "Subject":
        tokens = at.once("tokens", lambda: Tokens.of(at.of(self.train), at.of(self.heldout)))
        study = at.config.model_copy(update={"seeds": self.seeds})
        own = under(self.null, tokens, at.network)
        return Subject(study, self.label, at.network, at.base, at.sites, at.bindings, own, self.null, at.reporter)


@dataclass
class Subject:
    """What one study is about; a null's network is made when a stage first needs it, so that a cached study never does.

    Attributes:
        study: its config.
        label: `trained`, or the control's name.
        loaded: the study's network, before a null changed its weights.
        base: its fingerprint.
        sites: name in the config to the resolved site, of all that dictionaries read or write.
        bindings: what dictionaries are called to what they read and write.
        tokens: what it is trained and measured on.
        null: what it is a null of; None for the study itself.
        reporter: receives the progress of making the null's network.
    """

    study: StudyConfig
    label: str
    loaded: Network
    base: str
    sites: dict[str, Site]
    bindings: dict[str, Binding[Site]]
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
        decides: dict[str, object] = {"sites": {name: _identity(binding) for name, binding in self.bindings.items()}}
        decides |= {key: value for key, value in identity(self.study.network).items() if key == "dtype"}
        if isinstance(self.null, WeightNull):
            decides["null"] = identity(self.null)
        return decides

    def forget_network(self) -> None:
        """Let the network's memory go; it is built again if it is needed again."""
        self.__dict__.pop("network", None)


def _identity(binding: Binding[Site]) -> object:
    """What of a binding decides a result; of an autoencoder's, the site."""
    if len(binding.places) == 1:
        return identity(binding.places[0])
    return {"reads": [identity(site) for site in binding.reads], "writes": [identity(site) for site in binding.writes]}


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
