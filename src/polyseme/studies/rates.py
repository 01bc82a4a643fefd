"""How long the stages of a plan will take on this machine, from rates measured within seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from polyseme.core.batch import Batch
from polyseme.studies.stage import Stage, Work, Worker

_LEAST_SECONDS = 0.2
_TOKENS = 2048
_LATENTS = 4096


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second, in the units of `Work`."""

    tokenised: float
    read: float
    passed: float
    trained: float

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

        text = "The price of a study is measured on text like this one, word by word. " * 200
        ids = len(_encode(at, text))
        return cls(
            tokenised=ids / _seconds(lambda: _encode(at, text)),
            read=tokens.numel() / _seconds(lambda: network.read(tokens, sites)),
            passed=tokens.numel() / _seconds(lambda: network.logits(tokens)),
            trained=len(vectors) * width * dictionary.n_latents / _seconds(step),
        )

    def seconds(self, work: Work) -> float:
        """How long the work takes; NaN where some of it has no rate."""
        if not work.known:
            return math.nan
        names = ("tokenised", "read", "passed", "trained")
        return sum(getattr(work, name) / getattr(self, name) for name in names)

    def of(self, stages: tuple[Stage[Any], ...], at: Worker) -> dict[Stage[Any], float]:
        """Seconds of each stage."""
        return {stage: self.seconds(stage.work(at)) for stage in stages}


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
