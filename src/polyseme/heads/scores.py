"""Which head does what: previous-token, prefix-matching (induction) and copying scores of every head."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from polyseme.core.config import Config, Seed
from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.core.stats import bootstrap_documents
from polyseme.heads.circuits import copying_scores
from polyseme.heads.patterns import attention_patterns
from polyseme.kernels.shield import shielded
from polyseme.networks import Network

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class HeadScoresConfig(Config):
    """The random sequences that heads are scored on."""

    n_sequences: int = Field(default=64, ge=1, le=2**20)
    """Number of sequences."""
    length: int = Field(default=50, ge=2, le=2**20)
    """Number of tokens in the random part of a sequence, which is then repeated."""
    bos: TokenId | None = None
    """Id of the token that opens every sequence; None for no such token."""
    vocabulary: tuple[TokenId, TokenId] | None = None
    """Range of the ids that are drawn, the first and one past the last; None for all that the network has."""
    seed: Seed = 0
    """Seed for the sequences and for the bootstrap over them."""


@shielded
def repeated_sequences(config: HeadScoresConfig, vocabulary: int) -> Int[Tensor, "sequence position"]:
    """Random tokens, then the same tokens again, after BOS where there is one.

    Raises:
        InputError: the range of ids is empty or beyond the vocabulary.
    """
    low, high = config.vocabulary or (0, vocabulary)
    if not 0 <= low < high <= vocabulary:
        raise InputError(f"ids {low} to {high} are not in a vocabulary of {vocabulary}", where="vocabulary")
    g = torch.Generator().manual_seed(config.seed)
    half = torch.randint(low, high, (config.n_sequences, config.length), generator=g)
    opening = [] if config.bos is None else [torch.full((config.n_sequences, 1), config.bos, dtype=torch.int64)]
    return torch.cat([*opening, half, half], dim=1)


@shielded
def previous_token(patterns: Float[Tensor, "*batch query key"]) -> Float[Tensor, "*batch"]:
    """Mean attention from position i to i − 1, over i ≥ 1."""
    return patterns.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)


@shielded
def prefix_matching(patterns: Float[Tensor, "*batch query key"], length: int) -> Float[Tensor, "*batch"]:
    """Mean attention, over the second half of a repeated sequence, to the token after the same token's first time.

    Olsson et al. 2022, In-context Learning and Induction Heads. The tokens before the repeat (BOS) do not matter.

    Args:
        patterns: attention on `repeated_sequences`.
        length: length of the part that is repeated.
    """
    # The query at t saw its token at t − length; what followed stands at t − length + 1.
    return patterns.diagonal(offset=1 - length, dim1=-2, dim2=-1)[..., -length:].mean(-1)


@shielded
def head_scores(network: Network, config: HeadScoresConfig | None = None) -> list[MetricRecord]:
    """Previous-token, prefix-matching and copying score of every head, with bootstrap intervals over sequences.

    The first two come with their value under uniform attention to all that a position sees. Copying is a property of
    the weights and has no interval; it is left out where the network's maps are not known.

    Args:
        network: a transformer on tokens.
        config: settings of the sequences.

    Raises:
        InputError: no attention, a sequence longer than the network's context, or ids outside its vocabulary.
    """
    config = config or HeadScoresConfig()
    embed = getattr(network.module, "get_input_embeddings", lambda: None)()
    if embed is None:
        raise InputError("heads are scored on token sequences, and this network embeds none")
    tokens = repeated_sequences(config, embed.weight.shape[0])
    if network.context is not None and tokens.shape[1] > network.context:
        raise InputError(
            f"{tokens.shape[1]} tokens do not fit into a context of {network.context}",
            where="length",
            fix=f"at most {(network.context - (config.bos is not None)) // 2}",
        )
    patterns = attention_patterns(network, tokens.to(network.device))
    seen = torch.arange(1, tokens.shape[1] + 1, dtype=torch.float64)
    if not network.causal:
        seen = torch.full_like(seen, tokens.shape[1])
    measured = {
        "previous_token": (previous_token(patterns), float((1 / seen[1:]).mean())),
        "prefix_matching": (prefix_matching(patterns, config.length), float((1 / seen[-config.length :]).mean())),
    }
    records: list[MetricRecord] = []
    for name, (scores, null) in measured.items():
        for layer, of_layer in enumerate(scores):
            for head, values in enumerate(of_layer.T):
                sums = torch.stack([values.cpu().double(), torch.ones(len(values), dtype=torch.float64)], dim=1).numpy()
                value, interval = bootstrap_documents(sums, lambda t: t[..., 0] / t[..., 1], seed=config.seed)
                records.append(
                    MetricRecord(
                        name=name,
                        value=value,
                        interval=interval.model_copy(update={"method": "bootstrap over sequences"}),
                        n=len(values),
                        n_unit="sequences",
                        scope={"layer": layer, "head": head},
                        details={"uniform_attention": null},
                    )
                )
    try:
        copying = copying_scores(network)
    except InputError:
        return records
    for layer, of_layer in enumerate(copying):
        for head, value in enumerate(of_layer):
            scope: dict[str, str | int] = {"layer": layer, "head": head}
            records.append(MetricRecord(name="copying", value=float(value), n=1, n_unit="heads", scope=scope))
    return records
