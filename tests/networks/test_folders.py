"""Model folders that strangers wrote: one sentence a fault; nothing is fetched, run or built that is not asked for."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyseme.core.errors import InputError
from polyseme.networks import load_network
from tests import tiny
from tests.networks.architectures import made


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "network"))


def configured(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


# Values of the config

VALUES: dict[str, dict[str, Any]] = {
    "no heads": {"n_head": 0},
    "negative heads": {"n_head": -4},
    "a word for a width": {"n_embd": "x"},
    "a list for a width": {"n_embd": [16]},
    "no width": {"n_embd": 0},
    "a fraction for a width": {"n_embd": 16.5},
    "no number of layers": {"n_layer": None},
    "negative layers": {"n_layer": -1},
    "fewer layers than the weights": {"n_layer": 1},
    "no layers": {"n_layer": 0},
    "ten million layers": {"n_layer": 10**7},
    "nine thousand layers": {"n_layer": 9_000},
    "2^63 layers": {"n_layer": 2**63},
    "a width of 10^7": {"n_embd": 10**7},
    "a vocabulary of 10^9": {"vocab_size": 10**9},
    "a vocabulary of 10^30": {"vocab_size": 10**30},
    "positions of 10^11": {"n_positions": 10**11},
    "10^9 labels": {"num_labels": 10**9},
    "no precision": {"dtype": "evil"},
    "a function for a precision": {"torch_dtype": "load"},
    "a number for a precision": {"dtype": 3},
    "a precision of whole numbers": {"dtype": "int8"},
    "a precision of complex numbers": {"torch_dtype": "complex64"},
    "an unknown activation": {"activation_function": "boom"},
    "a number for an activation": {"activation_function": 7},
    "a number for an architecture": {"architectures": [7]},
    "a word for architectures": {"architectures": "GPT2LMHeadModel"},
    "a path for an architecture": {"architectures": ["../../x"]},
    "nothing for an architecture": {"architectures": [""]},
    "escapes in an architecture": {"architectures": ["GPT2Model\x1b[31m"]},
    "a config for an architecture": {"architectures": ["GPT2Config"]},
    "a function for an architecture": {"architectures": ["is_torch_available"]},
    "the class of all models": {"architectures": ["PreTrainedModel"]},
    "another family's architecture": {"architectures": ["BertForMaskedLM"]},
    "a number for a type": {"model_type": 7},
    "an unknown type": {"model_type": "mine"},
    "no type": {"model_type": None},
    "another type": {"model_type": "bert", "architectures": None},
    "attention from a hub": {"attn_implementation": "kernels-community/x"},
    "attention from a hub, by another name": {"_attn_implementation": "me/mine@v1:fn"},
    "attention from a hub, inside": {"_attn_implementation_internal": {"": "me/mine"}},
    "attention of no kind": {"attn_implementation": 3},
    "experts from a hub": {"experts_implementation": "me/mine"},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "fp8": {"quantization_config": {"quant_method": "fp8"}},
    "quantised, inside": {"text_config": {"quantization_config": {"quant_method": "awq"}}},
    "quantised by a word": {"quantization_config": "evil"},
    "quantised by a list": {"quantization_config": [1]},
}


@pytest.mark.parametrize("name", VALUES)
def test_a_config_of_wrong_values_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_network(configured(folder, **VALUES[name]), device="cpu")
    assert str(folder) in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_config_s_field_lacks_is_said_in_the_same_line(folder: Path) -> None:
    with pytest.raises(InputError, match=r"field 'n_layer': \w+.*int"):
        load_network(configured(folder, n_layer=[2]), device="cpu")


def test_code_of_a_folder_is_left_out_and_its_model_type_decides(folder: Path) -> None:
    network = load_network(configured(folder, architectures=["MyOwnGPT"]), device="cpu")
    assert type(network.module).__name__ == "GPT2LMHeadModel"


def test_attention_that_transformers_has_itself_loads_without_its_library(folder: Path) -> None:
    plain = load_network(folder, device="cpu")
    tokens = torch.arange(8)[None]
    for name in ("eager", "sdpa", "flash_attention_2", "flex_attention"):
        network = load_network(configured(folder, attn_implementation=name), device="cpu")
        assert network.module.config._attn_implementation == ("eager" if name == "eager" else "sdpa")
        torch.testing.assert_close(network.logits(tokens), plain.logits(tokens))


# Files

BROKEN: dict[str, bytes] = {
    "a number": b"7",
    "a list": b"[1, 2]",
    "a word": b'"evil"',
    "nothing": b"",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "half": b'{"a": ',
    "a list 200,000 deep": b"[" * 200_000 + b"]" * 200_000,
    "an object 200,000 deep": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "an object 100 deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "an integer of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "100 MB": b'{"a": "' + b"x" * 100_000_000 + b'"}',
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
)
def test_a_file_that_is_no_object_is_refused(name: str, content: str, folder: Path) -> None:
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / name).write_bytes(BROKEN[content])
    with pytest.raises(InputError) as caught:
        load_network(folder, device="cpu")
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000


def _edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**value, **changes}))

    return edit


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    "a model's class": _edited("tokenizer_config.json", tokenizer_class="GPT2LMHeadModel"),
    "a function": _edited("tokenizer_config.json", tokenizer_class=7),
    "an unknown model": _edited("tokenizer.json", model={"type": "Evil"}),
    "no model": _edited("tokenizer.json", model=None),
    "a broken vocabulary": _edited("tokenizer.json", model={"type": "BPE", "vocab": {"a": "b"}, "merges": []}),
    "words without an unknown one": _edited(
        "tokenizer.json", model={"type": "WordLevel", "vocab": {"a": 0, "<|bos|>": 1}, "unk_token": "?"}
    ),
    "a special token that is a number": _edited("tokenizer_config.json", bos_token=7),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_refused(name: str, folder: Path) -> None:
    TOKENIZERS[name](folder)
    with pytest.raises(InputError) as caught:
        load_network(folder, device="cpu")
    assert "okenizer" in str(caught.value)


def test_a_file_that_may_not_be_read_is_not_called_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path.open

    def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return own(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refused)
    for locked in ("config.json", "model.safetensors", "tokenizer.json"):
        with pytest.raises(InputError, match=rf"{locked} may not be read: Permission denied.*the right to read"):
            load_network(folder, device="cpu")


def test_a_folder_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match="may not be read: Permission denied"):
        load_network(folder)
    for source in ("a\0b", "/" + "x" * 5000):
        with pytest.raises(InputError):
            load_network(source)


def test_a_pipe_is_no_file_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(InputError, match="not a regular file"):
        load_network(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight holds numbers that are not finite\."):
        load_network(folder, device="cpu")


def test_weights_too_large_for_half_precision(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][3, 4] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_network(folder, device="cpu")
    with pytest.raises(InputError, match=r"not finite in float16.*float32"):
        load_network(folder, device="cpu", dtype="float16")


@pytest.mark.parametrize("device", ["meta", "nowhere", "cuda:99", "", "cpu:x"])
def test_a_device_that_cannot_compute_is_refused(device: str, folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        load_network(folder, device=device)


# Nothing is run


class Writes:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def evil(ran: Path) -> bytes:
    return pickle.dumps(Writes(ran))


INDEXED = [
    "pytorch_model.bin",
    "model.pkl",
    "model.safetensors.bin",
    "../model.safetensors",
    "/tmp/model.safetensors",
    "sub/model.safetensors",
    ".safetensors",
    "model.safetensors\n",
    "https://example.org/model.safetensors",
]


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_may_only_name_safetensors_beside_it(name: str, folder: Path, evil: bytes, ran: Path) -> None:
    weights = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    if name in ("pytorch_model.bin", "model.pkl", "model.safetensors.bin"):
        (folder / name).write_bytes(evil)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"which is not a \*\.safetensors of the folder itself"):
        load_network(folder, device="cpu")
    assert not ran.exists()


def test_an_index_of_shards_loads(folder: Path) -> None:
    plain = load_network(folder, device="cpu")
    tiny.tiny_gpt2().save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load_network(folder, device="cpu").fingerprint == plain.fingerprint
    next(folder.glob("model-00001-*.safetensors")).unlink()
    with pytest.raises(InputError, match="which is missing"):
        load_network(folder, device="cpu")


def test_pickles_and_code_beside_the_weights_are_not_looked_at(folder: Path, evil: bytes, ran: Path) -> None:
    """Adapters, generation code, distributed checkpoints, pickled vocabularies: whatever a loader might look for."""
    plain = load_network(folder, device="cpu")
    code = f"open({str(ran)!r}, 'w')\n"
    for name in ("pytorch_model.bin", "adapter_model.bin", ".metadata", "__0_0.distcp", "vocab.pkl", "vocab.bin"):
        (folder / name).write_bytes(evil)
    for name in ("modeling_gpt2.py", "mine.py", "custom_generate.py"):
        (folder / name).write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/mine", "peft_type": "LORA"}))
    (folder / "generation_config.json").write_text("[7]")
    configured(
        folder,
        auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "me/mine--mine.Mine"},
        custom_pipelines={"text-generation": {"impl": "mine.Mine", "pt": ["AutoModelForCausalLM"]}},
        transformers_weights="pytorch_model.bin",
        kernel_config={"a": "me/mine"},
        use_kernels=True,
        fusion_config={"patch_embeddings": True},
        _name_or_path="me/mine",
        base_model_name_or_path="me/mine",
    )
    auto_map = {"AutoTokenizer": ["mine.Mine", "me/mine--mine.Mine"]}
    _edited("tokenizer_config.json", tokenizer_class="Mine", auto_map=auto_map)(folder)
    network = load_network(folder, device="cpu")
    tokens = torch.arange(8)[None]
    assert torch.equal(network.logits(tokens), plain.logits(tokens))
    assert not ran.exists()


def test_an_adapter_alone_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/mine"}))
    with pytest.raises(InputError, match=r"holds an adapter.*merge"):
        load_network(folder)


def test_nothing_reaches_a_hub_while_a_folder_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    offline: list[bool] = []
    own = GPT2LMHeadModel.__init__

    def watching(self: Any, config: Any) -> None:
        offline.append(constants.is_offline_mode())
        own(self, config)

    monkeypatch.setattr(GPT2LMHeadModel, "__init__", watching)
    load_network(folder, device="cpu")
    assert offline
    assert all(offline)
    assert not constants.is_offline_mode()


@pytest.mark.parametrize("name", ["mixtral", "gemma3, with pictures", "t5", "bert", "albert", "bart", "opt", "vit"])
def test_tensors_handed_over_load_as_a_folder_does(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path)
    theirs = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert load_network(tmp_path, device="cpu").fingerprint == load_network(theirs).fingerprint


def test_a_callers_module_keeps_its_gradients() -> None:
    model = tiny.tiny_gpt2().requires_grad_(True)
    network = load_network(model)
    network.logits(torch.arange(4)[None])
    assert all(parameter.requires_grad for parameter in model.parameters())
    unembedding = network.unembedding()
    assert unembedding is not None
    assert not unembedding.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"n_positions": 16},
            r"transformer\.wpe\.weight is \(32, 16\) in the checkpoint, and \(16, 16\) in the network",
        ),
        ({"vocab_size": 299}, r"transformer\.wte\.weight is \(300, 16\) in the checkpoint, and \(299, 16\)"),
        ({"n_layer": 3}, r"lacks 12 of the network's tensors, transformer\.h\.2"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(folder: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_network(configured(folder, **changes))
    assert "ignore_mismatched_sizes" not in str(error.value)
