"""What a network is made of, as its loader found it and before anything is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from polyseme.networks.families import Family
from polyseme.networks.hooks import Repeated
from polyseme.networks.inputs import Inputs
from polyseme.networks.ladders import Rung


@dataclass(frozen=True)
class Loaded:
    """A module and what is known of it.

    Attributes:
        module: the network itself; passes leave it as it is.
        run: runs it; None for a Hugging Face model.
        family: its family; None where only module paths name sites.
        base: path of its base model, with a final dot or empty; the family's paths start there.
        tokenizer: None where there is none.
        causal, predicts_tokens, context: what takes the place of measurements; None: they are made.
        example_inputs: inputs that run, where they were given.
        repeated: what to do about a module that is called more than once in a pass.
        ladder: networks trained like it.
    """

    module: nn.Module
    run: Callable[[nn.Module, Any], Any] | None
    family: Family | None
    base: str
    tokenizer: Any | None
    causal: bool | None
    predicts_tokens: bool | None
    context: int | None
    example_inputs: Inputs | None
    repeated: Repeated
    ladder: tuple[Rung, ...] = ()

    @property
    def where(self) -> str:
        """What errors call it."""
        return type(self.module).__name__

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensor = next(self.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    @cached_property
    def config(self) -> Any:
        """The Hugging Face config of the base model, where there is one.

        A network that reads pictures too has a config of its own around the language model's.
        """
        return getattr(self.module.get_submodule(self.base.removesuffix(".")), "config", None)
