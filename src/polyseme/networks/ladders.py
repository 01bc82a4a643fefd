"""Ladders: the networks trained like one network, of several sizes, that a compute-equivalent is read off.

A folder of a network may hold a `ladder.json` beside its `config.json`:

    {"rungs": [{"n_parameters": 54132, "heldout_ce_nats_per_token": 4.914}, …]}

one object for every network that was trained alike, the folder's own among them or between them. Other keys say how
they were trained, and are not read.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from polyseme.core.config import Record
from polyseme.core.errors import InputError
from polyseme.store import load_json

LADDER = "ladder.json"
_MOST_BYTES = 2**20


class Rung(Record):
    """One model of the ladder; all are trained alike, on the same tokens."""

    n_parameters: int
    """All its parameters, shared ones counted once."""
    ce: float
    """Its held-out cross-entropy, nats/token."""


def read_ladder(folder: Path, n_parameters: int) -> tuple[Rung, ...]:
    """The ladder beside a network; empty where there is none.

    Args:
        folder: of the network.
        n_parameters: of the network itself.

    Raises:
        InputError: the file is no ladder, has fewer than two sizes, or the network is smaller or larger than all of
            them.
    """
    path = folder / LADDER
    if not path.is_file():
        return ()
    fix = "correct the file, or take it out of the folder: without it no compute-equivalent is measured"
    value = load_json(path, _MOST_BYTES)
    try:
        rungs = tuple(
            Rung(n_parameters=rung["n_parameters"], ce=rung["heldout_ce_nats_per_token"]) for rung in value["rungs"]
        )
    except (ValidationError, KeyError, TypeError) as error:
        what = "this is no ladder: `rungs` with `n_parameters` and `heldout_ce_nats_per_token`"
        raise InputError(what, where=str(path), fix=fix) from error
    check_rungs(rungs, str(path), fix)
    sizes = [rung.n_parameters for rung in rungs]
    if not min(sizes) <= n_parameters <= max(sizes):
        what = (
            f"the network has {n_parameters:,} parameters, and its ladder reaches from {min(sizes):,} to {max(sizes):,}"
        )
        raise InputError(what, where=str(path), fix=fix)
    return rungs


def check_rungs(rungs: Sequence[Rung], where: str, fix: str = "give two models or more, each of another size") -> None:
    """Refuse what nothing can be read off: fewer than two sizes, a size twice, a size or cross-entropy that is none.

    Raises:
        InputError: it is that.
    """
    sizes = {rung.n_parameters for rung in rungs}
    if len(sizes) < max(2, len(rungs)):
        what = f"the ladder has {len(sizes)} different sizes in {len(rungs)} models"
        raise InputError(what, where=where, fix=fix)
    if min(sizes) <= 0 or not all(math.isfinite(rung.ce) for rung in rungs):
        raise InputError("a model of the ladder has no parameters or no measured CE", where=where, fix=fix)
