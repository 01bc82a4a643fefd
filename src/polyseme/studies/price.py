"""What a study needs, before anything is trained: memory, disk and tokens, and a refusal where it cannot fit."""

import math
from dataclasses import dataclass

import torch

from polyseme.core.errors import InputError
from polyseme.core.memory import available_memory
from polyseme.core.progress import Reporter
from polyseme.studies.config import StudyConfig

_FLOAT = 4
_GIGABYTE = 1e9
_STEP = 8e7
"""Bytes that a step takes whatever its size. Two TopK dictionaries of 4,096 and of 16,384 latents took 80 and 77 MB
beyond the arrays counted here."""
_UNKNOWN_L0 = 64
"""Active latents a vector, where neither k nor a target says how many there will be."""


@dataclass(frozen=True)
class Price:
    """What a study needs beside the network.

    Attributes:
        training: bytes on the network's device while dictionaries are trained: weights, gradients, Adam's two moments,
            and the vectors of one batch.
        harvest: bytes of the shuffle buffer.
        evaluation: bytes on the CPU after it: every dictionary, every held-out firing (by row and by column), and per
            document and latent the sums behind model-specificity.
        disk: bytes of the artifacts, with one checkpoint.
        tokens: that each dictionary is trained on.
    """

    training: float
    harvest: float
    evaluation: float
    disk: float
    tokens: int


def price(study: StudyConfig, widths: dict[str, int], *, n_documents: int, n_tokens: int, n_controls: int) -> Price:
    """What a study needs, from its config and what its network and corpus turned out to be.

    Args:
        study: the config.
        widths: of each site's vectors.
        n_documents: on the held-out side.
        n_tokens: of the train side that were packed.
        n_controls: controls the study is repeated on, with one seed each.
    """
    latents = {site: study.dictionary.width(width) for site, width in widths.items()}
    weights = sum(2.0 * latents[site] * (width + 1) + width for site, width in widths.items()) * _FLOAT
    seeds, width = len(study.seeds), float(sum(widths.values()))
    batch = study.training.batch_size * 8 * width * _FLOAT * seeds
    buffer = study.harvest.block_tokens * width * _FLOAT * (2 if study.harvest.prefetches else 1)
    l0 = study.training.target_l0 or study.dictionary.active_latents or _UNKNOWN_L0
    n_dictionaries = seeds + n_controls
    firings = study.tokens.heldout * l0 * 24.0 * len(widths) * n_dictionaries
    sums = n_documents * max(latents.values()) * 8.0 * 2 * (2 + n_controls) if n_controls and seeds > 1 else 0.0
    kept = weights * n_dictionaries
    cache = n_tokens * width * (2 if study.harvest.shard_dtype == "float16" else _FLOAT)
    return Price(
        training=4 * weights * seeds + batch + _STEP,
        harvest=buffer,
        evaluation=kept + firings + sums,
        disk=kept + 3 * weights * seeds + firings + (cache if study.harvest.cache == "disk" else 0.0),
        tokens=study.training.n_tokens or n_tokens,
    )


def check_price(
    study: StudyConfig,
    widths: dict[str, int],
    *,
    n_documents: int,
    n_tokens: int,
    n_controls: int,
    device: torch.device,
    reporter: Reporter,
) -> Price:
    """Say what a study needs; refuse what cannot fit, and dictionaries with more latents than tokens to learn from.

    Raises:
        InputError: the memory is too small, or there are fewer tokens than latents.
    """
    cost = price(study, widths, n_documents=n_documents, n_tokens=n_tokens, n_controls=n_controls)
    most = max(study.dictionary.width(width) for width in widths.values())
    if cost.tokens < most:
        raise InputError(
            f"{most:,} latents cannot be learned from {cost.tokens:,} tokens: that is less than one token a latent",
            where="dictionary.n_latents, training.n_tokens",
            fix=f"train on at least {most:,} tokens, or take fewer latents",
        )
    on_cpu = device.type != "cuda"
    needed = max((cost.training if on_cpu else 0.0) + cost.harvest, cost.evaluation)
    reporter.message(
        f"needs about {_size(needed)} of memory"
        + ("" if on_cpu else f" and {_size(cost.training)} on {device}")
        + f" beside the network, and {_size(cost.disk)} of disk; trains {cost.tokens:,} tokens"
    )
    _check(needed, available_memory(), "memory")
    if not on_cpu:
        _check(cost.training, float(torch.cuda.mem_get_info(device)[0]), f"memory of {device}")
    return cost


def _check(needed: float, free: float, what: str) -> None:
    if needed > free:
        raise InputError(
            f"the study needs about {_size(needed)} of {what}, and {_size(free)} is free",
            where="dictionary.n_latents, sites, seeds, training.batch_size, harvest.block_tokens, tokens.heldout",
            fix="take fewer latents, sites or seeds, a smaller batch or block, or fewer held-out tokens",
        )


def _size(size: float) -> str:
    return "no limit" if math.isinf(size) else f"{max(size, 1e7) / _GIGABYTE:,.2f} GB"
