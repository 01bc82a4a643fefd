"""Attention patterns of any transformer, read in an ordinary pass, edits and all."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyseme.core.errors import InputError
from polyseme.kernels.shield import shielded
from polyseme.networks import Edit, Network
from polyseme.networks.passes import exclusive


@final
class Pattern(nn.Identity):
    """What a module of one's own passes its attention probabilities `[batch, head, query, key]` through.

    Its parent is the attention: for `copying_scores` it has linear maps `v_proj` and `o_proj`, as Llama's has.
    """


@shielded
def attention_patterns(
    network: Network, tokens: Int[Tensor, "batch position"], *, edits: Mapping[str, Edit] | None = None
) -> Float[Tensor, "layer batch head query key"]:
    """Every head's attention probabilities in one pass.

    Hugging Face models compute them in their eager attention, which the pass switches to and back; any other module
    shows them by passing them through a `Pattern`.

    Args:
        network: the transformer.
        tokens: ids.
        edits: as in `Network.run`.

    Raises:
        InputError: the network has no attention that shows its pattern.
    """
    found: dict[str, Tensor] = {}
    handles: list[Any] = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            pattern: Any = output[1] if isinstance(output, tuple) and len(output) > 1 else output
            # A layer around the attention passes the same pattern on: the innermost module comes first.
            if _is_pattern(pattern, tokens.shape) and not any(p is pattern for p in found.values()):
                found[name] = pattern

        return hook

    own = {name: part for name, part in network.module.named_modules() if isinstance(part, Pattern)}
    watched = own or dict(network.module.named_modules())
    with exclusive(network.module), _eager(network.module):
        try:
            handles += [part.register_forward_hook(keep(name)) for name, part in watched.items()]
            network.run(tokens, edits=edits)
        finally:
            for handle in handles:
                handle.remove()
    if not found:
        raise InputError(
            "no attention pattern was seen in a pass",
            where=type(network.module).__name__,
            fix="a transformer has one; a module of your own passes its probabilities through a heads.Pattern()",
        )
    return torch.stack([pattern.detach().float() for pattern in found.values()])


def _is_pattern(value: Any, shape: torch.Size) -> bool:
    batch, length = shape
    return (
        isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == batch and value.shape[2:] == (length,) * 2
    )


@contextmanager
def _eager(module: nn.Module) -> Generator[None]:
    switch = getattr(module, "set_attn_implementation", None)
    if not callable(switch):
        yield
        return
    config: Any = module.config
    before: str = config._attn_implementation
    switch("eager")
    try:
        yield
    finally:
        switch(before)
