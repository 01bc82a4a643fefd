"""Text continued by the network and by the patched network, from the same prompts and with the same noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from polyseme.activations.massive import Ordinary
from polyseme.core.binding import Binding, located_keys
from polyseme.core.config import Config, Seed
from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.corpora.special import ending_ids
from polyseme.dictionaries import Reconstructor
from polyseme.evaluation.passes import Runner
from polyseme.evaluation.patching import clean_reads, patch_edits
from polyseme.evaluation.sweep import check_width
from polyseme.kernels.shield import shielded


class ContinuationConfig(Config):
    """How text is continued."""

    n_prompts: int = Field(default=4, ge=0, le=1000)
    """Number of held-out prompts, which `seed` draws."""
    prompt_tokens: int = Field(default=48, ge=1, le=2**20)
    """Length of each prompt: the first tokens of a window."""
    new_tokens: int = Field(default=40, ge=1, le=2**16)
    """Number of tokens written after each prompt."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """At 0 the likeliest token is taken; above 0 tokens are sampled, with the same noise for both networks."""
    seed: Seed = 0
    """Seed for the choice of prompts and for the noise."""


@dataclass(frozen=True)
class Continuation:
    """One prompt and how each network continued it.

    Attributes:
        document: name of the prompt's document (of its last token).
        prompt: its text.
        clean, patched: what each network wrote.
        true: how the document continues, up to the end of its window or document.
        clean_tokens, patched_tokens: the same, token by token; shorter where a special token ended the text.
        diverges_at: index of the first written token that differs; None where all agree.
        agreement: share of the positions at which both wrote the same token.
    """

    document: str
    prompt: str
    clean: str
    patched: str
    true: str
    clean_tokens: tuple[str, ...]
    patched_tokens: tuple[str, ...]
    diverges_at: int | None
    agreement: float


@shielded
def continue_text(
    network: Runner,
    windows: Windows,
    dictionaries: Mapping[Any, Reconstructor],
    *,
    trained_on: Mapping[Site, Ordinary] | None = None,
    tokenizer: Any | None = None,
    config: ContinuationConfig | None = None,
    reporter: Reporter | None = None,
) -> list[Continuation]:
    """Continue held-out prompts with the network and with every site patched at once.

    At temperature T the next token is argmax(logits / T + g) with Gumbel noise g that both networks share, which
    draws each from its own softmax: the texts part only where their predictions do.

    Args:
        network: a causal language model.
        windows: held-out tokens the prompts are taken from.
        dictionaries: by binding, all patched in the same pass, at every token that is not special.
        trained_on: what selects the vectors of a site that training left in; the others are not patched.
        tokenizer: the network's own by default.
        config: prompts, length, temperature.
        reporter: receives how many tokens are written.

    Raises:
        InputError: the network is not causal or has no tokenizer, a width is not that of the sites, a site is read,
            and not written, after one that depends on it, the context is too short, or no window holds a whole prompt.
    """
    config = config or ContinuationConfig()
    dictionaries = located_keys(dictionaries, network)
    tokenizer = tokenizer if tokenizer is not None else getattr(network, "tokenizer", None)
    _check(network, tokenizer, dictionaries, config)
    rows = _prompts(windows, config)
    prompt = torch.from_numpy(windows.tokens[rows, : config.prompt_tokens].astype(np.int64))
    counted = torch.from_numpy(~windows.special[rows, : config.prompt_tokens])
    special, hidden = ending_ids(tokenizer)  # not padding's: an ordinary word may serve for it
    progress = (reporter or Silent()).task("text, clean and patched", 2 * config.new_tokens, "tokens")
    crossed = clean_reads(network, dictionaries)

    def patches(tokens: Tensor, counted: Tensor) -> Mapping[Site, Any]:
        held = network.read(tokens, crossed) if crossed else None
        return patch_edits(network, dictionaries, dict.fromkeys(dictionaries, counted), trained_on, held)

    clean = write_on(network, prompt, counted, lambda *_: {}, special, config, progress.update)
    patched = write_on(
        network,
        prompt,
        counted,
        patches,
        special,
        config,
        lambda written: progress.update(config.new_tokens + written),
    )
    start, stop = config.prompt_tokens, config.prompt_tokens + config.new_tokens
    true = [_rest(windows, int(row), start, stop) for row in rows]
    documents = [windows.names[d] for d in windows.document[rows, start - 1]]
    return [
        _side_by_side(tokenizer, *parts, hidden)
        for parts in zip(documents, prompt.tolist(), clean, patched, true, strict=True)
    ]


def _check(
    network: Runner,
    tokenizer: Any | None,
    dictionaries: Mapping[Binding[Site], Reconstructor],
    config: ContinuationConfig,
) -> None:
    for binding, dictionary in dictionaries.items():
        check_width(network, str(binding), binding, dictionary)
    clean_reads(network, dictionaries)
    if not network.predicts_tokens:
        raise InputError("this network does not predict the next token, so it cannot continue text")
    if tokenizer is None:
        raise InputError("the network came without a tokenizer, so its text cannot be shown", fix="pass tokenizer=")
    context = getattr(network, "context", None)
    if context is not None and config.prompt_tokens + config.new_tokens > context:
        raise InputError(
            f"a prompt of {config.prompt_tokens} tokens and {config.new_tokens} new ones exceed the context, {context}",
            where="continuation",
            fix=f"let prompt_tokens and new_tokens add up to at most {context}",
        )


def _prompts(windows: Windows, config: ContinuationConfig) -> Int[np.ndarray, " prompt"]:
    """Windows that hold a whole prompt ending in a counted token, drawn by the seed, in window order."""
    n = config.prompt_tokens
    if n < 1 or windows.tokens.shape[1] < n:
        raise InputError(
            f"a prompt of {n} tokens does not fit windows of {windows.tokens.shape[1]}",
            where="continuation",
            fix="set prompt_tokens to at most the context of the corpus",
        )
    whole = np.flatnonzero((windows.document[:, :n] >= 0).all(1) & ~windows.special[:, n - 1])
    if not len(whole):
        raise InputError(
            f"no held-out window holds a prompt of {n} tokens", where="continuation", fix="set a smaller prompt_tokens"
        )
    rng = np.random.default_rng(derive_seed(config.seed, "prompts"))
    return np.sort(rng.choice(whole, min(config.n_prompts, len(whole)), replace=False))


def write_on(
    network: Runner,
    prompt: Int[Tensor, "prompt token"],
    counted: Bool[Tensor, "prompt token"],
    edits: Callable[[Tensor, Tensor], Mapping[Site, Any]],
    special: set[int],
    config: ContinuationConfig,
    advance: Callable[[int], None],
) -> list[list[int]]:
    """Tokens written after each prompt, each list ending with its first special token, if any.

    Args:
        network: run once a token, over the whole text so far.
        prompt: prompts of one length.
        counted: which of their tokens are not special.
        edits: from the tokens of the text so far, and which of them are counted, to the edits of a pass.
        special: ids that end a text.
        config: length, temperature and noise.
        advance: receives the number of tokens written so far.
    """
    tokens = prompt
    stops = torch.tensor(sorted(special), dtype=torch.int64)
    generator = make_generator(config.seed, "noise")
    with torch.inference_mode():
        for n_written in range(1, config.new_tokens + 1):
            last = torch.zeros_like(tokens, dtype=torch.bool)
            last[:, -1] = True
            logits = network.run(tokens, edits=edits(tokens, counted), logits_at=last).logits.float().cpu()
            if config.temperature > 0:
                uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float32).clamp(1e-12, 1 - 1e-7)
                logits = logits / config.temperature - (-uniform.log()).log()
            chosen = logits.argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, chosen], dim=1)
            counted = torch.cat([counted, ~torch.isin(chosen, stops)], dim=1)
            advance(n_written)
    written = tokens[:, prompt.shape[1] :].tolist()
    return [_until_special(row, special) for row in written]


def _until_special(tokens: list[int], special: set[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in special), len(tokens) - 1)
    return tokens[: end + 1]


def _rest(windows: Windows, row: int, start: int, stop: int) -> list[int]:
    """What follows in the same document, up to its first special token."""
    same = windows.document[row, start:stop] == windows.document[row, start - 1]
    goes_on = same & ~windows.special[row, start:stop]
    n = int(goes_on.argmin()) if not goes_on.all() else len(goes_on)
    # A control token that the document spells out ends a text as it does where a network writes it.
    return windows.tokens[row, start : start + n + (n < len(same) and bool(same[n]))].tolist()


def _side_by_side(
    tokenizer: Any,
    document: str,
    prompt: list[int],
    clean: list[int],
    patched: list[int],
    true: list[int],
    hidden: set[int],
) -> Continuation:
    diverges, agreement = compared(clean, patched)

    def text(tokens: list[int]) -> str:
        return str(tokenizer.decode([token for token in tokens if token not in hidden]))

    return Continuation(
        document=document,
        prompt=text(prompt),
        clean=text(clean),
        patched=text(patched),
        true=text(true),
        clean_tokens=tuple(str(tokenizer.decode([token])) for token in clean),
        patched_tokens=tuple(str(tokenizer.decode([token])) for token in patched),
        diverges_at=diverges,
        agreement=agreement,
    )


def compared(clean: list[int], patched: list[int]) -> tuple[int | None, float]:
    """Where two texts part, None where they do not; and the share of positions at which both have the same token."""
    same = [a == b for a, b in zip(clean, patched, strict=False)]
    longest = max(len(clean), len(patched))
    diverges = next((i for i, equal in enumerate(same) if not equal), len(same) if len(same) < longest else None)
    return diverges, sum(same) / longest if longest else 1.0
