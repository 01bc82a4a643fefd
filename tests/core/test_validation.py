"""Mappings from Python: whatever they hold, one sentence, and never a traceback of pydantic's."""

import itertools
import math
from collections import OrderedDict, UserDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from torch import nn

from polyseme.core.errors import InputError
from polyseme.core.fields import fields_of, models_at
from polyseme.core.validation import MAX_DEPTH, validate_config
from polyseme.dictionaries import ARCHITECTURES, MatryoshkaConfig, TopKConfig
from polyseme.studies.config import StudyConfig
from polyseme.studies.run import as_config


def _recursive() -> dict[str, Any]:
    value: dict[str, Any] = {"name": "a"}
    value["network"] = value
    return value


def _deep(n: int) -> Any:
    value: Any = 1
    for _ in range(n):
        value = [value]
    return value


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (_recursive(), "nested"),
        ({"network": _deep(100_000)}, "nested"),
        ({"seeds": _deep(MAX_DEPTH + 1)}, "nested"),
        ({"seeds": [itertools.count()]}, "seeds.0: must be a valid integer"),
        ({"seeds": itertools.count()}, "at most 100 items"),
        ({"seeds": list(range(300_000))}, "at most 250,000 values"),
        ({f"k{i}": 1 for i in range(300_000)}, "at most 250,000 values"),
        ({1: 2}, "the key 1 is not a string"),
        ({None: 2}, "the key none is not a string"),
        ({("a", "b"): 2}, "the key a tuple is not a string"),
        ({"network": {1: 2}}, "the key 1 is not a string"),
        ({"network": {"source": nn.Linear(2, 2)}}, "network.source: is a module, and a study names its network"),
        ({"network": nn.Linear(2, 2)}, "network: must be"),
        ({"network": Nameless()}, "network: must be"),
        ({"training": {"lr": math.nan}}, "training.lr: must be a finite number (given: nan)"),
        ({"training": {"lr": np.inf}}, "training.lr: must be a finite number"),
        ({"training": {"lr": True}}, "training.lr: must be a number, not true or false"),
        ({"seeds": [1, False]}, "seeds.1: must be a number"),
        ({"name": 5}, "name: must be a valid string (given: 5)"),
        ({"name": "\ud800"}, "name: must be a valid string"),
        ({"name": "a/../b"}, "name: "),
        ({"shown": 10**6000}, "(given: a number of more than 5,999 digits)"),
        ({"shown": -(10**6000)}, "(given: a number of more than 5,999 digits)"),
        ({"x" * 10**6: 1}, "unknown key 'xxx"),
        ({"dictionary": {"architecture": "topk", "n_latent": 3}}, "'dictionary.n_latent' (nearest: n_latents"),
        ({"dictionary": {"architecture": "matryoshka", "prefix": 3}}, "'dictionary.prefix' (nearest: prefixes"),
        ({"dictionary": {"architecture": "batch_topk", "k": -1}}, "dictionary.k: must be greater"),
        ({"dictionary": {"architecture": ["topk"]}}, "dictionary.architecture: there is no"),
        (
            {"controls": [{"kind": "gaussian_reinit", "keep_embeding": True}]},
            "'controls.0.keep_embeding' (nearest: keep_embeddings",
        ),
        ({"controls": [{"kind": "gausian"}]}, "controls.0.kind: there is no 'gausian' (nearest: gaussian_reinit;"),
        ({"null": {"kind": "spectrum_reinit", "sed": 1}}, "'null.sed' (nearest: seed"),
        (
            {"dictionary": {"architecture": "topk", "n_latents": 8, "k": 9}},
            "8 latents cannot keep k = 9 of them active: set k to 8 or less",
        ),
        (
            {"dictionary": {"architecture": "batch_topk", "n_latents": 8, "k": 8.5}},
            "8 latents cannot keep k = 8.5 of them active",
        ),
        (
            {"dictionary": {"architecture": "matryoshka", "n_latents": 8, "k": 9}},
            "8 latents cannot keep k = 9 of them active: set k to 8 or less",
        ),
        ({"tokens": {"heldout": 5000, "splice": 5001}}, "`tokens.splice` is 5,001, of 5,000 held-out tokens: lower it"),
        ({"tokens": {"heldout": 5000}}, "`tokens.splice` is 20,000"),
        ({"tokens": {"context": 87}}, "a continued text takes 48 + 40 tokens: set `evaluation.n_continuations` to 0"),
        (None, "must be a table of fields"),
        ([("name", "a")], "must be a table of fields"),
        (5, "must be a table of fields"),
    ],
)
def test_a_bad_mapping_is_one_sentence(value: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        validate_config(value, StudyConfig, where="here")
    assert says in caught.value.what
    assert caught.value.fix
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType, UserDict])
def test_any_mapping_is_taken_and_so_are_configs_inside_it(kind: Any) -> None:
    value = kind({"name": "a", "dictionary": TopKConfig(k=3), "seeds": (1, 2), "training": {"n_tokens": 4e6}})
    config = validate_config(value, StudyConfig, where="here")
    assert (config.dictionary.k, config.training.n_tokens) == (3, 4_000_000)


def test_what_model_copy_put_in_unchecked_is_checked() -> None:
    config = StudyConfig()
    assert as_config(config) == config
    with pytest.raises(InputError, match="seeds"):
        as_config(config.model_copy(update={"seeds": (-1,)}))


def test_the_fields_of_every_choice_are_known() -> None:
    kind = fields_of(StudyConfig)["dictionary"]
    assert dict(kind.tables) == ARCHITECTURES
    assert kind.tag == "architecture"
    assert not kind.many
    assert fields_of(StudyConfig)["controls"].many
    assert fields_of(StudyConfig)["controls"].tag == "kind"
    paths = fields_of(models_at(StudyConfig, {"corpus": {"kind": "text"}}, ("corpus",))[0])["paths"]
    assert (paths.required, paths.many, paths.types) == (True, True, {Path})
    place = ("dictionary", "matryoshka", "k")
    assert models_at(StudyConfig, {"dictionary": {}}, place[:-1]) == [MatryoshkaConfig]
