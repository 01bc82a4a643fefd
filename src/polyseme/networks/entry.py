"""Networks of one's own by name: `package.module:function`, which is imported only where a user writes it."""

import importlib
import re
from typing import Any

from torch import nn

from polyseme.core.errors import InputError
from polyseme.networks.building import first_line

_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_entry_point(source: str) -> bool:
    """Whether a source has the form `package.module:function`."""
    return _ENTRY.fullmatch(source) is not None


def from_entry_point(source: str) -> tuple[nn.Module, Any | None]:
    """The module, and the tokenizer where there is one, that a function returns.

    Args:
        source: `package.module:function`.

    Raises:
        InputError: the module cannot be imported, or its function is missing, fails or returns something else.
    """
    name, _, function = source.partition(":")
    try:
        found = getattr(importlib.import_module(name), function, None)
    except Exception as error:
        raise InputError(
            f"The module {name} cannot be imported: {first_line(error)}",
            where=source,
            fix=f"check that `python -c 'import {name}'` works; the folder it lies in must be on PYTHONPATH",
        ) from error
    if not callable(found):
        raise InputError(f"The module {name} has no function {function}", where=source, fix="correct the name")
    try:
        made = found()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The function {function} failed: {type(error).__name__}: {first_line(error)}",
            where=source,
            fix="it is called with no arguments, and returns a module, or a module and its tokenizer",
        ) from error
    module, tokenizer = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"The function {function} returned a {type(made).__name__}",
            where=source,
            fix="return a torch.nn.Module, or a tuple of one and its tokenizer",
        )
    return module, tokenizer
