"""Vectors that are not finite are named, and weights that cannot be are refused; neither becomes a number."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyseme.core.batch import Latents
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.dictionaries import load_dictionary, save_dictionary
from polyseme.store import open_run, sha256
from tests.dictionaries.reference import SMALL


def of(name, n=32, d=12, **options):
    return SMALL[name](n, 4).build(d, seed=0, **options)


@pytest.mark.parametrize("size", [(32, 12, 6), (2048, 64, 300)], ids=["tiles", "bytes"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_vector_that_is_not_finite_is_named_on_every_path(name, bad, size):
    n, d, rows = size
    dictionary = of(name, n, d)
    dictionary.tensors()["scale_in"].fill_(0.5)
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
    dictionary.encode(x)
    x[3, 2] = bad
    with pytest.raises(InputError, match=f"1 of {rows} vectors, row 3 the first"):
        dictionary.encode(x)
    with pytest.raises(InputError, match="row 3 the first"):
        dictionary.reconstruct(x)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_vectors_in_any_layout_are_encoded_alike(name):
    dictionary = of(name, 2048, 64)
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    one, other = dictionary.encode(x), dictionary.encode(x.t().contiguous().t())
    assert torch.equal(one.values, other.values)
    assert torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_latent_that_is_not_finite_spoils_its_row_alone(name):
    dictionary = of(name)
    z = Latents(torch.ones(6), torch.arange(6, dtype=torch.int32), torch.arange(7), 32)
    values = z.values.clone()
    values[2] = float("nan")
    whole, spoiled = dictionary.decode(z), dictionary.decode(Latents(values, z.indices, z.offsets, 32))
    rows = torch.arange(6) != 2
    assert spoiled[2].isnan().all()
    assert torch.equal(spoiled[rows], whole[rows])


@pytest.mark.parametrize("change", ["index", "negative index", "offset", "falling", "values"])
def test_latents_that_are_none_are_refused(change):
    dictionary = of("topk")
    values, indices, offsets = torch.ones(3), torch.tensor([0, 5, 7], dtype=torch.int32), torch.tensor([0, 1, 3])
    if change == "index":
        indices[1] = 32
    elif change == "negative index":
        indices[1] = -1
    elif change == "offset":
        offsets[2] = 4
    elif change == "falling":
        offsets = torch.tensor([0, 3, 1])
    else:
        values = torch.ones(2)
    with pytest.raises((InputError, TypeError)):
        dictionary.decode(Latents(values, indices, offsets, 32))


def changed(folder, change, *, config=None, reseal=True):
    path = folder / "dictionary.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    record = json.loads((folder / "dictionary.json").read_text())
    record.pop("record_sha256", None)
    record["config"] |= config or {}
    if reseal:
        record["sha256"] = sha256(path)
    (folder / "dictionary.json").write_text(json.dumps(record))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e20])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_weights_that_are_not_finite_or_absurd_are_refused_whichever_they_are(name, bad, tmp_path):
    for tensor in of(name).folded().weights():
        save_dictionary(tmp_path, of(name))
        changed(tmp_path, lambda tensors, tensor=tensor: tensors[tensor].view(-1)[:1].fill_(bad))
        with pytest.raises(DamagedArtifact, match=tensor):
            load_dictionary(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_is_saved_can_be_loaded_and_nothing_else_is_saved(name, dtype, tmp_path):
    dictionary = of(name, dtype=dtype)
    if dtype in (torch.float32, torch.float64):
        save_dictionary(tmp_path, dictionary)
        again = load_dictionary(tmp_path).weights()
        for tensor, weight in dictionary.folded().weights().items():
            assert again[tensor].dtype == dtype
            assert torch.equal(again[tensor], weight)
    else:
        with pytest.raises(InputError, match=f"is {str(dtype)[6:]}, and dictionaries are saved in float32 or float64"):
            save_dictionary(tmp_path, dictionary)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_weights_that_would_not_load_are_not_saved(name, tmp_path):
    dictionary = of(name)
    dictionary.tensors()["b_dec"][0] = float("nan")
    with pytest.raises(InputError, match="b_dec holds NaN"):
        save_dictionary(tmp_path, dictionary)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_read_is_not_called_empty(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    for read in (load_dictionary, open_run):
        with pytest.raises(InputError, match="does not allow it"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("topk", lambda t: t["W_dec"][3].mul_(1.5), "row 3 of W_dec has norm 1.5"),
        ("jumprelu", lambda t: t["log_threshold"][3].fill_(90), "log_threshold"),
        ("gated", lambda t: t["r_mag"][3].fill_(-90), "r_mag"),
        ("batch_topk", lambda t: t["threshold"].fill_(-0.5), "threshold is -0.5"),
    ],
)
def test_weights_that_no_training_makes_are_refused(name, change, message, tmp_path):
    save_dictionary(tmp_path, of(name))
    changed(tmp_path, change)
    with pytest.raises(DamagedArtifact, match=message):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka"])
def test_more_active_latents_than_there_are_is_refused(name, tmp_path):
    save_dictionary(tmp_path, of(name))
    changed(tmp_path, lambda _: None, config={"k": 33})
    with pytest.raises(DamagedArtifact, match="32 latents cannot keep k = 33 of them active"):
        load_dictionary(tmp_path)
    changed(tmp_path, lambda _: None, config={"k": 10**12})
    with pytest.raises(DamagedArtifact):
        load_dictionary(tmp_path)


def test_one_flipped_bit_fails_the_checksum_and_a_file_without_one_is_said(tmp_path):
    save_dictionary(tmp_path, of("topk"))
    path = tmp_path / "dictionary.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(DamagedArtifact, match="checksum"):
        load_dictionary(tmp_path)
    path.write_bytes(whole)
    record = json.loads((tmp_path / "dictionary.json").read_text())
    del record["sha256"], record["record_sha256"]
    (tmp_path / "dictionary.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="without a checksum"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_no_digit_of_the_record_can_change_without_a_word(name, tmp_path):
    save_dictionary(tmp_path, of(name), {"site": "blocks.2", "loss": 0.25, "spread": float("nan")})
    path = tmp_path / "dictionary.json"
    whole = path.read_text()
    load_dictionary(tmp_path)
    own_name = whole.index("record_sha256")  # without which it is the record of an earlier version
    digits = [i for i, character in enumerate(whole) if character in "0123456789" and not own_name <= i < own_name + 13]
    assert len(digits) > 50
    for i in digits:
        path.write_text(whole[:i] + str((int(whole[i]) + 1) % 10) + whole[i + 1 :])
        with pytest.raises(InputError, match=r"dictionary\.json"):
            load_dictionary(tmp_path)
