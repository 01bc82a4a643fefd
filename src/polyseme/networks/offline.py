"""Nothing is fetched from a hub while a network is made or run, whatever transformers does by itself.

Some of transformers' models look for compiled kernels when they are made or first run, and the package `kernels`, where
it is installed, fetches those from a hub. Within `offline` it does not find any, and transformers computes in torch.
"""

import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, NoReturn

from torch import nn

_KERNELS = {"kernels": ("get_kernel",), "transformers.integrations.hub_kernels": ("get_kernel", "get_kernel_hub")}
"""Functions that fetch compiled code, by the modules that they are looked up in."""
_MARK = "_polyseme_offline"
_LOCK = threading.Lock()
_entered = 0
_before: list[tuple[Any, str, Any]] = []


@contextmanager
def offline() -> Generator[None]:
    """Nothing in this context reaches a hub. Contexts nest, and threads may overlap in them."""
    _enter()
    try:
        yield
    finally:
        _leave()


def keep_offline(module: nn.Module) -> None:
    """Make every pass of a module, and of its copies, one within `offline`; see `passing`."""
    setattr(module, _MARK, find_spec("kernels") is not None)


def passing(module: nn.Module) -> AbstractContextManager[None]:
    """The context of one pass: `offline` for a module that is kept so, where there is a package that could fetch."""
    return offline() if getattr(module, _MARK, False) else nullcontext()


def _enter() -> None:
    global _entered
    from huggingface_hub import constants

    with _LOCK:
        _entered += 1
        if _entered > 1:
            return
        changes: list[tuple[Any, str, Any]] = [(constants, "HF_HUB_OFFLINE", True)]
        for name, functions in _KERNELS.items():
            changes += [(sys.modules[name], f, _no_kernel) for f in functions if hasattr(sys.modules.get(name), f)]
        for owner, attribute, value in changes:
            _before.append((owner, attribute, getattr(owner, attribute)))
            setattr(owner, attribute, value)


def _leave() -> None:
    global _entered
    with _LOCK:
        _entered -= 1
        while _entered == 0 and _before:
            owner, attribute, value = _before.pop()
            setattr(owner, attribute, value)


def _no_kernel(*names: Any, **_: Any) -> NoReturn:
    # The exception that transformers takes for a kernel that does not exist.
    raise FileNotFoundError(f"kernels are not fetched: {names[0] if names else ''}")
