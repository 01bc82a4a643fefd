"""What is set for a process or a thread in torch and numpy changes no number: `shielded` functions set it aside.

A default dtype, autocast, a precision of products, a preferred library: each changes numbers, some only their last
bits, and none of them is part of the key under which a result is kept. So every way in from outside (a study, a fit, an
encoding, a pass of a network) runs with what a fresh process has, and what was found is put back; what belongs to the
process, by the last of several threads to leave. The number of threads is not touched: with it, last bits may change.
"""

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

import numpy as np
import torch

from polyseme.kernels import library as native

_NUMPY: Any = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_BUFSIZE = 8192


@final
class _Setting:
    """One setting of the process.

    Args:
        get, put: read it, set it.
        plain: what a fresh process has.
    """

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], object], plain: Any):
        self.get, self.put, self._plain = get, put, plain

    def is_plain(self) -> bool:
        return self.get() == self._plain

    def set_plain(self) -> None:
        self.put(self._plain)


def _attribute(owner: Any, name: str, plain: Any) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), plain)


class _Precision:
    """Precision of products of float32, for torch before 2.9."""

    def get(self) -> Any:
        return torch.get_float32_matmul_precision(), bool(torch.backends.cudnn.allow_tf32)

    def is_plain(self) -> bool:
        return self.get() == ("highest", True)

    def set_plain(self) -> None:
        self.put(("highest", True))

    def put(self, found: Any) -> None:
        torch.set_float32_matmul_precision(found[0])
        torch.backends.cudnn.allow_tf32 = found[1]


class _PrecisionTable(_Precision):
    """Precision of products of float32: a table that backends inherit from `generic`, and operations from backends,
    beside the older settings, which torch refuses to read where the two do not agree."""

    _pairs = tuple((backend, "all") for backend in ("generic", "cuda", "mkldnn"))
    _operations = tuple((backend, of) for backend in ("mkldnn", "cuda") for of in ("matmul", "conv", "rnn"))

    def __init__(self, read: Callable[[str, str], str], write: Callable[[str, str, str], object], *, has_cuda: bool):
        self._read, self._write = read, write
        self._looked_at = self._operations if has_cuda else self._operations[:3]

    def get(self) -> Any:
        found: dict[Any, Any] = {pair: self._read(*pair) for pair in (*self._pairs, *self._operations)}
        for name, read in (("product", torch.get_float32_matmul_precision), ("cudnn", self._cudnn)):
            try:
                found[name] = read()
            except RuntimeError:
                found[name] = None
        return found

    def is_plain(self) -> bool:
        for backend, of in self._looked_at:
            by_default = ("tf32",) if backend == "cuda" and of != "matmul" else ("none", "ieee")
            if self._read(backend, of) not in by_default:
                return False
        return True

    def set_plain(self) -> None:
        for pair in (*self._pairs, *self._operations):
            self._write(*pair, "none")
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True

    def put(self, found: Any) -> None:
        if found["product"] is not None:
            torch.set_float32_matmul_precision(found["product"])
        if found["cudnn"] is not None:
            torch.backends.cudnn.allow_tf32 = found["cudnn"]
        for pair in (*self._pairs, *self._operations):
            for value in ("none", found[pair]):  # as inherited, where that is what it was
                if self._read(*pair) != found[pair]:
                    self._write(*pair, value)

    @staticmethod
    def _cudnn() -> bool:
        return torch.backends.cudnn.allow_tf32


@functools.cache
def _settings() -> list[_Setting | _Precision]:
    backends: Any = torch.backends
    private: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    has_cuda = torch.cuda.is_available()
    read = getattr(private, "_get_fp32_precision_getter", None)
    settings: list[_Setting | _Precision] = [
        _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
        _Setting(torch.is_anomaly_enabled, torch.set_anomaly_enabled, False),
        _Setting(backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled, True),
        _Setting(backends.cuda.flash_sdp_enabled, backends.cuda.enable_flash_sdp, True),
        _Setting(backends.cuda.math_sdp_enabled, backends.cuda.enable_math_sdp, True),
        _attribute(backends.mkldnn, "enabled", True),
        _attribute(backends.mkldnn, "deterministic", False),
        _PrecisionTable(read, private._set_fp32_precision_setter, has_cuda=has_cuda) if read else _Precision(),
    ]
    if backends.opt_einsum.is_available():
        settings.append(_attribute(backends.opt_einsum, "enabled", True))
        settings.append(_attribute(backends.opt_einsum, "strategy", "auto"))
    if has_cuda:
        cuda, products = backends.cuda, backends.cuda.matmul
        settings += [
            _Setting(cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, True),
            _Setting(cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, True),
            _Setting(cuda.fp16_bf16_reduction_math_sdp_allowed, cuda.allow_fp16_bf16_reduction_math_sdp, False),
            _attribute(products, "allow_fp16_reduced_precision_reduction", True),
            _attribute(products, "allow_bf16_reduced_precision_reduction", True),
            _attribute(backends.cudnn, "enabled", True),
            _attribute(backends.cudnn, "benchmark", False),
            _attribute(backends.cudnn, "deterministic", False),
        ]
        if hasattr(products, "allow_fp16_accumulation"):
            settings.append(_attribute(products, "allow_fp16_accumulation", False))
    return settings


@final
class _Process:
    """The settings of the process, set aside while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        self._changed: dict[int, Any] = {}

    def enter(self, who: object) -> None:
        with self._lock:
            self._inside.add(who)
            for i, setting in enumerate(_settings()):
                if not setting.is_plain():
                    self._changed.setdefault(i, setting.get())
                    setting.set_plain()

    def leave(self, who: object) -> None:
        with self._lock:
            self._inside.discard(who)
            while self._changed and not self._inside:
                i, found = self._changed.popitem()
                if _settings()[i].is_plain():  # else somebody has set it since
                    _settings()[i].put(found)


_process = _Process()
_thread = threading.local()


@final
class shield:  # noqa: N801  a context, as those of contextlib
    """Within it torch and numpy compute as in a fresh process, and gradients can be taken."""

    def __init__(self) -> None:
        self._stack: ExitStack | None = None

    def __enter__(self) -> None:
        try:
            _process.enter(self)
            for context in _of_thread():
                self._stack = self._stack or ExitStack()
                self._stack.enter_context(context)
        except BaseException:  # also an interrupt
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if self._stack is not None:
                self._stack.__exit__(kind, error, where)
        finally:
            _process.leave(self)


_P = ParamSpec("_P")
_R = TypeVar("_R")


def shielded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, called within `shield` whoever calls it."""
    assert not inspect.isgeneratorfunction(function), "a generator would leave the shield up between its values"

    @functools.wraps(function)
    def inside(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with shield():
            return function(*args, **kwargs)

    return inside


def _of_thread() -> Generator[AbstractContextManager[Any]]:
    """What sets this thread's own settings aside, where they are not those of a fresh one."""
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(mode=False)
    if not torch.is_grad_enabled():
        yield torch.enable_grad()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            yield torch.autocast(device, enabled=False)
    if torch.empty(0, dtype=torch.float32).device.type != "cpu":
        yield torch.device("cpu")
    if np.geterr() != _NUMPY:
        yield np.errstate(**_NUMPY)
    if np.getbufsize() != _BUFSIZE:
        yield _bufsize()
    if sys.float_info.min / 2 == 0:
        yield _denormals()
    elif not hasattr(_thread, "keeps_denormals"):
        native.keep_denormals()
        _thread.keeps_denormals = True


@contextmanager
def _bufsize() -> Generator[None]:
    found = np.setbufsize(_BUFSIZE)
    try:
        yield
    finally:
        np.setbufsize(found)


@contextmanager
def _denormals() -> Generator[None]:
    """Numbers below the smallest normal one are kept, here and in torch's pool."""
    torch.set_flush_denormal(False)
    try:
        native.keep_denormals()
        yield
    finally:
        torch.set_flush_denormal(True)
