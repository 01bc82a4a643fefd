"""Stopped and resumed at sizes where every way of selecting and learning is taken, each ends in the same bits.

What a step computes with is chosen by shapes, by data and by what a step before it found, and small sizes take one way
only. So each case names the ways that it must take, and they are watched.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from polyseme.core.binding import Binding
from polyseme.dictionaries import (
    ARCHITECTURES,
    BatchTopKConfig,
    GatedConfig,
    ISTAConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
    ista,
)
from polyseme.dictionaries.base import DictionaryBase
from polyseme.dictionaries.engine import auxk, engine, pieces, selection, step
from polyseme.dictionaries.engine.entries import SparseEntries
from polyseme.kernels import library as native
from polyseme.kernels.tuning import Tuning
from polyseme.training import Job, TrainingConfig, fit
from tests.training.planted import Planted, same_weights

D, N, ROWS, STEPS = 64, 2048, 384, 7
STOPS = (2, 3, 5)


class Vectors(Planted):
    """Vectors whose size changes from one batch to the next, and of a fourth of which one column is larger than all
    others, up to 300 times: products of bytes leave ever more candidates of those, and in the end prove nothing."""

    scales: tuple[float, ...] = (1.0,)
    stop_at: int | None = None
    outliers = True

    def batch(self, batch_size, index):
        if index == self.stop_at:
            raise KeyboardInterrupt
        batch = super().batch(batch_size, index)
        x = batch.acts["a"] * self.scales[index % len(self.scales)]
        if self.outliers:
            x[::4, 3] *= torch.logspace(0, 2.5, len(x[::4]))
        return dataclasses.replace(batch, acts={"a": x})


@dataclass
class Case:
    config: DictionaryBase
    ways: set[str]
    shift: float = 0.0
    """Added to the encoder's bias in standard deviations of a pre-activation, so that few latents are active."""
    scales: tuple[float, ...] = (1.0,)
    most_entries: int = 2**18
    compiled: bool = True
    outliers: bool = True


def case(kind: type[DictionaryBase], *ways: str, **options):
    config = {name: options.pop(name) for name in list(options) if name in kind.model_fields}
    return Case(kind.model_validate({"n_latents": N, **config}), set(ways), **options)


UNEVEN = (1.0, 1.3, 0.4, 8.0)
CASES = {
    "topk": case(TopKConfig, "bytes", "unproven row", "streamed", "auxk by entries", k=8),
    "topk, many dead": case(TopKConfig, "bytes", "auxk dense", k=8, k_aux=1500),
    "topk, floats": case(TopKConfig, "streamed", k=8, selection="fp32"),
    "topk, without loops": case(TopKConfig, "tiles", "auxk by entries", k=8, compiled=False),
    "batch_topk": case(BatchTopKConfig, "bytes", "unproven row", "guess kept", "auxk by entries", k=8),
    "batch_topk, uneven": case(BatchTopKConfig, "guess too high", "guess too low", "guess kept", k=8, scales=UNEVEN),
    "batch_topk, a fraction": case(BatchTopKConfig, "bytes", "auxk dense", k=7.5, k_aux=1500),
    "batch_topk, floats": case(BatchTopKConfig, "streamed", "guess kept", k=8, selection="fp32"),
    "batch_topk, without loops": case(BatchTopKConfig, "tiles", "guess kept", k=8, scales=UNEVEN, compiled=False),
    "matryoshka": case(MatryoshkaConfig, "bytes", "guess kept", "auxk by entries", k=8),
    "matryoshka, uneven": case(MatryoshkaConfig, "guess too high", "guess too low", k=8, scales=UNEVEN),
    "matryoshka, in pieces": case(MatryoshkaConfig, "pieces", k=8, most_entries=1000),
    "ista": case(ISTAConfig, "bytes", "second pass", "each vector's own", "guess kept", "auxk by entries", k=8),
    "ista, without loops": case(ISTAConfig, "tiles", "second pass", "guess kept", k=8, compiled=False),
    "relu": case(ReLUConfig, "dense"),
    "relu, sparse": case(ReLUConfig, "bytes", "by entries", shift=-2.2),
    "relu, tied": case(ReLUConfig, "dense", tie_weights=True),
    "relu, tied and sparse": case(ReLUConfig, "by entries", "pieces", tie_weights=True, shift=-2.2, most_entries=5000),
    "jumprelu": case(JumpReLUConfig, "bytes", "by entries", "auxk by entries", bandwidth=0.1, threshold=2.5),
    "jumprelu, dense": case(JumpReLUConfig, "dense", threshold=0.1),
    "jumprelu, too many for bytes": case(
        JumpReLUConfig, "bytes given up", "streamed", "by entries", bandwidth=0.02, threshold=1.35, outliers=False
    ),
    "gated": case(GatedConfig, "dense"),
    "gated, sparse": case(GatedConfig, "bytes", "by entries", "pieces", shift=-2.2, most_entries=5000),
    "gated, without loops": case(GatedConfig, "tiles", "by entries", shift=-2.2, compiled=False),
}
WAYS = {
    *("bytes", "unproven row", "bytes given up", "streamed", "tiles", "dense", "by entries", "pieces"),
    *("auxk by entries", "auxk dense", "guess kept", "guess too high", "guess too low"),
    *("second pass", "each vector's own"),
}
OF_BYTES = {"bytes", "unproven row", "bytes given up"}


def watch(monkeypatch) -> set[str]:
    """The ways that are taken from now on."""
    taken: set[str] = set()

    def around(place, name, see: Callable):
        whole = getattr(place, name)

        def watched(*args, **kwargs):
            result = whole(*args, **kwargs)
            taken.update(see(result, *args))
            return result

        monkeypatch.setattr(place, name, watched)

    def found(result, *_):
        return {"unproven row"} if bool((result.counts < 0).any()) and bool((result.counts >= 0).any()) else set()

    def by_int8(result, encoder, *_):
        return {"bytes"} if result is not None else {"bytes given up"} if encoder.in_bytes == [None] else set()

    def batch_top_k(result, encoder, k, guess):
        if not guess:
            return set()
        survivors = whole_above(encoder, 0.97 * guess, most=encoder.tuning.many * k / encoder.n_latents)
        encoder.in_bytes.clear()
        if survivors is None:
            return {"guess too low"}
        return {"guess too high" if len(survivors.pre) < round(k * len(encoder.x)) else "guess kept"}

    whole_above = selection._select_above
    around(selection.Int8, "_find", found)
    around(selection, "_by_int8", by_int8)
    around(selection, "streamed_top_k", lambda *_: {"streamed"})
    around(selection.compiled.Above, "finish", lambda *_: {"streamed"})
    around(selection, "top_k", lambda *_: {"tiles"})
    around(selection, "above", lambda *_: {"tiles"})
    around(step, "from_blocks", lambda *_: {"dense"})
    around(step, "from_entries", lambda *_: {"by entries"})
    around(engine, "looking_again", lambda result, encoder, *_: {"second pass"} if result is not encoder else set())
    around(ista, "select_top_k", lambda *_: {"each vector's own"})
    around(
        auxk, "_learn", lambda _, codes, *__: {"auxk by entries" if isinstance(codes, SparseEntries) else "auxk dense"}
    )
    cut = pieces.pieces

    def counted(*args):
        for i, piece in enumerate(cut(*args)):
            taken.update({"pieces"} if i else set())
            yield piece

    monkeypatch.setattr(step, "pieces", counted)
    whole = selection.select_batch_top_k
    monkeypatch.setattr(
        "polyseme.dictionaries.batch_topk.select_batch_top_k",
        lambda encoder, k, guess: (taken.update(batch_top_k(None, encoder, k, guess)), whole(encoder, k, guess))[1],
    )
    return taken


def train(case, folder=None, stop_at=None):
    tuning = Tuning(most_entries=case.most_entries, loops=case.compiled)
    dictionary = case.config.build(D, seed=0, tuning=tuning)
    if case.shift:
        spread = dictionary.read_directions().norm(dim=1)
        dictionary.parameters()["b_enc"].add_(case.shift * spread)
    config = TrainingConfig(
        n_tokens=ROWS * STEPS, batch_size=ROWS, lr=3e-3, dead_after=2 * ROWS, checkpoint_seconds=1e9
    )
    source = Vectors(d=D, n_features=3 * D, active=8.0, noise=0.1)
    source.scales, source.stop_at, source.outliers = case.scales, stop_at, case.outliers
    (trained,) = fit([Job("one", dictionary, Binding.at("a"), 0)], source, config, spreads={}, checkpoints=folder)
    return trained


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_way_is_resumed_to_the_same_bits(name, tmp_path, monkeypatch):
    case = CASES[name]
    has_bytes = native.usable() and bool(native.loaded().polyseme_int8_supported())
    with monkeypatch.context() as patch:
        taken = watch(patch)
        clean = train(case)
    expected = case.ways - (set() if has_bytes else OF_BYTES)
    assert expected <= taken, f"not taken: {expected - taken}; taken: {taken}"
    for stop in STOPS:
        with pytest.raises(KeyboardInterrupt):
            train(case, tmp_path, stop)
    resumed = train(case, tmp_path)
    assert same_weights(resumed.dictionary, clean.dictionary)
    assert resumed.history == clean.history


def test_the_cases_name_every_architecture_and_every_way():
    assert {case.config.model_dump()["architecture"] for case in CASES.values()} == set(ARCHITECTURES)
    assert set.union(*(case.ways for case in CASES.values())) == WAYS
