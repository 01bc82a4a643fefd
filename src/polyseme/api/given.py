"""Looks at arguments before anything is done with them."""

from collections.abc import Mapping
from typing import Any, cast

from polyseme.core.errors import InputError


def mapping_of(given: object, where: str) -> Mapping[Any, Any]:
    """What was given for some sites, where it says for which.

    Raises:
        InputError: it is no mapping.
    """
    if not isinstance(given, Mapping):
        what = f"an object of type {type(given).__name__} does not say which site it is for"
        raise InputError(what, where=where, fix='give a dict, {"blocks.2.resid_post": …}')
    return cast(Mapping[Any, Any], given)
