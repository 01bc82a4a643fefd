"""Loading from folders, names and modules; fingerprints; what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyseme.core.errors import InputError
from polyseme.networks import NetworkConfig, load, load_network
from polyseme.nulls import make_null
from tests import tiny

TOKENS = torch.arange(1, 15).reshape(2, 7)


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "copy"))


def test_a_folder_loads_with_its_tokenizer(saved: Path) -> None:
    network = NetworkConfig(source=str(saved), device="cpu").build()
    assert torch.equal(network.logits(TOKENS), load_network(tiny.tiny_gpt2()).logits(TOKENS))
    assert network.tokenizer is not None
    assert network.tokenizer.decode(network.tokenizer("def add(")["input_ids"]) == "def add("
    assert (network.family, network.causal, network.context) == ("gpt2", True, tiny.CONTEXT)
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())


@pytest.mark.parametrize("kind", ["neox", "llama", "mamba", "bert", "vit"])
def test_every_family_loads_from_its_folder(kind: str, tmp_path: Path) -> None:
    model = getattr(tiny, f"tiny_{kind}")()
    model.save_pretrained(tmp_path)
    network = load_network(tmp_path, device="cpu")
    assert type(network.module) is type(model)
    assert network.fingerprint == load_network(model).fingerprint
    assert network.causal == (kind not in ("bert", "vit"))
    assert network.tokenizer is None


def test_half_precision_weights_are_converted(saved: Path, tmp_path: Path) -> None:
    tiny.tiny_gpt2().half().save_pretrained(tmp_path)
    network = load_network(tmp_path, device="cpu")
    assert network.dtype == torch.float32
    weight = network.module.transformer.h[0].mlp.c_fc.weight
    assert torch.equal(weight, tiny.tiny_gpt2().transformer.h[0].mlp.c_fc.weight.half().float())
    half = NetworkConfig(source=str(saved), dtype="float16", device="cpu").build()
    assert half.dtype == torch.float16


def test_a_module_is_used_as_it_is_and_changed_only_on_a_copy() -> None:
    model = tiny.tiny_gpt2()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert load_network(model).module is model
    changed = load_network(model, dtype="float16")
    assert changed.dtype == torch.float16
    assert changed.module.lm_head.weight.data_ptr() == changed.module.transformer.wte.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_base_models_have_the_same_short_names() -> None:
    whole = tiny.tiny_gpt2()
    base = load_network(whole.transformer)
    assert base.site("blocks.1.resid_mid").path == "h.1.ln_2"
    hidden = base.logits(TOKENS)
    network = load_network(whole)
    assert torch.equal(hidden, network.read(TOKENS, ["final_norm"])[network.site("final_norm")])


def test_an_architecture_without_short_names_has_its_module_paths() -> None:
    from transformers import GPTJConfig, GPTJForCausalLM

    config = GPTJConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=8, n_inner=16)
    with torch.random.fork_rng():
        network = load_network(GPTJForCausalLM(config))
    assert (network.family, network.n_blocks, network.causal) == ("unknown", 0, True)
    assert network.site_names() == []
    site = network.site("transformer.h.0")
    assert network.read(TOKENS[:, :5], [site])[site].shape == (2, 5, 16)
    with pytest.raises(InputError, match=r"no site.*no short names.*Fix: `polyseme sites") as error:
        network.site("blocks.0.resid_post")
    assert "perhaps" not in str(error.value)  # nothing is like it here, and a dropout's path is no advice


def test_the_shipped_network_comes_from_the_package(saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(load, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="pylm is missing from the package"):
        NetworkConfig().build()
    shutil.copytree(saved, tmp_path / "pylm")
    network = NetworkConfig(device="cpu").build()
    assert network.fingerprint == load_network(saved, device="cpu").fingerprint


@pytest.mark.parametrize(
    ("kind", "widest"), [("gpt2", 64), ("neox", 48), ("llama", 32), ("mamba", 64), ("bert", 32), ("vit", 32)]
)
def test_a_rows_bytes_are_those_of_the_widest_tensor_of_a_block(kind: str, widest: int) -> None:
    network = load_network(getattr(tiny, f"tiny_{kind}")())
    widths: list[int] = []
    inner = network.module.get_submodule(network.site("blocks.0.resid_post").path)
    for part in inner.modules():
        if type(part).__name__ in ("Linear", "Conv1D"):
            part.register_forward_hook(lambda _module, _args, output: widths.append(output.shape[-1]))
    network.width("blocks.1.resid_post")
    assert network.row_bytes == 4 * widest == 4 * max(widths)
    assert load_network(network.module, dtype="float16").row_bytes == 2 * widest


# Fingerprints


def test_a_fingerprint_names_weights_config_and_null(saved: Path) -> None:
    network = load_network(tiny.tiny_gpt2())
    assert network.fingerprint == load_network(saved, device="cpu").fingerprint
    variants = [
        load_network(tiny.tiny_gpt2(seed=1)),
        load_network(tiny.tiny_gpt2(), dtype="float16"),
        make_null("gaussian_reinit", 1).network(load_network(tiny.tiny_gpt2())),
        make_null("gaussian_reinit", 2).network(load_network(tiny.tiny_gpt2())),
        make_null("gaussian_reinit", 1).network(load_network(tiny.tiny_gpt2(seed=1))),
    ]
    other = tiny.tiny_gpt2()
    other.config.layer_norm_epsilon = 1e-3
    changed = tiny.tiny_gpt2()
    changed.transformer.h[1].ln_2.bias[3] += 1e-6
    variants += [load_network(other), load_network(changed)]
    prints = [network.fingerprint, *(variant.fingerprint for variant in variants)]
    assert len(set(prints)) == len(prints)
    assert all(len(value) == 64 for value in prints)
    assert (
        make_null("gaussian_reinit", 1).network(load_network(tiny.tiny_gpt2())).fingerprint == variants[2].fingerprint
    )


# Refused


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        load_network(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(InputError, match=r"pickle.*save_pretrained"):
        load_network(folder)


def test_missing_tensors_are_not_made_up(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 .*mlp\.c_fc\.weight"):
        load_network(folder)


def test_damaged_files_are_errors(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_network(folder)
    (folder / "model.safetensors").write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config)[:-5])
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        load_network(folder)
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 32}))
    with pytest.raises(InputError, match=r"is \(48,\) in the checkpoint, and \(96,\) in the network"):
        load_network(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_network(folder)


def test_code_in_a_folder_is_never_run(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    ran = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_network(folder)
    assert not ran.exists()


def test_an_architecture_that_transformers_does_not_have_is_passed_over(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["AModelOfTheFoldersOwn", "no"]}))
    assert type(load_network(folder, device="cpu").module).__name__ == "GPT2LMHeadModel"


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder 'no-such-network'.*download"):
        load_network("no-such-network")
    with pytest.raises(InputError, match="cannot be fetched"):
        load_network("no-such-network", download=True)
    with pytest.raises(InputError, match="does not exist"):
        load_network(tmp_path / "nothing")
    with pytest.raises(InputError, match="does not exist"):
        load_network("./nothing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        load_network(tmp_path / "file")


def test_an_unknown_device(saved: Path) -> None:
    with pytest.raises(InputError, match="device 'nowhere'"):
        load_network(saved, device="nowhere")


def test_a_damaged_tokenizer(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json is damaged"):
        load_network(folder)


def test_a_tokenizer_of_ones_own(saved: Path) -> None:
    network = load_network(tiny.tiny_gpt2(), tokenizer=saved)
    assert network.tokenizer is not None
    assert network.tokenizer.bos_token == tiny.BOS
