"""Calls of a network: its inputs are checked, moved to its device, and given to the module by name."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, final

from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.networks import measure
from polyseme.networks.facts import Facts
from polyseme.networks.inputs import Inputs, declared_context, example_inputs, keyword_inputs, moved
from polyseme.networks.loaded import Loaded
from polyseme.networks.offline import passing
from polyseme.networks.texts import Tokens


@final
class Calls:
    """Makes calls of one network."""

    def __init__(self, loaded: Loaded, facts: Facts):
        self._loaded, self._facts = loaded, facts

    def of(
        self, inputs: Inputs | Tokens, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Callable[[], Any]:
        """The call on these inputs, as `Network.run` describes them.

        Raises:
            InputError: the network does not take them.
        """
        loaded = self._loaded
        if isinstance(inputs, Tokens):
            if attention_mask is None and not bool(inputs.present.all()) and not self._facts.causal:
                attention_mask = inputs.present.long()
            inputs = inputs.ids
        if loaded.run is not None:
            if attention_mask is not None or position_ids is not None:
                raise InputError(
                    "A network with a run callable takes no attention_mask or position_ids",
                    fix="put them into the inputs its run callable gets",
                )
            run, there = loaded.run, moved(inputs, loaded.device)
            return lambda: run(loaded.module, there)
        if attention_mask is not None and attention_mask.dim() == 4:
            if not self.supports_4d_mask:
                raise InputError(
                    "This network does not take a [batch, 1, query, key] attention mask",
                    where=loaded.where,
                    fix="check network.supports_4d_mask, and run the sequences apart where it is False",
                )
            if attention_mask.is_floating_point():
                attention_mask = attention_mask.to(loaded.dtype)
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        kwargs = moved(keyword_inputs(loaded.module, inputs, given, self._context_for), loaded.device)

        def call() -> Any:
            with passing(loaded.module):
                return loaded.module(**kwargs)

        return call

    def of_example(self) -> Callable[[], Any]:
        """The call on inputs that run.

        Raises:
            InputError: none are known, and the network came without `example_inputs`.
        """
        return self.of(self._example)

    @cached_property
    def _example(self) -> Inputs:
        given = self._loaded.example_inputs
        return example_inputs(self._loaded.module) if given is None else given

    @cached_property
    def supports_4d_mask(self) -> bool:
        """Whether `attention_mask` may be an additive `[batch, 1, query, key]` that alone says who sees whom."""
        loaded, config = self._loaded, self._loaded.config
        is_inside = config is not getattr(loaded.module, "config", None)
        if loaded.run is not None or is_inside or loaded.family is None or not loaded.family.mask_4d:
            return False
        if getattr(config, "_attn_implementation", None) not in ("sdpa", "eager"):
            return False
        window: int | None = getattr(config, "sliding_window", None)
        if window is None or not getattr(config, "use_sliding_window", True):
            return True
        return self._facts.context is not None and window >= self._facts.context

    def _context_for(self, positions: int) -> int | None:
        """The context that a window of this many positions is checked against; measured where it may be too long."""
        given = self._loaded.context
        declared = declared_context(self._loaded.config) if given is None else given
        is_short = positions <= measure.SHORT if declared is None else 2 * positions <= declared
        return declared if is_short else self._facts.context
