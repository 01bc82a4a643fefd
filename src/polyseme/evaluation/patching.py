"""Edits that put a dictionary's output in the place of what its binding writes.

What a dictionary reads is what stands at its sites in the very pass that is edited, after all edits upstream. A
crosscoder that also writes the sites it reads cannot be given that: the pass comes to its first write before its last
read, and what it would read there is already changed by its own output. It reads the clean pass, at all its sites, and
everything it writes is patched in one pass:

    x_s for s in reads: the network's own vectors, without any edit;  y = decode(encode(x));  site w holds y_w.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyseme.activations.massive import Ordinary, ordinary_rows
from polyseme.activations.reading import Reader
from polyseme.core.batch import joined
from polyseme.core.binding import Binding, side_by_side
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.dictionaries import Reconstructor
from polyseme.networks.edits import Change, Edit, EditFrom

Positions = Bool[Tensor, "window position"]


@runtime_checkable
class Ordered(Reader, Protocol):
    """A network that knows in which order a pass comes to its sites; `polyseme.networks.Network` is one."""

    def check_order(self, reads: Sequence[Site], writes: Sequence[Site]) -> None:
        """Raise `InputError` where a pass comes to a read later than to a write."""
        ...

    def in_order(self, reads: Sequence[Site], writes: Sequence[Site]) -> bool:
        """Whether a pass comes to no read later than to a write."""
        ...


def clean_reads(network: Ordered, bindings: Iterable[Binding[Site]]) -> list[Site]:
    """The sites that `patch_edits` needs the clean pass's vectors of: all that such crosscoders among these read.

    Raises:
        InputError: a site is read after one that depends on it is written, and is not written itself.
    """
    found: dict[Site, None] = {}
    for binding in bindings:
        network.check_order([site for site in binding.reads if site not in binding.writes], binding.writes)
        if not network.in_order(binding.reads, binding.writes):
            found |= dict.fromkeys(binding.reads)
    return list(found)


def patch_edits(
    network: Ordered,
    dictionaries: Mapping[Binding[Site], Reconstructor],
    positions: Mapping[Binding[Site], Positions],
    trained_on: Mapping[Site, Ordinary] | None = None,
    clean: Mapping[Site, Tensor] | None = None,
) -> dict[Site, Edit]:
    """Edits that put each dictionary's reconstruction in the place of what it writes.

    Args:
        network: knows how wide the sites are, and in which order a pass comes to them.
        dictionaries: by binding; no two write one site.
        positions: where each binding's vectors are replaced.
        trained_on: what selects the vectors of a site that training left in, among those that are read or, at a site
            that is only written, that the edit meets; a token with others at any of them keeps its vector there.
        clean: at the sites of `clean_reads`, the vectors of a pass over the same inputs without edits.

    Raises:
        InputError: a site is read after one that depends on it is written, and is not written itself; or `clean` lacks
            a site.
    """
    edits: dict[Site, Edit] = {}
    for binding, dictionary in dictionaries.items():
        given = clean_reads(network, [binding])
        if missing := [site for site in given if site not in (clean or {})]:
            raise InputError(
                f"{binding} reads {missing[0]} after a site that it writes, so it is given what the clean pass holds",
                where="clean",
                fix="read the sites of clean_reads(network, dictionaries) in a pass without edits",
            )
        held = {site: (clean or {})[site] for site in given}
        patch = _Patch(binding, dictionary, positions[binding], trained_on or {}, held)
        for site, part in side_by_side(binding.writes, network.width).items():
            edits[site] = patch.edit(site, part)
    return edits


def put(value: Float[Tensor, " d"], positions: Positions) -> Change:
    """An edit that puts one vector in the place of all at some positions."""

    def edit(x: Tensor) -> Tensor:
        return torch.where(positions.to(x.device)[..., None], value.to(x), x)

    return edit


@final
class _Patch:
    """One dictionary's reconstruction, made once a pass and shared out among the sites that it writes."""

    def __init__(
        self,
        binding: Binding[Site],
        dictionary: Reconstructor,
        positions: Positions,
        trained_on: Mapping[Site, Ordinary],
        clean: Mapping[Site, Tensor],
    ):
        self._clean = clean
        self._reads, self._dictionary = binding.reads, dictionary
        self._positions, self._trained_on = positions, trained_on
        self._made: tuple[list[Tensor], Tensor, Tensor] | None = None

    def edit(self, site: Site, part: slice) -> Edit:
        """The edit of one site that is written, which is that part of the dictionary's output."""
        if self._clean:
            return lambda x: self._patched(x, self._clean, site, part)
        if self._reads == (site,):
            return lambda x: self._patched(x, dict.fromkeys(self._reads, x), site, part)
        return EditFrom(self._reads, lambda x, reads: self._patched(x, reads, site, part))

    def _patched(self, x: Tensor, reads: Mapping[Site, Tensor], site: Site, part: slice) -> Tensor:
        at, out = self._at(x, reads, site), x.clone()
        out[at] = self._output(reads, at)[:, part].to(x)
        return out

    def _at(self, x: Tensor, reads: Mapping[Site, Tensor], site: Site) -> Positions:
        at = self._positions.to(x.device)
        position = torch.arange(x.shape[1]).expand(x.shape[:2])[self._positions]
        there = dict.fromkeys((site,), x) | dict(reads)
        vectors = {place: held[at] for place, held in there.items() if place in self._trained_on}
        kept = ordinary_rows(vectors, vectors, position, self._trained_on)
        if kept is None:
            return at
        return at.masked_scatter(at, kept)

    def _output(self, reads: Mapping[Site, Tensor], at: Positions) -> Float[Tensor, "row d_out"]:
        given = [reads[site] for site in self._reads]
        if self._made is not None:
            before, there, output = self._made
            if all(a is b for a, b in zip(before, given, strict=True)) and torch.equal(there, at):
                return output
        vectors = joined(self._reads, {site: reads[site][at].float() for site in self._reads})
        sound = torch.isfinite(vectors).all(dim=1)
        if bool(sound.all()):
            output = self._dictionary.decode(self._dictionary.encode(vectors))
        else:
            # What an edit before this one has made overflow has no reconstruction: its loss is not measured.
            output = vectors.new_full((len(vectors), self._dictionary.d_out), torch.nan)
            if bool(sound.any()):
                output[sound] = self._dictionary.decode(self._dictionary.encode(vectors[sound])).to(output)
        self._made = (given, at, output)
        return output
