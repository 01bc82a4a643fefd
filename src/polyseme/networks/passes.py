"""One pass at a time through a module, in eval mode, whatever mode its owner has it in.

A pass hooks modules, and one that starts inside a network replaces forwards: another thread's pass would go through
both. A module that was handed to `load_network` belongs to its owner, who may be training it: it is in eval mode within
a pass only.
"""

import functools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

from torch import nn

from polyseme.kernels.shield import shield


@runtime_checkable
class _HasModule(Protocol):
    module: nn.Module


_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound=_HasModule)

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


@contextmanager
def exclusive(module: nn.Module) -> Generator[None]:
    """No other thread is in this context of the module, and every part of it is in eval mode; contexts nest."""
    with _guard:
        lock = _locks.setdefault(module, threading.RLock())
    with lock:
        if not any(part.training for part in module.modules()):
            yield
            return
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:  # from the outside in: `train` reaches every part of a part
                part.train(training)


def one_pass(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """A method that runs its object's `module`, within `shield` and `exclusive`."""

    @functools.wraps(method)
    def inside(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with shield(), exclusive(self.module):
            return method(self, *args, **kwargs)

    return inside
