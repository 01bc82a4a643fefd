"""What passes have shown of a network's places, each looked at once: how often it is called, its layout, its order."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, final

from torch import nn

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.facts import Facts
from polyseme.networks.layouts import Layout
from polyseme.networks.readout import ReadOut
from polyseme.networks.survey import Place, Seen, place_of, survey

Forward = Callable[[], Any]
"""Runs the network on inputs of its own."""


@final
class Places:
    """The places of a network.

    Args:
        module: the network.
        facts: of the network; with the tokens that it is looked at on, where it reads tokens.
        readout: of the network.
        named: sites that are called once a pass, and whose last axis is the width.
    """

    def __init__(self, module: nn.Module, facts: Facts, readout: ReadOut, named: Iterable[Site]):
        self._module, self._facts, self._readout = module, facts, readout
        self._seen: dict[Place, Seen] = {place_of(site): Seen(calls=1) for site in named}
        self._orders: dict[frozenset[Place], dict[Place, int]] = {}

    def look(
        self, places: Collection[Place], forward: Forward, tokens: Sequence[int] | None = None
    ) -> dict[Place, Seen]:
        """What one pass shows there; see `survey`."""
        return survey(self._module, forward, places, tokens=tokens, head=self._readout.head)

    def look_at_tokens(self, places: Collection[Place]) -> dict[Place, Seen]:
        """What a pass over a few tokens shows there."""
        tokens = self._facts.few_tokens
        return self.look(places, lambda: self._facts.forward(tokens), tokens.shape)

    def know(self, places: Collection[Place], forward: Forward) -> dict[Place, Seen]:
        """The places, looked at first where nothing is known of them.

        Args:
            places: any.
            forward: runs the network where tokens do not, or do not reach a place: a vision tower's, say.
        """
        unknown = set(places) - self._seen.keys()
        if unknown and self._facts.reads_tokens:
            self._seen |= self.look_at_tokens(unknown)
            unknown = {place for place in unknown if self._seen[place].calls == 0}
        if unknown:
            self._seen |= self.look(unknown, forward)
        return {place: self._seen[place] for place in places}

    def layouts(self, places: Collection[Place], forward: Forward) -> dict[Place, Layout]:
        """How tensors become vectors, where their last axis is not the width."""
        return {place: at.layout for place, at in self.know(places, forward).items() if at.layout is not None}

    def late(self, pairs: Sequence[tuple[Site, Site]], forward: Callable[[], Forward]) -> tuple[Site, Site] | None:
        """The first of some pairs (read, write) whose read a forward pass comes to later than to its write.

        Args:
            pairs: of what is read and what is written.
            forward: gives what runs the network where tokens do not.
        """
        # What a module is given is read before any of it is edited, whichever heads or ports these are.
        pairs = [(a, b) for a, b in pairs if (a.path, a.port == "out") != (b.path, b.port == "out")]
        places = frozenset(place_of(site) for pair in pairs for site in pair)
        if places and places not in self._orders:
            seen = self.look_at_tokens(places) if self._facts.reads_tokens else {}
            if not seen or any(at.calls == 0 for at in seen.values()):
                seen = self.look(places, forward())
            self._orders[places] = {place: seen[place].order for place in places}
        order = self._orders.get(places, {})
        return next(((a, b) for a, b in pairs if order[place_of(a)] > order[place_of(b)]), None)

    def check_order(self, pairs: Sequence[tuple[Site, Site]], forward: Callable[[], Forward]) -> None:
        """Refuse reads that a forward pass comes to later than to a write that depends on them; arguments as `late`.

        Raises:
            InputError: names the two sites.
        """
        if late := self.late(pairs, forward):
            raise InputError(
                f"What is put at {late[1]} depends on {late[0]}, which comes later in the forward pass",
                where=type(self._module).__name__,
                fix="read sites that come before all that are written",
            )
