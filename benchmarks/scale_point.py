"""One point of a scaling curve, held at every step: run by `scaling.py` through `workers.py`.

    python scale_point.py SPEC.json

What trains is polyseme's own `fit`, on a source that makes each batch when it is asked for and keeps none. On "step" it
goes one step further and the answer is the milliseconds that took; on "memory" the answer is how much there is of what.
"""

import contextlib
import ctypes
import functools
import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from told import held, told
from torch import Tensor

from polyseme.activations import ActivationSource, HarvestConfig, LiveSource
from polyseme.core.batch import SiteBatch
from polyseme.core.binding import Binding
from polyseme.core.seeds import make_generator
from polyseme.dictionaries import ARCHITECTURES
from polyseme.dictionaries.engine.selection import Encoder, by_bytes
from polyseme.kernels import compiled
from polyseme.kernels.int8 import Int8
from polyseme.kernels.tiles import sort_by_latent
from polyseme.kernels.tuning import DEFAULT
from polyseme.training import Job, TrainingConfig, fit

MIB = 2**20
DIRECTIONS, ACTIVE = 2048, 16
COPIED = 128 * MIB
M_MMAP_THRESHOLD = -3
"""glibc's number for it, in malloc.h."""


@dataclass
class Spec:
    """What to time.

    Attributes:
        kind: `fit`; `live`, a fit on a network's activations; `product`, the encoder's alone; `own`, the product
            as the engine does it, by bytes or by floats in blocks, with nothing selected; `selection`, the top k of a
            block at hand, as often as a batch has blocks; `order`, a sort of a batch's entries by latent; `copy`.
        architecture: of the dictionaries; where none has a k, their target L0 is k.
        d, n_latents, k, batch_size, dictionaries: shape; 0 dictionaries read a live source and train nothing.
        n_tokens: that the training is planned for: it decides when a latent counts as dead.
        steps: batches a word, for `live`.
        live_only: give every block back to the system when it is freed, so that the highest memory is what was in use
            at a time, without what the allocator keeps.
        network, tokens, after: a GPT-2 folder, a `.npy` of token ids, and the block whose output is read, for `live`.
    """

    kind: str
    architecture: str = "topk"
    d: int = 0
    n_latents: int = 0
    k: int = 32
    batch_size: int = 4096
    dictionaries: int = 1
    n_tokens: int = 10_000 * 4096
    threads: int = 2
    steps: int = 1
    live_only: bool = False
    network: str = ""
    tokens: str = ""
    after: int = 0


@dataclass
class Turns:
    """Waits for the word, and answers.

    Args:
        talk: where to answer.
    """

    talk: Any
    baseline: dict[str, float] = field(default_factory=dict)
    dictionaries: list[Any] = field(default_factory=list)
    note: str = ""
    _begun: float | None = None

    def __iter__(self) -> Iterator[None]:
        while True:
            if self._begun is not None:
                self._say({"ms": 1e3 * (time.perf_counter() - self._begun)})
            self._begun = None
            while (word := sys.stdin.readline().strip()) != "step":
                if word != "memory":
                    sys.exit(0)
                self._say({**self._memory(), "note": self.note})
            self.begin()
            yield

    def begin(self) -> None:
        """Count from now on."""
        self._begun = time.perf_counter()

    def finish(self) -> None:
        """Answer for the last step of a training that came to its end, and for its memory."""
        next(iter(self), None)

    def _memory(self) -> dict[str, float]:
        """MiB of each part; `rest` is what is beyond the others at the highest."""
        parameters = [tensor for each in self.dictionaries for tensor in each.parameters().values()]
        size = sum(tensor.nbytes for tensor in parameters) / MIB
        gradients = sum(tensor.grad.nbytes for tensor in parameters if tensor.grad is not None) / MIB
        parts = {**self.baseline, "parameters": size, "gradients": gradients, "adam": 2 * gradients}
        peak = held()["peak"]
        return {**parts, "rest": peak - sum(parts.values()), "peak": peak}

    def _say(self, answer: dict[str, Any]) -> None:
        self.talk.write(json.dumps(answer) + "\n")
        self.talk.flush()


class Stream:
    """Vectors that are each a sum of a few of `DIRECTIONS`, made a batch at a time.

    Args:
        spec: shape.
        turns: waited for before each batch; None: none.
    """

    sites = ("site",)
    fingerprint = "benchmark"

    def __init__(self, spec: Spec, turns: Turns | None):
        self._turns, self.n_tokens, self.widths = turns, spec.n_tokens, {"site": spec.d}
        rows = torch.randn(DIRECTIONS, spec.d, generator=make_generator(0, "directions"))
        self._directions = torch.nn.functional.normalize(rows, dim=1)

    @property
    def nbytes(self) -> int:
        """Of what it keeps."""
        return self._directions.nbytes

    def draw(self, batch_size: int, index: int) -> Tensor:
        """Batch `index`, whatever was drawn before."""
        generator = make_generator(0, "batch", index)
        active = torch.randint(DIRECTIONS, (batch_size, ACTIVE), generator=generator)
        values = torch.rand(batch_size, ACTIVE, generator=generator)
        return torch.nn.functional.embedding_bag(active, self._directions, mode="sum", per_sample_weights=values)

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`; the clock does not run while a batch is made."""
        ids = torch.zeros(batch_size, dtype=torch.int64)
        steps = range(start, stop or self.n_tokens // batch_size)

        def made(step: int) -> SiteBatch:
            x = self.draw(batch_size, step)
            if self._turns is not None:
                self._turns.begin()
            return SiteBatch({"site": x}, ids, ids, ids)

        for step, _ in zip(steps, self._turns or itertools.repeat(None), strict=False):
            yield made(step)  # and kept by no name here


class Live:
    """A live source whose batches wait for the word; the clock runs while the network does.

    Args:
        source: of the batches.
        steps: batches a word.
        turns: waited for.
    """

    def __init__(self, source: LiveSource, steps: int, turns: Turns):
        self.sites, self.widths, self.n_tokens = source.sites, source.widths, source.n_tokens
        self.fingerprint = source.fingerprint
        self._source, self._steps, self._turns = source, steps, turns

    def batches(self, batch_size: int, *, start: int = 0, stop: int | None = None) -> Iterator[SiteBatch]:
        """As in `ActivationSource`."""
        inner = self._source.batches(batch_size, start=start, stop=stop)
        for _ in self._turns:
            for _ in range(self._steps):
                yield next(inner)


class Notes:
    """A reporter that keeps the last figures `fit` shows: FVU, L0, dead latents."""

    def __init__(self, turns: Turns):
        self._turns = turns

    def task(self, name: str, total: float, unit: str = "") -> "Notes":  # noqa: ARG002  a Reporter's signature
        return self

    def message(self, text: str) -> None:
        pass

    def update(self, done: float, total: float | None = None, note: str = "") -> None:  # noqa: ARG002
        self._turns.note = note


def train(spec: Spec, source: ActivationSource, turns: Turns | None) -> None:
    """One fit of all dictionaries, which ends with the words, or with the tokens."""
    kind = ARCHITECTURES[spec.architecture]
    has_k = "k" in kind.model_fields
    config = kind.model_validate({"n_latents": spec.n_latents, **({"k": spec.k} if has_k else {})})
    target_l0 = None if has_k else float(spec.k)
    built = [config.build(spec.d, seed=seed) for seed in range(spec.dictionaries)]
    site = source.sites[0]
    jobs = [
        Job(f"job{seed}", each, Binding.at(site), seed=seed, target_l0=target_l0) for seed, each in enumerate(built)
    ]
    reporter = None
    if turns is not None:
        turns.dictionaries, reporter = built, Notes(turns)
    settings = TrainingConfig(batch_size=spec.batch_size, n_tokens=spec.n_tokens)
    fit(jobs, source, settings, spreads={}, reporter=reporter)


def warmed(turns: Turns) -> None:
    """Note what imports take, and what the code and its threads take at their first use: a fit of next to nothing."""
    imports = held()["now"]
    small = Spec("fit", d=32, n_latents=256, k=4, batch_size=64, n_tokens=256)
    train(small, Stream(small, None), None)
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    turns.baseline = {"imports": imports, "first use": held()["now"] - imports}


def _fit(spec: Spec, turns: Turns) -> None:
    if spec.live_only:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**19)
    warmed(turns)
    stream = Stream(spec, turns)
    turns.baseline["stream"] = (stream.nbytes + 4 * spec.batch_size * spec.d) / MIB
    train(spec, stream, turns)
    turns.finish()


def _live(spec: Spec, turns: Turns) -> None:
    import numpy as np

    from polyseme.corpora.pack import Windows
    from polyseme.networks import load_network

    warmed(turns)
    network = load_network(spec.network, device="cpu")
    tokens = np.load(spec.tokens)
    nothing = np.zeros_like(tokens)
    windows = Windows(tokens, nothing, nothing.astype(bool), ("random",), np.ones(1, dtype=np.int64))
    # A block a word, and none made in the background while another process has its turn.
    config = HarvestConfig(block_tokens=spec.steps * spec.batch_size, prefetch=False)
    site = network.site(f"blocks.{spec.after}.resid_post")
    source = Live(LiveSource(network, windows, {"site": site}, config), spec.steps, turns)
    if spec.dictionaries:
        train(spec, source, turns)
    else:
        for _ in source.batches(spec.batch_size):
            pass


def _product(spec: Spec, turns: Turns) -> None:
    """By the fastest of torch's routines: MKL's into a kept buffer, oneDNN's in tiles of a few sizes."""
    weight = torch.nn.functional.normalize(torch.randn(spec.n_latents, spec.d), dim=1)
    x, rows = (
        torch.randn(spec.batch_size, spec.d),
        min(spec.batch_size, max(512, 4 * DEFAULT.tile_bytes // spec.n_latents)),
    )
    out, cached = torch.empty(rows, spec.n_latents), max(64, DEFAULT.tile_bytes // (4 * spec.n_latents))
    onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

    def mkl() -> None:
        for part in x.split(rows):
            torch.mm(part, weight.t(), out=out[: len(part)])

    def dnn(a_tile: int) -> None:
        for part in x.split(a_tile):
            onednn(part, weight, None, "none", [], "")

    def seconds(routine: Any) -> float:
        routine()
        begun = time.perf_counter()
        routine()
        return time.perf_counter() - begun

    by_onednn = [] if onednn is None else [functools.partial(dnn, size) for size in sorted({cached, 256, rows})]
    fastest = min(mkl, *by_onednn, key=seconds) if by_onednn else mkl
    for _ in turns:
        fastest()


def _own(spec: Spec, turns: Turns) -> None:
    weight = torch.nn.functional.normalize(torch.randn(spec.n_latents, spec.d), dim=1)
    encoder = Encoder(torch.randn(spec.batch_size, spec.d), weight, torch.zeros(spec.n_latents))
    if by_bytes(spec.batch_size, spec.n_latents, spec.d, spec.k):
        weights = Int8(encoder.x, weight, encoder.bias)
        for _ in turns:
            weights.above(encoder.x, torch.full_like(encoder.bias, 1e30), 1)
        return
    for _ in turns:
        for _ in encoder.blocks():
            pass


def _selection(spec: Spec, turns: Turns) -> None:
    rows, latents = min(DEFAULT.block[0], spec.batch_size), min(DEFAULT.block[1], spec.n_latents)
    # Each block another, or nothing of the second would be above what the first left; all of a row's stay in cache.
    tiles = [torch.randn(rows, latents) for _ in range(-(-spec.n_latents // latents))]
    bias = torch.zeros(latents)
    for _ in turns:
        for _ in range(-(-spec.batch_size // rows)):
            top = compiled.TopK(rows, spec.k)
            for i, tile in enumerate(tiles):
                top.take(slice(0, rows), tile, bias, i * latents)
            top.finish()


def _order(spec: Spec, turns: Turns) -> None:
    latents = torch.randint(spec.n_latents, (spec.batch_size * spec.k,), dtype=torch.int32)
    for _ in turns:
        sort_by_latent(latents, spec.n_latents)


def _copy(_spec: Spec, turns: Turns) -> None:
    old, new = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
    new.copy_(old)
    for _ in turns:
        new.copy_(old)


KINDS = {
    "fit": _fit,
    "live": _live,
    "product": _product,
    "own": _own,
    "selection": _selection,
    "order": _order,
    "copy": _copy,
}


def main() -> None:
    """Do as told."""
    spec, talk = told(Spec)
    with torch.no_grad():
        KINDS[spec.kind](spec, Turns(talk))


if __name__ == "__main__":
    main()
