"""Room for the vectors of a step, kept from step to step while a training lasts.

An allocator fills the place of a freed block with smaller ones, and the next block of a batch's size finds no hole that
is large enough: without this 25 MiB in use at a time grew to 66 held (`docs/decisions/0018-what-a-step-holds.md`).
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_kept: ContextVar[dict[tuple[str, torch.device], Tensor] | None] = ContextVar("kept", default=None)


@contextmanager
def reuse_buffers() -> Generator[None]:
    """Within it `scratch` hands out the same memory again."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def scratch(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous, uninitialised tensor of that shape; within `reuse_buffers` it overwrites the last of that name."""
    buffers = _kept.get()
    if buffers is None:
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    n_bytes, key = like.numel() * dtype.itemsize, (name, like.device)
    if key not in buffers or buffers[key].nbytes < n_bytes:
        buffers.pop(key, None)
        buffers[key] = torch.empty(n_bytes, dtype=torch.uint8, device=like.device)
    return buffers[key][:n_bytes].view(dtype).view(like.shape)
