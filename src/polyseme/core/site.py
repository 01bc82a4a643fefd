"""Sites: the places in a network that are read or written."""

from typing import Literal

from pydantic import Field

from polyseme.core.config import Config, Location

Port = Literal["in", "out", "stream"]


class Site(Config):
    """A place in a network: a module path and its port.

    A dictionary's input and output are bound to sites by the study, never by the dictionary.
    """

    path: Location
    """Dotted module path, as in `nn.Module.get_submodule`: `transformer.h.2`."""
    port: Port = "out"
    """`in`: the module's first argument; `out`: what it returns (its first tensor, where it returns a tuple);
    `stream`: the tensor the module reads, wherever else it is read. `in` and `stream` read the same value, but an edit
    of `in` reaches this module alone, an edit of `stream` also the skip connection around it."""
    head: int | None = Field(default=None, ge=0, lt=2**20)
    """Attention head whose slice of the last axis is meant; None for the whole vector."""
    n_heads: int | None = Field(default=None, ge=1, le=2**20)
    """How many equal slices the last axis has; required with `head`."""

    def __str__(self) -> str:
        head = "" if self.head is None else f"[head {self.head}]"
        return f"{self.path}.{self.port}{head}"
