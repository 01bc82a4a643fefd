"""Whom the stages of a study are about: the study itself or one of its controls."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import torch

from polyseme.core.binding import Binding, binding_identity
from polyseme.core.config import identity
from polyseme.core.seeds import derive_seed
from polyseme.core.site import Site
from polyseme.corpora import Windows
from polyseme.dictionaries import Dictionary
from polyseme.networks import Network
from polyseme.nulls import Null
from polyseme.studies.config import StudyConfig
from polyseme.studies.stage import Worker
from polyseme.studies.stages.tokens import Tokens, TokensStage, drawn_windows, first_windows, under

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

    @property
    def stages(self) -> tuple[TokensStage, ...]:
        """The stages of its tokens."""
        return (self.train, self.heldout)

    def subject(self, at: Worker) -> "Subject":
        """The subject in this role, the same one each time."""
        return at.once(self.label, lambda: Subject(self, at))


@dataclass
class Subject:
    """What one study is about; tokens and network are made when they are first needed, so that a cached study, and one
    that is opened again, never makes a null's network.

    Attributes:
        role: whose study it is.
        at: where its stages are run.
    """

    role: Role
    at: Worker = field(repr=False)

    @property
    def label(self) -> str:
        """`trained`, or the control's name."""
        return self.role.label

    @property
    def study(self) -> StudyConfig:
        """Its config."""
        return self.at.config.model_copy(update={"seeds": self.role.seeds})

    @property
    def base(self) -> str:
        """The fingerprint of the study's network, before a null changed its weights."""
        return self.at.base

    @property
    def sites(self) -> dict[str, Site]:
        """Name in the config to the resolved site, of all that dictionaries read or write."""
        return self.at.sites

    @property
    def bindings(self) -> dict[str, Binding[Site]]:
        """What dictionaries are called to what they read and write."""
        return self.at.bindings

    @cached_property
    def tokens(self) -> Tokens:
        """What it is trained and measured on."""
        at, role = self.at, self.role

        def of_study() -> Tokens:
            return under(at.config.null, Tokens.of(at.of(role.train), at.of(role.heldout)), at)

        return under(role.null, at.once("tokens", of_study), at)

    def first(self, side: Literal["train", "heldout"], n_tokens: int) -> Windows:
        """The first windows of a side, those that hold this many tokens, the same object each time."""
        of_side = self.tokens.train if side == "train" else self.tokens.heldout
        return self.at.once((self.label, side, n_tokens), lambda: first_windows(of_side, n_tokens))

    def learned_on(self, n_tokens: int) -> Windows:
        """The train windows that matches, predictions and what latents stand for are learned on.

        The same object each time: the first of this number of tokens, or with a draw seed as many from another place.
        """
        draw = self.at.config.draw_seed
        if not draw:
            return self.first("train", n_tokens)
        seed = derive_seed(draw, "learned on")
        key = (self.label, "learned on", n_tokens)
        return self.at.once(key, lambda: drawn_windows(self.tokens.train, n_tokens, seed))

    @cached_property
    def network(self) -> Network:
        """The network, its weights random where the subject is a null of weights."""
        null, network = self.role.null, self.at.network
        return network if null is None else null.network(network, self.at.reporter)

    @property
    def identity(self) -> dict[str, object]:
        """The parts of the config that decide what the network computes at which sites."""
        decides: dict[str, object] = {
            "sites": {name: binding_identity(binding) for name, binding in self.bindings.items()}
        }
        decides |= {key: value for key, value in identity(self.study.network).items() if key == "dtype"}
        if self.role.null is not None and self.role.null.targets == "weights":
            decides["null"] = self.role.null.decides
        return decides

    def forget(self) -> None:
        """Let the memory of network and tokens go; they are made again if they are needed again."""
        for made in ("network", "tokens"):
            self.__dict__.pop(made, None)


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
