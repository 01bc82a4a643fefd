"""What passes have shown of a network's places, each looked at once: how often it is called, its layout, its order."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, final

from jaxtyping import Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.networks.building import loading
from polyseme.networks.calls import Calls
from polyseme.networks.facts import Facts
from polyseme.networks.layouts import Layout
from polyseme.networks.loaded import Loaded
from polyseme.networks.readout import ReadOut
from polyseme.networks.sites import SiteTable
from polyseme.networks.survey import Place, Seen, place_of, survey, width_of

Forward = Callable[[], Any]
"""Runs the network on inputs of its own."""


@final
class Places:
    """The places of a network; named sites are called once a pass, and their last axis is the width."""

    def __init__(self, loaded: Loaded, facts: Facts, calls: Calls, readout: ReadOut, table: SiteTable):
        self._loaded, self._facts, self._calls = loaded, facts, calls
        self._readout, self._table = readout, table
        self._seen: dict[Place, Seen] = {place_of(site): Seen(calls=1) for site in table.named.values()}
        self._orders: dict[frozenset[Place], dict[Place, int]] = {}
        self._widths: dict[Site, int] = {}

    def survey(self, sites: Iterable[Site], tokens: Int[Tensor, "batch position"] | None = None) -> dict[Site, Seen]:
        """`Network.survey`."""
        wanted = {site: place_of(site) for site in sites}
        if not wanted:
            return {}
        if tokens is not None:
            seen = self._look(set(wanted.values()), self._calls.of(tokens), tokens.shape)
        elif self._facts.reads_tokens:
            seen = self._look_at_tokens(set(wanted.values()))
        else:
            call = self._calls.of_example()
            fix = "pass example_inputs= that run to load_network"
            with loading("The network does not run on its example inputs", self._loaded.where, fix):
                seen = self._look(set(wanted.values()), call)
        return {site: seen[place] for site, place in wanted.items()}

    def widths(self, sites: Sequence[Site]) -> dict[Site, int]:
        """`Network.widths`."""
        for site, seen in self.survey([site for site in sites if site not in self._widths]).items():
            problem = seen.problem(None)
            if problem is not None:
                raise InputError(f"The site {site} has no width: {problem}", fix="name another site")
            assert seen.shape is not None
            self._widths[site] = width_of(seen.shape[-1], site)
        return {site: self._widths[site] for site in sites}

    def module_widths(self) -> dict[str, int]:
        """`Network.module_widths`."""
        names = [name for name in self._table.names(modules=True) if name not in self._table.named]
        tokens = self._facts.few_tokens.shape if self._facts.reads_tokens else None
        widths: dict[str, int] = {}
        for site, seen in self.survey(Site(path=name) for name in names).items():
            usable = seen.problem(tokens) is None and not seen.is_output
            if usable and (width := seen.width(site)) is not None:
                widths[site.path] = width
        return widths

    def know(self, places: Collection[Place], forward: Forward) -> dict[Place, Seen]:
        """The places, looked at first where nothing is known of them.

        Args:
            places: any.
            forward: runs the network where tokens do not, or do not reach a place: a vision tower's, say.
        """
        unknown = set(places) - self._seen.keys()
        if unknown and self._facts.reads_tokens:
            self._seen |= self._look_at_tokens(unknown)
            unknown = {place for place in unknown if self._seen[place].calls == 0}
        if unknown:
            self._seen |= self._look(unknown, forward)
        return {place: self._seen[place] for place in places}

    def layouts(self, places: Collection[Place], forward: Forward) -> dict[Place, Layout]:
        """How tensors become vectors, where their last axis is not the width."""
        return {place: at.layout for place, at in self.know(places, forward).items() if at.layout is not None}

    def late(self, pairs: Sequence[tuple[Site, Site]], forward: Forward | None = None) -> tuple[Site, Site] | None:
        """The first of some pairs (read, write) whose read a forward pass comes to later than to its write.

        Args:
            pairs: of what is read and what is written.
            forward: runs the network where tokens do not; None: its example inputs.

        Raises:
            InputError: it takes a pass to know, and the network came without `example_inputs`.
        """
        # What a module is given is read before any of it is edited, whichever heads or ports these are.
        pairs = [(a, b) for a, b in pairs if (a.path, a.port == "out") != (b.path, b.port == "out")]
        places = frozenset(place_of(site) for pair in pairs for site in pair)
        if places and places not in self._orders:
            seen = self._look_at_tokens(places) if self._facts.reads_tokens else {}
            if not seen or any(at.calls == 0 for at in seen.values()):
                seen = self._look(places, forward or self._calls.of_example())
            self._orders[places] = {place: seen[place].order for place in places}
        order = self._orders.get(places, {})
        return next(((a, b) for a, b in pairs if order[place_of(a)] > order[place_of(b)]), None)

    def check_order(self, pairs: Sequence[tuple[Site, Site]], forward: Forward | None = None) -> None:
        """Refuse reads that a forward pass comes to later than to a write that depends on them; arguments as `late`.

        Raises:
            InputError: names the two sites.
        """
        if late := self.late(pairs, forward):
            raise InputError(
                f"What is put at {late[1]} depends on {late[0]}, which comes later in the forward pass",
                where=self._loaded.where,
                fix="read sites that come before all that are written",
            )

    def _look(
        self, places: Collection[Place], forward: Forward, tokens: Sequence[int] | None = None
    ) -> dict[Place, Seen]:
        return survey(self._loaded.module, forward, places, tokens=tokens, head=self._readout.head)

    def _look_at_tokens(self, places: Collection[Place]) -> dict[Place, Seen]:
        tokens = self._facts.few_tokens
        return self._look(places, lambda: self._facts.forward(tokens), tokens.shape)
