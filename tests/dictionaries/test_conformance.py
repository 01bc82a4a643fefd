"""One suite over every architecture of the table: what any dictionary must do, as autoencoder and as transcoder."""

import inspect
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from polyseme.core.batch import Latents
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.dictionaries import (
    ARCHITECTURES,
    BatchTopKConfig,
    Dictionary,
    DictionaryConfig,
    ISTAConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    TopKConfig,
    Trainable,
    dictionary_metadata,
    load_dictionary,
    save_dictionary,
)
from polyseme.kernels.tuning import Tuning
from tests.dictionaries.reference import AUTOENCODERS, SMALL, codes, looked_again, make_batch, scramble

ALL = [
    (name, port)
    for name in sorted(SMALL)
    for port in ("autoencoder", "transcoder")
    if name not in AUTOENCODERS or port[0] == "a"
]


def vectors(rows, d, seed=0, scale=1.0, shift=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, d, generator=generator, dtype=torch.float64) * scale + shift).to(dtype)


def build(name, port, *, n=32, k=4, d=12, seed=0, dtype=torch.float32, steps=2):
    """A dictionary off its start, with data whose scale and mean are far from 1 and 0."""
    d_out = None if port == "autoencoder" else 7
    dictionary = SMALL[name](n, k).build(d, d_out, seed=seed, dtype=dtype)
    x = vectors(96, d, seed, 30.0, 100.0, dtype)
    batch = make_batch(x, None if d_out is None else vectors(96, 7, seed + 1, 0.02, -3.0, dtype))
    dictionary.initialise(batch)
    scramble(dictionary, seed)
    optimiser = torch.optim.Adam(dictionary.parameters().values(), lr=1e-2)
    for _ in range(steps):
        dictionary.accumulate(batch, progress=0.5, dead=None, coefficient=0.1)
        optimiser.step()
        optimiser.zero_grad()
        dictionary.after_step()
    return dictionary, batch


def test_the_table_holds_every_architecture():
    assert {name.split()[0] for name in SMALL} == set(ARCHITECTURES)
    adapter = TypeAdapter(DictionaryConfig)
    for name, config in ARCHITECTURES.items():
        assert type(adapter.validate_python({"architecture": name})) is config
        assert len(config.model_fields) <= 12
        assert all(field.description for field in config.model_fields.values())
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"architecture": "topk", "l1": 3})
    with pytest.raises(ValidationError):
        MatryoshkaConfig(prefixes=(0.5, 0.25, 1.0))
    with pytest.raises(ValidationError):
        TopKConfig(k=0)
    assert TopKConfig(expansion=4, k=8).build(6, seed=0).n_latents == 24


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_sparsity_is_set_by_k_or_bought_with_a_penalty(name):
    config = ARCHITECTURES[name]
    by_k = "k" in config.model_fields
    assert by_k != ("coefficient" in config.model_fields)
    made = config.model_validate({"n_latents": 8, **({"k": 3} if by_k else {"coefficient": 0.25})})
    for each in (made, made.build(5, seed=0)):
        assert (each.active_latents, each.penalty) == ((3, None) if by_k else (None, 0.25))
        assert each.has_coefficient != by_k


@pytest.mark.parametrize("size", [{"n_latents": 10}, {"expansion": 2}])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_no_dictionary_is_built_to_keep_more_latents_than_it_has(name, size):
    config = ARCHITECTURES[name]
    if "k" not in config.model_fields:
        assert config.model_validate(size).build(5, seed=0).n_latents == 10
        return
    assert config.model_validate({**size, "k": 10}).build(5, seed=0).n_latents == 10
    for seed in (0, None):
        with pytest.raises(InputError, match="10 latents cannot keep k = 11 of them active") as caught:
            config.model_validate({**size, "k": 11}).build(5, seed=seed)
        assert caught.value.where == "dictionary.k"
        assert "10 or less" in (caught.value.fix or "")


@pytest.mark.parametrize(("name", "port"), ALL)
def test_shapes_dtypes_and_the_latents_contract(name, port):
    dictionary, batch = build(name, port)
    assert isinstance(dictionary, Trainable)
    assert isinstance(dictionary, Dictionary)
    z = dictionary.encode(batch.x)
    assert z.n_rows == 96
    assert z.n_latents == dictionary.n_latents == 32
    assert z.values.dtype == torch.float32
    assert z.indices.dtype == torch.int32
    assert (z.values != 0).all()
    same_row = z.rows[1:] == z.rows[:-1]
    assert (z.indices[1:] > z.indices[:-1])[same_row].all()
    assert 0 < len(z.values) < 96 * 32
    out = dictionary.decode(z)
    assert out.shape == batch.y.shape
    assert torch.equal(out, dictionary.reconstruct(batch.x))
    assert dictionary.read_directions().shape == (32, 12)
    assert dictionary.write_directions().shape == (32, dictionary.d_out)
    assert set(dictionary.parameters()) < set(dictionary.tensors())


@pytest.mark.parametrize(("name", "port"), ALL)
def test_encode_and_decode_are_the_dense_maths_of_the_directions(name, port):
    dictionary, batch = build(name, port, dtype=torch.float64)
    folded = dictionary.folded()
    p = folded.parameters()
    z = folded.encode(batch.x).dense()
    u = batch.x if dictionary.is_transcoder else batch.x - p["b_dec"]
    pre = u @ folded.read_directions().T + p["b_enc"]
    if isinstance(folded.config, ISTAConfig):
        u = looked_again(folded.config, p, u, pre > folded.tensors()["first_threshold"])
        pre = u @ folded.read_directions().T + p["b_enc"]
    bound = folded.tensors().get("threshold")
    chosen = pre > bound if bound is not None else torch.zeros_like(pre).scatter(1, pre.topk(4).indices, 1.0)
    want = codes(folded, p, pre, chosen)
    torch.testing.assert_close(z, want, rtol=1e-9, atol=1e-9)
    out = want @ folded.write_directions() + p["b_dec"]
    torch.testing.assert_close(folded.reconstruct(batch.x), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "port"), ALL)
def test_folding_changes_nothing_but_where_the_scale_lives(name, port):
    dictionary, batch = build(name, port, dtype=torch.float64)
    folded = dictionary.folded()
    state = folded.tensors()
    assert float(state["scale_in"]) == float(state["scale_out"]) == 1
    assert not state["centre_in"].any()
    torch.testing.assert_close(folded.encode(batch.x).dense(), dictionary.encode(batch.x).dense(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded.reconstruct(batch.x), dictionary.reconstruct(batch.x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded.read_directions(), dictionary.read_directions())
    torch.testing.assert_close(folded.write_directions(), dictionary.write_directions())
    ones = torch.ones(32, dtype=torch.float64)
    torch.testing.assert_close(folded.write_directions().norm(dim=1), ones)
    torch.testing.assert_close(folded.parameters()["W_dec"].norm(dim=1), ones)

    # The same weights without their normalisation see (x − centre)/scale and answer in those units.
    own = dictionary.tensors()
    bare = dictionary.config.build(12, None if port == "autoencoder" else 7, seed=1, dtype=torch.float64)
    for key, tensor in bare.tensors().items():
        if not key.startswith(("scale", "centre")):
            tensor.copy_(own[key])
    x = (batch.x - own["centre_in"]) / own["scale_in"]
    want = bare.reconstruct(x) * own["scale_out"] + own["centre_out"]
    torch.testing.assert_close(folded.reconstruct(batch.x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_does_not_see_the_data_s_scale_or_shift(name):
    def fvu(scale, shift):
        x = vectors(128, 8, scale=1, dtype=torch.float64) * torch.linspace(0.3, 2, 8, dtype=torch.float64)
        batch = make_batch(x * scale + shift)
        dictionary = SMALL[name](24, 3).build(8, seed=0, dtype=torch.float64)
        dictionary.initialise(batch)
        optimiser = torch.optim.Adam(dictionary.parameters().values(), lr=3e-3)
        for _ in range(30):
            stats = dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.2)
            optimiser.step()
            dictionary.after_step()
        error = (dictionary.reconstruct(batch.x) - batch.x).square().sum()
        held = float(error / (batch.x - batch.x.mean(0)).square().sum())
        return float(stats.sse / stats.total), held, float(stats.loss)

    base = fvu(1.0, 0.0)
    for scale, shift in ((1000.0, 0.0), (0.001, 0.0), (1.0, 50.0), (1000.0, -3e4)):
        assert fvu(scale, shift) == pytest.approx(base, rel=1e-5)


@pytest.mark.parametrize(("name", "port"), ALL)
def test_saving_keeps_every_bit(name, port, tmp_path):
    dictionary, batch = build(name, port)
    before = {key: tensor.clone() for key, tensor in dictionary.tensors().items()}
    save_dictionary(tmp_path / "d", dictionary, {"site": "blocks.2", "n": 3})
    loaded = load_dictionary(tmp_path / "d")
    folded = dictionary.folded()
    assert loaded.config == dictionary.config
    assert loaded.is_transcoder == dictionary.is_transcoder
    for key, tensor in folded.tensors().items():
        assert torch.equal(loaded.tensors()[key], tensor), key
    assert torch.equal(loaded.reconstruct(batch.x), folded.reconstruct(batch.x))
    assert dictionary_metadata(tmp_path / "d") == {"site": "blocks.2", "n": 3}
    save_dictionary(tmp_path / "again", loaded)
    again = load_dictionary(tmp_path / "again")
    for key, tensor in loaded.tensors().items():  # folding what is folded changes nothing
        torch.testing.assert_close(again.tensors()[key], tensor, rtol=1e-6, atol=1e-6)
    for key, tensor in dictionary.tensors().items():
        assert torch.equal(tensor, before[key]), "saving is not allowed to change what is saved"


def test_damaged_and_false_files_say_what_and_where(tmp_path):
    dictionary, _ = build("topk", "autoencoder")
    folder = tmp_path / "d"
    with pytest.raises(InputError, match="no dictionary here"):
        load_dictionary(folder)
    save_dictionary(folder, dictionary)
    record = json.loads((folder / "dictionary.json").read_text())
    del record["record_sha256"]  # as earlier versions wrote it
    weights = (folder / "dictionary.safetensors").read_bytes()

    def refused(change, kind=DamagedArtifact):
        (folder / "dictionary.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(kind, match=str(folder)):
            load_dictionary(folder)
        (folder / "dictionary.json").write_text(json.dumps(record))

    refused({"kind": "something"})
    refused({"schema": 99}, InputError)
    refused({"d_in": 10**9})
    refused({"d_in": "wide"})
    refused({"d_in": -1})
    refused({"d_out": 3})
    refused({"dtype": "complex64"})
    refused({"config": {"architecture": "unheard of"}})
    refused({"config": {**record["config"], "n_latents": 10**12}})
    refused({"config": {"architecture": "relu", "n_latents": 32, "tie_weights": True}})
    refused({"config": {"architecture": "jumprelu", "n_latents": 32}})
    for content in (weights[:-7], b"", b"\x80\x04K\x01.", b"PK\x03\x04" + weights):
        (folder / "dictionary.safetensors").write_bytes(content)
        with pytest.raises(DamagedArtifact, match="safetensors"):
            load_dictionary(folder)
    (folder / "dictionary.safetensors").unlink()
    with pytest.raises(DamagedArtifact):
        load_dictionary(folder)
    (folder / "dictionary.json").write_text("{")
    with pytest.raises(DamagedArtifact):
        load_dictionary(folder)


@pytest.mark.parametrize(("name", "port"), ALL)
def test_decoder_rows_have_norm_one_after_a_step_where_constrained(name, port):
    dictionary, batch = build(name, port, steps=3)
    norms = dictionary.parameters()["W_dec"].norm(dim=1)
    if name == "relu":
        assert (norms - 1).abs().max() > 1e-3
        return
    torch.testing.assert_close(norms, torch.ones(32), rtol=1e-6, atol=1e-6)
    dictionary.accumulate(batch, progress=0.5, dead=None, coefficient=0.1)
    W_dec = dictionary.parameters()["W_dec"]
    assert W_dec.grad is not None
    along = (W_dec.grad * W_dec).sum(1)
    assert along.abs().max() <= 1e-5 * W_dec.grad.norm()


@pytest.mark.parametrize("name", sorted(SMALL))
def test_wrong_input_is_refused_before_any_work(name):
    dictionary, batch = build(name, "autoencoder")
    narrow = make_batch(vectors(4, 5))
    for act in (
        lambda: dictionary.encode(narrow.x),
        lambda: dictionary.reconstruct(vectors(0, 12)),
        lambda: dictionary.initialise(narrow),
        lambda: dictionary.accumulate(narrow, progress=0.0, dead=None, coefficient=0.0),
        lambda: dictionary.accumulate(make_batch(batch.x, vectors(96, 5)), progress=0.0, dead=None, coefficient=0.0),
        lambda: dictionary.decode(Latents.from_dense(torch.ones(2, 31))),
    ):
        with pytest.raises(InputError, match="Fix: "):
            act()


@pytest.mark.parametrize(("name", "port"), ALL)
@pytest.mark.parametrize("leading", [(), (96,), (8, 12), (2, 1, 48)], ids=str)
def test_latents_have_the_axes_of_the_vectors(name, port, leading):
    dictionary, batch = build(name, port)
    x = batch.x[:1].view(12) if leading == () else batch.x.view(*leading, 12)
    flat, z = dictionary.encode(x.reshape(-1, 12)), dictionary.encode(x)
    assert z.shape == (*leading, 32) == tuple(z.dense().shape)
    assert z.l0.shape == leading
    assert torch.equal(z.dense().view(-1, 32), flat.dense())
    assert torch.equal(torch.stack([z.of(latent) for latent in range(32)], -1), z.dense())
    assert torch.equal(Latents.from_dense(z.dense()).dense(), z.dense())
    y = dictionary.decode(z)
    assert torch.equal(dictionary.decode(z.dense()), y)
    assert y.shape == (*leading, dictionary.d_out)
    assert torch.equal(y.view(-1, dictionary.d_out), dictionary.decode(flat))
    assert torch.equal(y, dictionary.reconstruct(x))


def test_vectors_of_numpy_and_of_other_precisions_are_encoded():
    dictionary, batch = build("topk", "autoencoder")
    want = dictionary.encode(batch.x).dense()
    assert torch.equal(dictionary.encode(batch.x.numpy()).dense(), want)
    assert torch.equal(dictionary.encode(batch.x.double()).dense(), want)
    rounded = batch.x.bfloat16()
    assert torch.equal(dictionary.encode(rounded).dense(), dictionary.encode(rounded.float()).dense())


def test_the_error_of_a_wrong_width_shows_the_shape_that_was_given():
    dictionary, _ = build("topk", "autoencoder")
    with pytest.raises(InputError, match=r"expected vectors \[..., 12\], got \[2, 3, 5\]"):
        dictionary.encode(torch.ones(2, 3, 5))
    with pytest.raises(InputError, match="got a list"):
        inspect.unwrap(type(dictionary).encode)(dictionary, [1.0] * 12)
    for latent in (-1, 32):
        with pytest.raises(InputError, match="latents are 0 to 31"):
            dictionary.encode(torch.ones(12)).of(latent)


def test_data_without_a_scale_is_refused():
    dictionary = TopKConfig(n_latents=8, k=2).build(3, seed=0)
    for bad in (
        torch.full((5, 3), 7.0),
        torch.tensor([[1.0, 2.0, math.nan]] * 4),
        torch.tensor([[1.0, 2.0, math.inf]] * 4),
    ):
        with pytest.raises(InputError, match="first training batch"):
            dictionary.initialise(make_batch(bad))
    with pytest.raises(InputError, match="tied"):
        ReLUConfig(tie_weights=True).build(3, 4, seed=0)
    with pytest.raises(InputError, match="encoded again"):
        ISTAConfig(n_latents=8, k=2).build(3, 4, seed=0)
    assert ISTAConfig(n_latents=8, k=2, eta=0).build(3, 4, seed=0).is_transcoder


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_same_seed_and_data_give_the_same_bits_also_after_restoring_tensors(name):
    first, batch = build(name, "autoencoder", steps=4)
    second, _ = build(name, "autoencoder", steps=4)
    third = SMALL[name](32, 4).build(12, seed=99)
    for key, tensor in third.tensors().items():
        tensor.copy_(first.tensors()[key])
    dead = torch.arange(32) % 3 == 0
    for dictionary in (first, second, third):
        dictionary.accumulate(batch, progress=0.0, dead=dead, coefficient=0.3)
    for other in (second, third):
        for key, parameter in first.parameters().items():
            assert torch.equal(parameter.grad, other.parameters()[key].grad), key
    assert not torch.equal(first.tensors()["W_dec"], SMALL[name](32, 4).build(12, seed=99).tensors()["W_dec"])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_a_vector_is_encoded_to_does_not_depend_on_how_far_the_training_is(name):
    """A copy that is read back knows its tensors and nothing of the training."""
    dictionary, batch = build(name, "autoencoder", steps=0)
    want = dictionary.encode(batch.x).dense()
    dictionary.accumulate(batch, progress=0.0, dead=None, coefficient=0.1)
    assert torch.equal(dictionary.encode(batch.x).dense(), want)


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 32), rows=st.integers(1, 20), seed=st.integers(0, 99))
def test_topk_has_at_most_k_and_batch_topk_k_on_average(k, rows, seed):
    x = vectors(rows, 6, seed)
    z = TopKConfig(n_latents=32, k=k).build(6, seed=seed).encode(x)
    assert (z.l0 <= k).all()
    batch_topk = BatchTopKConfig(n_latents=32, k=k).build(6, seed=seed)
    stats = batch_topk.accumulate(make_batch(x), progress=0.0, dead=None, coefficient=0.0)
    batch_topk.after_step()
    assert float(stats.l0) <= k + 1e-6
    # The first threshold is the smallest value kept, so that inference keeps all but that one entry.
    assert int(stats.fired.sum()) - len(batch_topk.encode(x).values) in (0, 1)


class Largest(TorchDispatchMode):
    """Watches the number of elements of the largest tensor any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", sorted(SMALL))
def test_no_dense_activation_is_ever_made(name):
    rows, n, d = 512, 1024, 8
    tuning = Tuning(tile_bytes=2**17, least_rows=1, block=(128, 128))
    config = SMALL[name](n, 4)
    if isinstance(config, JumpReLUConfig):
        config = config.model_copy(update={"bandwidth": 0.001, "threshold": 3.0})
    dictionary = config.build(d, seed=0, tuning=tuning)
    if config.has_coefficient and not isinstance(config, JumpReLUConfig):
        dictionary.parameters()["b_enc"].sub_(2.2 * dictionary.read_directions().norm(dim=1))
    x = vectors(rows, d)
    batch = make_batch(x)
    dead = torch.arange(n) % 40 == 0
    dictionary.accumulate(batch, progress=0.0, dead=dead, coefficient=0.1)
    dictionary.after_step()
    with Largest() as watch:
        stats = dictionary.accumulate(batch, progress=0.0, dead=dead, coefficient=0.1)
        dictionary.reconstruct(x)
    assert float(stats.l0) > 1
    assert watch.numel <= rows * n // 8
