"""What goes into a network: checked before the pass, so that a mistake is a sentence and not an index error."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyseme.core.errors import InputError

Inputs = Tensor | Mapping[str, Any]
"""Token ids `[batch, position]`, a float tensor (pixels), or keyword inputs by name."""


def keyword_inputs(
    module: nn.Module,
    inputs: Inputs,
    given: Mapping[str, Tensor | None],
    context: Callable[[int], int | None],
) -> dict[str, Any]:
    """The keyword arguments a Hugging Face model is called with.

    Args:
        module: the model.
        inputs: a tensor becomes its main input.
        given: further inputs; None is left out.
        context: from the positions of a window to the most it may have.

    Raises:
        InputError: the wrong kind of tensor, tokens outside the vocabulary, too long a window, an input it lacks.
    """
    where = type(module).__name__
    accepted = accepted_inputs(module)
    if isinstance(inputs, Tensor):
        main = str(getattr(module, "main_input_name", "input_ids"))
        if (main == "input_ids") == inputs.is_floating_point():
            kind = "a float" if inputs.is_floating_point() else "an integer"
            raise InputError(
                f"This network reads {main}, and was given {kind} tensor",
                where=where,
                fix="give token ids to a text model and pixels to a vision model, or keyword inputs as a dict",
            )
        inputs = {main: inputs}
    kwargs: dict[str, Any] = {**inputs, **{name: value for name, value in given.items() if value is not None}}
    for name in kwargs:
        if name not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            raise InputError(f"This network takes no {name}", where=where, fix=f"it takes {', '.join(accepted)}")
    if kwargs.get("position_ids") is not None and "position_ids" not in accepted:
        raise InputError("This network takes no position_ids", where=where)
    if isinstance(kwargs.get("input_ids"), Tensor):
        _check_tokens(module, kwargs["input_ids"], kwargs.get("position_ids"), context)
    if "use_cache" in accepted:
        kwargs.setdefault("use_cache", False)
    return kwargs


def accepted_inputs(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward; none where it does not show them."""
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}


_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def declared_context(config: Any) -> int | None:
    """Most positions a window may have by a Hugging Face config; None where it says nothing."""
    for name in _CONTEXTS:
        value = getattr(_text_config(config), name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def declared_vocabulary(module: nn.Module) -> int | None:
    """How many token ids a Hugging Face model embeds, by its embedding or its config."""
    find = getattr(module, "get_input_embeddings", None)
    try:
        weight = getattr(find(), "weight", None) if callable(find) else None
    except (NotImplementedError, AttributeError):
        weight = None
    if isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[0] > 0:
        return weight.shape[0]
    value = getattr(_text_config(getattr(module, "config", None)), "vocab_size", None)
    return value if isinstance(value, int) and value > 0 else None


def special_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that mean something to the network or its tokenizer beside their text: padding, pictures, ends."""
    known: set[Any] = set(getattr(tokenizer, "all_special_ids", None) or ())
    for part in (config, _text_config(config)):
        for name, value in (vars(part) if part is not None else {}).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                known |= set(cast(list[Any], value) if isinstance(value, list) else [value])
    return frozenset(i for i in known if isinstance(i, int))


def _text_config(config: Any) -> Any:
    """The part of a config that is about text; the config itself where it has no parts."""
    find = getattr(config, "get_text_config", None)
    try:
        return find() if callable(find) else config
    except (ValueError, AttributeError):
        return config


def example_inputs(module: nn.Module) -> Inputs:
    """Small inputs that run through a Hugging Face model.

    Raises:
        InputError: the module is of another kind.
    """
    main = getattr(module, "main_input_name", None)
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    if main == "input_ids":
        is_encoder_decoder = "decoder_input_ids" in accepted_inputs(module)
        return {"input_ids": tokens, "decoder_input_ids": tokens} if is_encoder_decoder else tokens
    if main == "pixel_values":
        config: Any = getattr(module, "config", None)
        size = getattr(config, "image_size", 1)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        return torch.zeros(1, getattr(config, "num_channels", 3), *sides, dtype=dtype)
    raise InputError(
        "The width of a site is not known without a forward pass",
        where=type(module).__name__,
        fix="pass example_inputs= to load_network",
    )


def moved(inputs: Any, device: torch.device) -> Any:
    """The same inputs on `device`."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: moved(value, device) for name, value in cast(Mapping[str, Any], inputs).items()}
    return inputs


def _check_tokens(
    module: nn.Module, tokens: Tensor, position_ids: Tensor | None, context: Callable[[int], int | None]
) -> None:
    where = type(module).__name__
    if tokens.dim() != 2 or tokens.numel() == 0:
        raise InputError(
            f"Token ids have shape {tuple(tokens.shape)}", where=where, fix="give them as [batch, position]"
        )
    # A position that several tokens share (under a 4-D mask) counts once.
    n_positions = tokens.shape[1] if position_ids is None else int(position_ids.max()) + 1
    most = context(n_positions)
    if most is not None and n_positions > most:
        raise InputError(
            f"The window has {n_positions} positions, and this network's context is {most}",
            where=where,
            fix=f"give at most {most} tokens at a time; in a study, set the context to that",
        )
    vocabulary = declared_vocabulary(module)
    if vocabulary is not None and tokens.device.type == "cpu":
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= vocabulary:
            raise InputError(
                f"Token ids run from {low} to {high}, and this network's vocabulary has {vocabulary} entries",
                where=where,
                fix="tokenize with the network's own tokenizer",
            )
