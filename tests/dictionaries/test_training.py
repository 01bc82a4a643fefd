"""On planted sparse data: dictionaries learn, their knobs work, dead latents come back."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyseme.dictionaries import (
    ARCHITECTURES,
    BatchTopKConfig,
    GatedConfig,
    ISTAConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
)
from polyseme.dictionaries.engine import auxk
from polyseme.kernels import onednn
from polyseme.kernels.tuning import Tuning
from tests.dictionaries.reference import make_batch

D, FEATURES, N = 16, 32, 48


@functools.cache
def planted(rows=6000):
    """Vectors that are sums of about 2 of 32 directions in 16 dimensions, with coefficients in [0.5, 1.5]."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(FEATURES, D, generator=generator), dim=1)
    on = torch.rand(rows, FEATURES, generator=generator) < 2 / FEATURES
    return (on * (0.5 + torch.rand(rows, FEATURES, generator=generator))) @ directions


@functools.cache
def trained(config, coefficient=0.0, steps=120, batch=128):
    """A dictionary after some steps, its held-out FVU and its L0."""
    data = planted()
    dictionary = config.build(D, seed=1)
    dictionary.initialise(make_batch(data[:1000]))
    optimiser = torch.optim.Adam(dictionary.parameters().values(), lr=8e-3, fused=True)
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        rows = torch.randint(0, 5000, (batch,), generator=generator)
        dictionary.accumulate(
            make_batch(data[rows]), progress=step / steps, dead=None, coefficient=coefficient * min(1.0, step / 20)
        )
        optimiser.step()
        dictionary.after_step()
    held = data[5000:]
    z = dictionary.encode(held)
    error = (dictionary.decode(z) - held).square().sum() / (held - held.mean(0)).square().sum()
    return dictionary, float(error), float(z.l0.mean())


TINY = {
    "relu": (ReLUConfig(n_latents=N), 1.0),
    "topk": (TopKConfig(n_latents=N, k=3), 0.0),
    "batch_topk": (BatchTopKConfig(n_latents=N, k=3), 0.0),
    "jumprelu": (JumpReLUConfig(n_latents=N), 1.0),
    "gated": (GatedConfig(n_latents=N), 1.0),
    "ista": (ISTAConfig(n_latents=N, k=3), 0.0),
    "matryoshka": (MatryoshkaConfig(n_latents=N, k=3), 0.0),
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_planted_data_is_learned(name):
    config, coefficient = TINY[name]
    _, untrained, _ = trained(config, coefficient, steps=0)
    _, fvu, _ = trained(config, coefficient)
    assert fvu < 0.45
    assert fvu < 0.7 * untrained


@pytest.mark.parametrize("name", ["topk", "batch_topk", "ista", "matryoshka"])
def test_l0_outside_training_follows_k(name):
    found = [trained(ARCHITECTURES[name](n_latents=N, k=k))[2] for k in (1, 3, 6)]
    assert found == pytest.approx([1, 3, 6], rel=0.15)


@pytest.mark.parametrize("config", [ReLUConfig(n_latents=N), JumpReLUConfig(n_latents=N), GatedConfig(n_latents=N)])
def test_l0_falls_as_the_coefficient_rises(config):
    weak, middle, strong = (trained(config, coefficient)[2] for coefficient in (0.1, 1.0, 4.0))
    assert weak > 1.1 * middle
    assert middle > 1.1 * strong
    assert strong > 0.3


def test_jumprelu_thresholds_move_and_the_penalty_raises_them():
    start = JumpReLUConfig(n_latents=N).build(D, seed=1).parameters()["log_threshold"]
    weak = trained(JumpReLUConfig(n_latents=N), 0.1)[0].parameters()["log_threshold"]
    strong = trained(JumpReLUConfig(n_latents=N), 4.0)[0].parameters()["log_threshold"]
    assert (strong - start).abs().mean() > 0.1
    assert float(strong.mean()) > float(weak.mean()) + 0.1


@pytest.mark.parametrize("name", ["topk", "batch_topk", "jumprelu", "matryoshka"])
def test_auxk_gives_dead_latents_a_gradient_and_nothing_else_does(name):
    dictionary = trained(TINY[name][0], TINY[name][1])[0]
    p = dictionary.parameters()
    dead = torch.zeros(N, dtype=torch.bool)
    dead[:5] = True
    batch = make_batch(planted()[:200])
    # Dead latents: too weak to be chosen, yet with positive pre-activations.
    p["W_enc"][:5] *= 1e-3
    p["b_enc"][:5] = 1e-4
    without = dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.0)
    assert not without.fired[:5].any()
    assert not p["W_enc"].grad[:5].any()
    rest = p["W_enc"].grad[5:].clone()
    with_dead = dictionary.accumulate(batch, progress=0.0, dead=dead, coefficient=0.0)
    assert float(with_dead.aux) > 0
    assert (p["W_enc"].grad[:5].norm(dim=1) > 0).all()
    assert torch.equal(p["W_enc"].grad[5:], rest)
    none_dead = dictionary.accumulate(batch, progress=0.0, dead=torch.zeros_like(dead), coefficient=0.0)
    assert float(none_dead.aux) == 0


@given(n_latents=st.integers(1, 10**6), share=st.floats(0, 1))
def test_the_dead_are_filled_up_to_no_more_than_four_times_their_number(n_latents, share):
    n_dead = max(1, round(share * n_latents))
    width = auxk._width(n_dead, max(512, n_latents // 16))
    assert n_dead <= width <= max(4 * n_dead, 32)


@pytest.mark.parametrize("layout", [0.0, 1.0])
def test_dead_latents_make_few_shapes(layout, monkeypatch):
    private = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn.operation(torch.float32) is None:
        pytest.skip("this torch has no oneDNN linear")
    shapes = set()

    def counting(x, weight, *rest):
        shapes.add((x.shape, weight.shape))
        return private(x, weight, *rest)

    monkeypatch.setattr(onednn, "is_fastest", lambda: True)
    monkeypatch.setattr(onednn, "operation", lambda _: functools.partial(onednn._by_pieces, counting))
    tuning = Tuning(max_dead_density=layout)
    dictionary = TopKConfig(n_latents=1024, k=3, k_aux=5).build(D, seed=0, tuning=tuning)
    dictionary.initialise(make_batch(planted()))
    for n in range(1, 1024, 13):
        dead = torch.arange(1024) < n
        dictionary.accumulate(make_batch(planted()[:300]), progress=0.0, dead=dead, coefficient=0.0)
    assert {x[0] for x, _ in shapes} <= {2**i for i in range(4, 11)}
    assert len(shapes) <= 80  # 240 and 480 if each number of dead latents made its own


def test_matryoshka_prefixes_reconstruct_alone():
    """The first quarter of a Matryoshka dictionary explains more than a quarter of BatchTopK's latents does."""

    def prefix_fvu(dictionary):
        held = planted()[5000:]
        z = dictionary.encode(held).dense()
        z[:, N // 4 :] = 0
        out = z @ dictionary.write_directions() + dictionary.folded().parameters()["b_dec"]
        return float((out - held).square().sum() / (held - held.mean(0)).square().sum())

    nested = trained(MatryoshkaConfig(n_latents=N, k=3, prefixes=(0.25, 1.0)))[0]
    plain = trained(BatchTopKConfig(n_latents=N, k=3))[0]
    assert prefix_fvu(nested) < prefix_fvu(plain) - 0.05


def test_topk_statistics_are_those_of_the_batch():
    dictionary, _, _ = trained(TopKConfig(n_latents=N, k=3))
    batch = make_batch(planted()[:100])
    stats = dictionary.accumulate(batch, progress=1.0, dead=None, coefficient=0.0)
    error = (dictionary.reconstruct(batch.x) - batch.x).square().sum()
    want = float(error / (batch.x - batch.x.mean(0)).square().sum())
    assert float(stats.sse / stats.total) == pytest.approx(want, rel=1e-4)
    assert float(stats.loss) == pytest.approx(float(stats.sse) / (100 * D), rel=1e-5)
    assert torch.equal(stats.fired, (dictionary.encode(batch.x).dense() != 0).sum(0))
    assert float(stats.l0) == pytest.approx(float(stats.fired.sum()) / 100)


def test_repeated_steps_do_not_add_up():
    dictionary = TopKConfig(n_latents=N, k=3).build(D, seed=0)
    batch = make_batch(planted()[:50])
    dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.0)
    first = dictionary.parameters()["W_enc"].grad.clone()
    dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.0)
    assert torch.equal(dictionary.parameters()["W_enc"].grad, first)
