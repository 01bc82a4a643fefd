"""How long the stages of a plan will take on this machine, from rates measured within seconds."""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from polyseme.activations.firings import Firings
from polyseme.core.batch import Batch
from polyseme.corpora import Windows
from polyseme.evaluation import stability
from polyseme.evaluation.recurrence import Sides, recurrence
from polyseme.evaluation.stability import EXACT
from polyseme.studies.price import IDS, UNKNOWN_L0
from polyseme.studies.stage import Stage, Work, Worker

_LEAST_SECONDS = 0.2
_TOKENS = 2048
_WORDS = 200
"""Kinds of tokens among these."""
_LATENTS = 4096
_MATCHED = 1024
"""Latents that are matched to measure how fast that is: the assignment takes seconds for more."""
_A_VALUE = 60
"""Operations on one prediction beside the products that it is a sum of, in multiply-adds: its sums over documents."""
_DENSE = 0.2
"""What a multiply-add of a dense factor takes of one of sparse firings."""


def matching_work(n: int, width: int) -> float:
    """Work of matching n directions with n others: the cosines, and the assignment where it is exact."""
    return float(n) ** 2 * (width + (n if n <= EXACT else 0))


def correlating_work(at: Worker, n: int, *, n_learn: float, n_heldout: float, n_others: int) -> float:
    """Work of predicting n latents from those of other dictionaries as wide, and of what tables make of them.

    For each other dictionary: products of firings, a factor of n latents' products, n predictions at every token. The
    tables take about as long as one more.
    """
    l0 = active_latents(at)
    return (n_others + 1) * (n_learn * l0**2 + _DENSE * n**3 + n_heldout * n * (l0 + _A_VALUE))


def active_latents(at: Worker) -> float:
    """Latents that fire at a token, as far as the config says."""
    return float(at.config.training.target_l0 or at.config.dictionary.active_latents or UNKNOWN_L0)


def firings_bytes(at: Worker, n_tokens: float, n_dictionaries: int) -> float:
    """Bytes of the firings of dictionaries over some tokens: a value and a latent each, and which tokens these are."""
    return n_dictionaries * n_tokens * (8.0 * active_latents(at) + IDS)


def heldout_documents_at_least(at: Worker) -> int:
    """The fewest documents that the held-out tokens can be of."""
    tokens = at.config.tokens
    return -(-tokens.heldout // min(tokens.heldout, tokens.heldout_document_tokens or tokens.heldout))


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second, in the units of `Work`."""

    tokenised: float
    read: float
    passed: float
    trained: float
    correlated: float
    matched: float

    @classmethod
    def measure(cls, at: Worker) -> "Rates":
        """Measure them on the study's own network and architecture, with a few passes and a few steps."""
        network, sites = at.network, list(at.sites.values())
        rows = max(1, _TOKENS // at.context)
        tokens = network.facts.drawing()(rows, at.context)
        width = network.width(sites[0])
        config = at.config.dictionary.model_copy(update={"n_latents": min(_LATENTS, at.config.dictionary.width(width))})
        dictionary = config.build(width, seed=0, device=network.device)
        vectors = network.read(tokens, sites[:1])[sites[0]].float().reshape(-1, width)
        none = torch.zeros(len(vectors), dtype=torch.int64)
        batch = Batch(vectors, vectors, token=none, document=none, position=none)
        coefficient = dictionary.penalty or 0.0

        def step() -> object:
            return dictionary.accumulate(batch, progress=0.5, dead=None, coefficient=coefficient)

        n = min(_MATCHED, dictionary.n_latents)
        directions = [
            torch.randn(n, width, dtype=torch.float32, generator=torch.Generator().manual_seed(i)) for i in range(2)
        ]
        tokens_of_a_document = at.config.tokens.heldout / heldout_documents_at_least(at)
        n_documents = max(2, round(_TOKENS / tokens_of_a_document))
        sides = [Sides(*(_firings(n, active_latents(at), n_documents, 2 * i + j) for j in range(2))) for i in range(3)]
        windows = _windows(n_documents)
        correlating = correlating_work(at, n, n_learn=_TOKENS, n_heldout=_TOKENS, n_others=2)
        text = Path(argparse.__file__).read_text(encoding="utf-8")
        ids = len(_encode(at, text))
        return cls(
            tokenised=ids / _seconds(lambda: _encode(at, text)),
            read=tokens.numel() / _seconds(lambda: network.read(tokens, sites)),
            passed=tokens.numel() / _seconds(lambda: network.logits(tokens)),
            trained=len(vectors) * width * dictionary.n_latents / _seconds(step),
            correlated=correlating
            / _seconds(lambda: recurrence(sides[0], sides[1:], {}, sides[0], (windows, windows), seed=0)),
            matched=matching_work(n, width) / _seconds(lambda: stability(directions[0], directions[1])),
        )

    def seconds(self, work: Work) -> float:
        """How long the work takes."""
        return sum(getattr(work, rate.name) / getattr(self, rate.name) for rate in fields(self))

    def of(self, stages: tuple[Stage[Any], ...], at: Worker) -> dict[Stage[Any], float]:
        """Seconds of each stage."""
        return {stage: self.seconds(stage.work(at)) for stage in stages}


def _firings(n_latents: int, l0: float, n_documents: int, seed: int) -> Firings:
    """Random firings over `_TOKENS` tokens."""
    rng, rows = np.random.default_rng(seed), np.arange(_TOKENS, dtype=np.int32)
    fires = rng.random((_TOKENS, n_latents), dtype=np.float32)
    matrix = csr_array(np.where(fires < l0 / n_latents, fires, 0))
    return Firings(matrix, rows % _WORDS, rows * n_documents // _TOKENS, rows, np.zeros_like(rows))


def _windows(n_documents: int) -> Windows:
    """The tokens that random firings are over, a window each."""
    rows = np.arange(_TOKENS, dtype=np.int32)[:, None]
    names = tuple(map(str, range(n_documents)))
    return Windows(rows % _WORDS, rows * n_documents // _TOKENS, rows < 0, names, np.ones(n_documents, dtype=np.int64))


def _encode(at: Worker, text: str) -> Any:
    tokenizer: Any = at.network.tokenizer
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _seconds(call: Callable[[], object]) -> float:
    """Seconds of the shortest of a few calls, after one that is not counted."""
    call()
    shortest, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < _LEAST_SECONDS:
        before = time.perf_counter()
        with torch.no_grad():
            call()
        shortest = min(shortest, time.perf_counter() - before)
    return shortest
