"""Bindings: what a feature finder reads and what it writes, by names of sites in a config and by sites in a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from polyseme.core.config import Config, Name, identity
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.core.validation import validate_config

P = TypeVar("P")
Q = TypeVar("Q")


@dataclass(frozen=True, init=False)
class Binding(Generic[P]):
    """Where a dictionary's input comes from and where its output goes.

    An autoencoder reads and writes one place, a transcoder writes another than it reads, a crosscoder several. The
    vectors of several places stand side by side on the last axis, in the order in which they are named here:
    d_in = Σ widths of `reads`, d_out = Σ widths of `writes`.

    Places are `Site`s of a network, or the names of an activation source.

    Attributes:
        reads: where the input comes from; a place by itself is taken for a tuple of one.
        writes: what the output reconstructs, and takes the place of.
        name: what it is called; by default `read → write`. Two bindings that differ in their names alone are equal.

    Raises:
        InputError: nothing is read or nothing written, or a place is named twice on one side.
    """

    reads: tuple[P, ...]
    writes: tuple[P, ...]
    name: str = field(default="", compare=False)

    def __init__(self, reads: tuple[P, ...] | list[P] | P, writes: tuple[P, ...] | list[P] | P, name: str = ""):
        for field_name, value in (("reads", _several(reads)), ("writes", _several(writes)), ("name", name)):
            object.__setattr__(self, field_name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if problem := _problem(self.reads, self.writes):
            raise InputError(problem, where=self.name or "a binding", fix="give each place once, and one at least")

    @classmethod
    def at(cls, place: P, name: str = "") -> "Binding[P]":
        """The binding of an autoencoder, which reads and writes one place."""
        return cls((place,), (place,), name)

    def __str__(self) -> str:
        return self.name or _arrow(self.reads, self.writes)

    @property
    def is_autoencoder(self) -> bool:
        """Whether it writes what it reads."""
        return self.reads == self.writes

    @property
    def places(self) -> tuple[P, ...]:
        """All that is read or written, each once: the reads first."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    def map(self, change: Callable[[P], Q]) -> "Binding[Q]":
        """The same binding of other places: `binding.map(network.site)` finds the sites that it names."""
        return Binding(tuple(map(change, self.reads)), tuple(map(change, self.writes)), str(self))


def unnamed(binding: Binding[Any]) -> str:
    """The places of a binding, whatever it is called."""
    return _arrow(binding.reads, binding.writes)


def side_by_side(places: Sequence[P], width: Callable[[P], int]) -> dict[P, slice]:
    """Where the vectors of each place stand in those of all, which are joined on the last axis."""
    found: dict[P, slice] = {}
    start = 0
    for place in places:
        found[place] = slice(start, start := start + width(place))
    return found


def _problem(reads: Sequence[Any], writes: Sequence[Any]) -> str | None:
    for what, places in (("reads", reads), ("writes", writes)):
        if not places:
            return f"`{what}` names no place"
        if len(set(places)) < len(places):
            return f"`{what}` names one place twice: {', '.join(map(str, places))}"
    return None


def _arrow(reads: Sequence[Any], writes: Sequence[Any]) -> str:
    read, written = (" + ".join(map(str, places)) for places in (reads, writes))
    return read if read == written else f"{read} → {written}"


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


_Names = Annotated[tuple[Name, ...], Field(max_length=1000), BeforeValidator(_several)]


class BindingConfig(Config):
    """What a dictionary reads and writes, where that is not one and the same site: a transcoder, or a crosscoder."""

    reads: _Names
    """Sites it reads, by name; the vectors of several stand side by side in this order."""
    writes: _Names
    """Sites it writes: its output is trained on their vectors, and takes their place where it is spliced in."""
    name: Name | None = None
    """What the study calls it; None for `read → write`."""

    @model_validator(mode="after")
    def _sound(self) -> "BindingConfig":
        if problem := _problem(self.reads, self.writes):
            raise ValueError(problem)
        return self

    def build(self) -> Binding[str]:
        """The binding of these names."""
        return Binding(self.reads, self.writes, self.name or "")


def _is_table(value: Any) -> str:
    return "table" if isinstance(value, Mapping | BindingConfig) else "name"


Bound = Annotated[
    Annotated[Name, Tag("name")] | Annotated[BindingConfig, Tag("table")],
    Discriminator(_is_table),
]
"""In a config: the name of a site that a dictionary reads and writes, or what it reads and what it writes."""


V = TypeVar("V")
BindingLike = str | Site | Binding[str] | Binding[Site] | BindingConfig | Mapping[str, Any]
"""What stands for a binding in a call: a site that is read and written, a binding, or `{"reads": …, "writes": …}`."""


_FIX = 'give the name of a site, such as "blocks.2.resid_post", or {"reads": …, "writes": …} for a transcoder'


def bound(given: object, where: str = "binding") -> Binding[Any]:
    """The binding that is meant; whatever takes a binding takes what this function takes.

    Args:
        given: a place by itself is both read and written.
        where: what is called by that name in an error.

    Raises:
        InputError: it is no binding.
    """
    if isinstance(given, Binding):
        return cast(Binding[Any], given)
    if isinstance(given, str | Site):
        return Binding.at(given)
    if isinstance(given, Mapping):
        given = validate_config(cast(Mapping[str, Any], given), BindingConfig, where=where, fix=_FIX)
    if isinstance(given, BindingConfig):
        return given.build()
    raise InputError(
        f"an object of type {type(given).__name__} names no site",
        where=where,
        fix=_FIX,
    )


def located(given: object, network: Any, where: str = "binding") -> Binding[Any]:
    """The binding that is meant, its names resolved by the network that has the sites."""
    return bound(given, where).map(lambda place: network.site(place) if isinstance(place, str) else place)


def located_keys(dictionaries: Mapping[Any, V], network: Any) -> dict[Binding[Any], V]:
    """The same mapping, by the bindings that are meant by its keys."""
    return {located(key, network): dictionary for key, dictionary in dictionaries.items()}


def located_pairs(dictionaries: Mapping[str, tuple[BindingLike, V]], network: Any) -> dict[str, tuple[Binding[Any], V]]:
    """Name to a dictionary and the binding that is meant for it."""
    return {name: (located(given, network, name), dictionary) for name, (given, dictionary) in dictionaries.items()}


def binding_identity(binding: Binding[Site]) -> Any:
    """What of a binding decides a result; of an autoencoder's, the site."""
    if len(binding.places) == 1:
        return identity(binding.places[0])
    return {"reads": [identity(site) for site in binding.reads], "writes": [identity(site) for site in binding.writes]}


def recorded_sites(binding: Binding[str], recorded: Any) -> list[tuple[str, Site]]:
    """Each name in a binding with its site, out of what `binding_identity` gave of the resolved one."""
    if len(binding.places) == 1:
        return [(binding.places[0], Site.model_validate(recorded))]
    names, sites = (*binding.reads, *binding.writes), (*recorded["reads"], *recorded["writes"])
    return [(name, Site.model_validate(site)) for name, site in zip(names, sites, strict=True)]
