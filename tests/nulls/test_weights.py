"""What each re-initialisation keeps and what it destroys."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor, nn

from polyseme.core.seeds import make_generator
from polyseme.networks import load_network
from polyseme.nulls.gaussian import GaussianReinit
from polyseme.nulls.permuted import PermutedWeights
from polyseme.nulls.spectrum import SpectrumReinit, turned
from polyseme.nulls.weights import WeightNull, randomise
from tests import tiny

KINDS: dict[str, type[WeightNull]] = {
    "gaussian": GaussianReinit,
    "spectrum": SpectrumReinit,
    "permuted": PermutedWeights,
}
MODELS = {
    "gpt2": tiny.tiny_gpt2,
    "llama": tiny.tiny_llama,
    "mamba": tiny.tiny_mamba,
    "bert": tiny.tiny_bert,
    "vit": tiny.tiny_vit,
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_model = pytest.mark.parametrize("model", MODELS)


def matrix(weight: Tensor) -> Tensor:
    """A weight as the matrix the docstring promises, in float64."""
    while weight.dim() > 2 and len(weight) == 1:
        weight = weight[0]
    return weight.double().flatten(1)


def both(model: str, kind: str, **config: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Parameters before and after, by their first name, and the record."""
    network = load_network(MODELS[model]())
    null, records = KINDS[kind](**config), []
    after = network.changed(lambda module, known: records.append(randomise(module, null, embeddings=known)), null.made)
    assert null.network(network).fingerprint != network.fingerprint
    return dict(network.module.named_parameters()), dict(after.module.named_parameters()), records[0]


def random_network(module: nn.Module, kind: str, **config: Any) -> Any:
    return KINDS[kind](**config).network(load_network(module))


def first_names(before: dict[str, Tensor], names: tuple[str, ...], tied: tuple[tuple[str, ...], ...]) -> list[str]:
    aliases = {name: next(n for n in group if n in before) for group in tied for name in group}
    return [aliases.get(name, name) for name in names]


@each_kind
@each_model
def test_statistics_are_kept_and_weights_are_not(model: str, kind: str) -> None:
    before, after, record = both(model, kind=kind, seed=3)
    assert record is not None
    replaced = first_names(before, record.replaced, record.tied)
    assert sorted(replaced + first_names(before, record.kept, record.tied)) == sorted(before)
    for name, old in before.items():
        new = after[name]
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        if name not in replaced:
            assert torch.equal(new, old), name
            assert old.dim() == 1, name
            continue
        a, b = matrix(old), matrix(new)
        if old.abs().max() > 0 and old.unique().numel() > 2:
            assert not torch.equal(a, b), name
        if kind == "gaussian":
            assert torch.allclose(a.mean(), b.mean(), atol=1e-7), name
            assert torch.allclose(a.std(correction=0), b.std(correction=0), rtol=1e-5), name
        elif kind == "permuted":
            assert torch.equal(a.flatten().sort().values, b.flatten().sort().values), name
        else:
            kept, had = torch.linalg.svdvals(b), torch.linalg.svdvals(a)
            assert torch.allclose(kept, had, rtol=1e-5, atol=1e-6 * float(had[0])), name


@each_kind
@each_model
def test_kept_embeddings_are_kept_bit_for_bit(model: str, kind: str) -> None:
    before, after, record = both(model, kind=kind, keep_embeddings=True)
    embeddings = {
        "gpt2": {"transformer.wte.weight", "transformer.wpe.weight"},
        "llama": {"model.embed_tokens.weight"},
        "mamba": {"backbone.embeddings.weight"},
        "bert": {f"bert.embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")},
        "vit": {
            "vit.embeddings.cls_token",
            "vit.embeddings.position_embeddings",
            "vit.embeddings.patch_embeddings.projection.weight",
        },
    }[model]
    kept = set(first_names(before, record.kept, record.tied))
    assert {name for name in kept if before[name].dim() > 1} == embeddings
    for name in embeddings:
        assert torch.equal(after[name], before[name]), name


def test_a_tied_unembedding_follows_the_token_embedding_and_one_of_its_own_does_not() -> None:
    tied = random_network(tiny.tiny_gpt2(), "spectrum", keep_embeddings=True)
    record = both("gpt2", "spectrum", keep_embeddings=True)[2]
    assert record.tied == (("lm_head.weight", "transformer.wte.weight"),)
    assert "lm_head.weight" in record.kept
    assert tied.module.lm_head.weight is tied.module.transformer.wte.weight
    drawn = random_network(tiny.tiny_gpt2(), "spectrum")
    assert drawn.module.lm_head.weight is drawn.module.transformer.wte.weight
    assert not torch.equal(drawn.module.lm_head.weight, tied.module.lm_head.weight)
    assert "lm_head.weight" in both("llama", "spectrum", keep_embeddings=True)[2].replaced


@each_kind
def test_the_seed_decides(kind: str) -> None:
    first, again = (both("gpt2", kind=kind, seed=5)[1] for _ in range(2))
    other = both("gpt2", kind=kind, seed=6)[1]
    name = "transformer.h.0.mlp.c_fc.weight"
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["transformer.h.1.mlp.c_fc.weight"])


@each_kind
def test_the_order_of_parameters_does_not_matter(kind: str) -> None:
    def make(names: str) -> nn.Module:
        module = nn.Module()
        for name in names:
            weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(ord(name)))
            module.register_parameter(name, nn.Parameter(weight))
        return module

    one, two = make("abc"), make("cb")
    for module in (one, two):
        randomise(module, KINDS[kind]())
    assert torch.equal(one.b, two.b)
    assert torch.equal(one.c, two.c)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_spectra_of_any_shape_are_kept(rows: int, columns: int, seed: int) -> None:
    module = nn.Linear(columns, rows, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    before = torch.linalg.svdvals(module.weight.detach())
    randomise(module, SpectrumReinit(seed=seed))
    assert torch.allclose(torch.linalg.svdvals(module.weight.detach()), before, rtol=1e-5, atol=1e-12)


def test_rotations_are_haar() -> None:
    identity = torch.eye(3, dtype=torch.float64)
    draws = torch.stack([turned(identity, 4, make_generator(0, "test", i)) for i in range(1000)])
    assert torch.allclose(draws.transpose(1, 2) @ draws, identity.expand(1000, 3, 3), atol=1e-10)
    # Entries of a Haar orthogonal matrix: mean 0, variance 1/n, E[x^4] = 3 / (n (n + 2)); without the sign correction
    # LAPACK's diagonal entries have a mean far from 0.
    assert draws.mean(0).abs().max() < 5 * 0.5 / 1000**0.5
    assert torch.allclose(draws.square().mean(0), torch.full((4, 3), 0.25, dtype=torch.float64), atol=0.05)
    assert torch.allclose(draws.pow(4).mean(0), torch.full((4, 3), 0.125, dtype=torch.float64), atol=0.05)


def drawn_before(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The law that the null must have, by the construction that says it plainly: U′SV′ᵀ with Haar U′ and V′."""
    singular = torch.linalg.svdvals(weight)

    def haar(rows: int) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(rows, len(singular), generator=generator, dtype=weight.dtype))
        return q * r.diagonal().sign()

    return (haar(weight.shape[0]) * singular) @ haar(weight.shape[1]).T


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (1, 6), (6, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 7], ids=["rank one", "full rank"])
def test_the_law_is_that_of_random_singular_directions(shape: tuple[int, int], rank: int) -> None:
    """Entries, projections and their products against the plain construction, by Kolmogorov and Smirnov's test."""
    rows, columns = shape
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    weight = weight.double()
    n = 1500
    new = torch.stack([SpectrumReinit().draw(weight, make_generator(0, "new", i)) for i in range(n)])
    old = torch.stack([drawn_before(weight, make_generator(0, "old", i)) for i in range(n)])
    left, right = torch.randn(rows, generator=generator).double(), torch.randn(columns, generator=generator).double()

    def looks(drawn: Tensor) -> dict[str, Tensor]:
        return {
            "first entry": drawn[:, 0, 0],
            "last entry": drawn[:, -1, -1],
            "projection": torch.einsum("nij,i,j->n", drawn, left, right),
            "row": drawn[:, 0].norm(dim=1),
            "column": drawn[:, :, -1].norm(dim=1),
            "product": drawn[:, 0, 0] * drawn[:, -1, -1],
            "trace": drawn.diagonal(dim1=1, dim2=2).sum(1),
        }

    for name, values in looks(new).items():
        # Rounded, so that what is the same number in every draw is tied in both samples.
        one, other = (x.round(decimals=9).numpy() for x in (values, looks(old)[name]))
        assert ks_2samp(one, other).pvalue > 1e-3, name


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8), (1, 9), (9, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("rank", [2, 40], ids=["rank two", "full rank"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_singular_values_are_kept_to_rounding(shape: tuple[int, int], rank: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    weight = weight.to(dtype)
    drawn = SpectrumReinit().draw(weight, generator)
    assert drawn.dtype == dtype
    assert drawn.shape == shape
    had, has = (torch.linalg.svdvals(x.double()) for x in (weight, drawn))
    assert float((had - has).abs().max()) < 10 * torch.finfo(dtype).eps * float(had[0])


def test_gaussian_entries_are_gaussian() -> None:
    module = nn.Linear(60, 60, bias=False)
    with torch.no_grad():
        module.weight.uniform_(2, 3, generator=torch.Generator().manual_seed(0))
    randomise(module, GaussianReinit())
    weight = module.weight.detach().flatten().double()
    standard = ((weight - weight.mean()) / weight.std()).sort().values
    cumulative = torch.special.ndtr(standard)
    # Kolmogorov's distance; 1.95 / sqrt(n) is its 0.1% point, and uniform entries are at 0.057.
    distance = (cumulative - torch.arange(1, 3601) / 3600).abs().max()
    assert distance < 1.95 / 60


def test_constant_and_single_entries_stay() -> None:
    module = nn.Linear(1, 1, bias=False)
    value = module.weight.detach().clone()
    randomise(module, GaussianReinit())
    assert torch.allclose(module.weight.detach(), value)


@each_kind
@each_model
def test_a_re_initialised_network_runs(model: str, kind: str) -> None:
    network = random_network(MODELS[model](), kind)
    inputs = torch.randn(1, 3, 16, 16) if model == "vit" else torch.arange(1, 6)[None]
    logits = network.logits(inputs)
    assert torch.isfinite(logits).all()
    assert not torch.allclose(logits, load_network(MODELS[model]()).logits(inputs), atol=1e-2)
