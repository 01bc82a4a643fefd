"""Values of a `config.json` by the names of their fields: nonsense is refused, what transformers writes passes."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from polyseme.core.errors import InputError
from polyseme.networks import load_network
from polyseme.networks.config_values import check_value
from tests import tiny

PATH = Path("folder/config.json")

REFUSED: list[tuple[str, object]] = [
    ("layer_norm_epsilon", float("nan")),
    ("layer_norm_epsilon", -1e-5),
    ("layer_norm_epsilon", 1e300),
    ("rms_norm_eps", float("inf")),
    ("norm_eps", "x"),
    ("initializer_range", float("nan")),
    ("initializer_range", -0.02),
    ("anything_else", float("nan")),
    ("anything_else", -float("inf")),
    ("rope_theta", 0),
    ("rope_theta", -1.0),
    ("rope_theta", "x"),
    ("factor", 0),
    ("factor", -2.0),
    ("sliding_window", -1),
    ("attention_window", -512),
    ("sliding_window", "x"),
    ("max_position_embeddings", 0),
    ("max_position_embeddings", -1),
    ("n_positions", -1),
    ("n_inner", -3),
    ("num_key_value_heads", -2),
    ("num_attention_heads", 0),
    ("hidden_size", 0),
    ("head_dim", -4),
    ("num_hidden_layers", 10**7),
    ("resid_pdrop", 7.0),
    ("resid_pdrop", -1),
    ("attention_dropout", 2.0),
    ("layerdrop", float("nan")),
    ("bos_token_id", -7),
    ("is_decoder", "x"),
    ("tie_word_embeddings", "no"),
    ("vocab_size", 10**30),
]
PASSED: list[tuple[str, object]] = [
    ("time_step_limit", float("inf")),
    ("pad_token_id", -1),
    ("vision_feature_layer", -2),
    ("image_token_index", -200),
    ("sliding_window", None),
    ("sliding_window", 0),
    ("attention_dropout", False),
    ("hidden_act", "gelu"),
    ("n_inner", None),
    ("num_images", -1),
    ("vocab_size_per_layer_input", 262_144),
    ("max_relative_positions", -1),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_value_that_no_network_has_is_refused_by_its_field(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        check_value(key, value, PATH)
    assert caught.value.what.startswith(f"`{key}` is ")
    assert caught.value.where == str(PATH)
    assert f"correct `{key}` in config.json" in str(caught.value.fix)


@pytest.mark.parametrize(("key", "value"), PASSED)
def test_a_value_that_only_looks_odd_passes(key: str, value: object) -> None:
    check_value(key, value, PATH)


def _walk(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, entry in value.items():
            _walk(str(name), entry)
    elif isinstance(value, list):
        for entry in value:
            _walk(key, entry)
    else:
        check_value(key, value, PATH)


def test_no_rule_refuses_what_transformers_writes_by_default() -> None:
    checked = 0
    for name in CONFIG_MAPPING:
        try:
            written = CONFIG_MAPPING[name]().to_json_string(use_diff=False)
        except Exception:  # noqa: BLE001 - a few need other packages, or have no defaults
            continue
        _walk("", json.loads(written))
        checked += 1
    assert checked > 400


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}},
        {"layer_types": ["full_attention", "full_attention"], "extra": [{"eps": [float("nan")]}]},
        {"sliding_window": -1},
    ],
)
def test_nonsense_is_refused_at_any_depth(changes: dict[str, Any], tmp_path: Path) -> None:
    tiny.tiny_llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=r"config\.json.*Fix: correct `"):
        load_network(tmp_path, device="cpu")
