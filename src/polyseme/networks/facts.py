"""What a network is: each fact is measured once, on first use, by `networks.measure`."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from polyseme.networks import measure
from polyseme.networks.inputs import Inputs, accepted_inputs, declared_context, declared_vocabulary, special_ids
from polyseme.networks.loaded import Loaded
from polyseme.networks.offline import passing
from polyseme.networks.passes import exclusive

FEW = 2
"""Token ids that any network has, for the first pass through one whose vocabulary is not known yet."""


@final
class Facts:
    """What passes over random tokens show of a network.

    What `load_network` was given takes the place of what would be measured, but for `causal_by_passes`.
    """

    def __init__(self, loaded: Loaded):
        self._loaded, self._module = loaded, loaded.module
        self._config = getattr(loaded.module, "config", None)
        self._longest: dict[int, int] = {}

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it reads one text with an encoder and another with a decoder."""
        return "decoder_input_ids" in accepted_inputs(self._module)

    @cached_property
    def reads_tokens(self) -> bool:
        """Whether its main input is token ids, and a pass needs nothing else."""
        if self.is_encoder_decoder or getattr(self._module, "main_input_name", "input_ids") != "input_ids":
            return False
        example = self._loaded.example_inputs
        if example is not None and not _is_tokens(example):
            return False
        draw = self.drawing(FEW)
        # Some pool neighbouring positions, and need more than two.
        return any(measure.runs(self.forward, draw(1, positions)) for positions in (2, 16))

    @property
    def causal(self) -> bool:
        """Whether position t sees only positions up to t; False for a network that reads no tokens."""
        return bool(self.causal_by_passes) if self._loaded.causal is None else self._loaded.causal

    @cached_property
    def causal_by_passes(self) -> bool | None:
        """Whether passes show that position t sees only positions up to t; None where they cannot show it."""
        if not self.reads_tokens:
            return None
        most = self.longest_window(min(self._measured_context or measure.LONG, measure.LONG))
        with exclusive(self._module):  # which is hooked
            ahead = measure.looks_ahead(self._module, self.forward, self.drawing(), most)
        return None if ahead is None else not ahead

    @cached_property
    def gives_logits(self) -> bool:
        """Whether it gives logits over the tokens it reads, at each of them."""
        positions = self.longest_window(measure.SHORT) if self.reads_tokens else 0
        if positions == 0:
            return False
        with exclusive(self._module):
            return measure.predicts(self._module, self.forward, self.drawing()(1, positions), self.vocabulary)

    @property
    def predicts_tokens(self) -> bool:
        """Whether it predicts the next token: it is causal, and gives logits over the tokens it reads at each."""
        given = self._loaded.predicts_tokens
        return self.causal and self.gives_logits if given is None else given

    @property
    def no_prediction(self) -> str | None:
        """Why it predicts no next token; None where it does."""
        if self.predicts_tokens:
            return None
        if self._loaded.predicts_tokens is not None:
            return "it was loaded with predicts_tokens=False"
        if self._loaded.causal is False and self.causal_by_passes:
            return "it was loaded with causal=False"
        if not self.reads_tokens:
            return "it does not read token ids alone"
        if not self.gives_logits:
            return "its output is not logits over its vocabulary at every token"
        if self.causal_by_passes is None:
            return "its outputs differ between equal rows of tokens, so nothing shows what they depend on"
        return None if self.causal_by_passes else "it sees later tokens"

    @property
    def vocabulary(self) -> int | None:
        """Token ids are below this; None where that is not known."""
        return self._tables.vocabulary

    @property
    def context(self) -> int | None:
        """Most positions a window may have; None where there is no limit.

        What `load_network` was given, else what the config says, or less where a table of positions is shorter: one
        whose first rows belong to padding (RoBERTa), say.
        """
        return self._measured_context if self._loaded.context is None else self._loaded.context

    @property
    def _measured_context(self) -> int | None:
        limits = [x for x in (declared_context(self._config), self._tables.context) if x is not None]
        return min(limits, default=None)

    @cached_property
    def few_tokens(self) -> Int[Tensor, "batch position"]:
        """Tokens the network runs on, of as unlike a number of rows and of positions as can be."""
        draw = self.drawing()
        sizes = [(2, 7), (2, 16), (2, 3), (1, 2), (2, 1), (1, 16)]
        return next((tokens for size in sizes if measure.runs(self.forward, tokens := draw(*size))), draw(1, 2))

    def longest_window(self, wanted: int) -> int:
        """The most positions up to `wanted` that run: one pass where that is `wanted`; 0 where not even one does."""
        if wanted not in self._longest:
            self._longest[wanted] = measure.longest(self.forward, self.drawing(), wanted)
        return self._longest[wanted]

    def forward(self, tokens: Tensor) -> Any:
        """A plain pass over token ids, which are not checked."""
        with exclusive(self._module), passing(self._module):
            if self._loaded.run is not None:
                return self._loaded.run(self._module, tokens)
            accepted = accepted_inputs(self._module)
            return self._module(input_ids=tokens, **({"use_cache": False} if "use_cache" in accepted else {}))

    def drawing(self, vocabulary: int | None = None) -> Callable[[int, int], Tensor]:
        """A function that draws token ids of two sizes, the same ones whenever it is made.

        Args:
            vocabulary: ids are below it where a Hugging Face model does not say; by default the measured one.
        """
        known = self.vocabulary if vocabulary is None else declared_vocabulary(self._module)
        special = special_ids(self._config, self._loaded.tokenizer)
        return measure.drawing(known or vocabulary or FEW, special, self._loaded.device)

    @cached_property
    def _tables(self) -> measure.Tables:
        known = declared_vocabulary(self._module)
        if not self.reads_tokens:
            return measure.Tables(known, None)
        found = measure.tables(self.forward, self.drawing(FEW), declared_context(self._config))
        return found if found.vocabulary is not None else measure.Tables(known, found.context)


def _is_tokens(example: Inputs) -> bool:
    return isinstance(example, Tensor) and example.dim() == 2 and example.dtype in (torch.int64, torch.int32)
