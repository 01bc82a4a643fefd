"""Looks at arguments before anything is done with them."""

from collections.abc import Mapping
from typing import Any, cast

from polyseme.core.errors import InputError
from polyseme.core.validation import check_kind
from polyseme.dictionaries import LatentEncoder
from polyseme.networks import Network


def mapping_of(given: object, where: str) -> Mapping[Any, Any]:
    """What was given for some sites, where it says for which.

    Raises:
        InputError: it is no mapping.
    """
    if not isinstance(given, Mapping):
        what = f"an object of type {type(given).__name__} does not say which site it is for"
        raise InputError(what, where=where, fix='give a dict, {"blocks.2.resid_post": …}')
    return cast(Mapping[Any, Any], given)


def check_network(given: object) -> None:
    """Refuse what is no network.

    Raises:
        InputError: it is something else.
    """
    check_kind(given, Network, "network", where="network", fix='give polyseme.load_network("pylm")')


def check_dictionary(given: object, kind: type[Any] = LatentEncoder) -> None:
    """Refuse what is no dictionary.

    Args:
        given: anything.
        kind: what is called of it.

    Raises:
        InputError: it is something else.
    """
    fix = "give polyseme.load_dictionary(folder), or polyseme.train(…).dictionary"
    check_kind(given, kind, "dictionary", where="dictionary", fix=fix)
