"""Networks of one's own in a study: an entry point by name."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import polyseme
from polyseme.cli.main import run
from polyseme.core.errors import InputError
from polyseme.networks import NetworkConfig, load_network
from polyseme.store import Store
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from tests import tiny
from tests.studies.small import small_config

MINE = """
import torch
from tests import tiny

calls = 0

def both():
    return tiny.tiny_gpt2(), tiny.tiny_tokenizer()

def alone():
    return tiny.tiny_gpt2()

def halves():
    return tiny.tiny_gpt2().half()

def another():
    global calls
    calls += 1
    return tiny.tiny_gpt2(seed=calls), tiny.tiny_tokenizer()

def fails():
    raise RuntimeError("no weights here\\nmore lines")

def number():
    return 7

value = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks"


def test_an_entry_point_is_a_network_with_its_tokenizer(mine: str) -> None:
    network = NetworkConfig(source=f"{mine}:both", device="cpu").build()
    assert network.fingerprint == load_network(tiny.tiny_gpt2()).fingerprint
    assert network.tokenizer is not None
    assert load_network(f"{mine}:alone").tokenizer is None
    half = load_network(f"{mine}:halves")
    assert half.dtype == torch.float16
    assert NetworkConfig(source=f"{mine}:halves", device="cpu").build().dtype == torch.float32


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("my_networks:missing", "no function missing"),
        ("my_networks:value", "no function value"),
        ("my_networks:fails", "failed: RuntimeError: no weights here"),
        ("my_networks:number", "returned a int"),
        ("no_such_module.of_mine:f", "No module named .*PYTHONPATH"),
    ],
)
def test_an_entry_point_that_gives_no_network(mine: str, entry: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_network(entry)


def test_only_that_form_is_imported(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (mine, f"{mine}.both", f"{mine}:", f":{mine}", f"./{mine}:both", f"{mine}:both()", f"{mine}:a:b"):
        with pytest.raises(InputError):
            load_network(source)
        assert mine not in sys.modules
    tiny.tiny_gpt2().save_pretrained(tmp_path / f"{mine}:both")
    assert load_network(f"{mine}:both", device="cpu").tokenizer is None  # a folder of that name is a folder
    assert mine not in sys.modules


def test_a_module_in_a_config_is_answered_with_the_way_to_name_it() -> None:
    with pytest.raises(InputError, match=r"package\.module:function.*load_network\(module\)"):
        polyseme.study({"name": "own", "network": {"source": nn.Linear(2, 2)}})


def test_a_network_that_differs_each_time_it_is_loaded_is_no_network_for_several_processes(
    mine: str, small_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(Path(f"{mine}:another"), small_corpus, **FEW)
    with pytest.raises(InputError, match=r"other weights each time it is loaded.*seed it") as refused:
        polyseme.study(config, root=tmp_path / "runs", jobs=2)
    assert refused.value.where == f"{mine}:another"
    assert not list((tmp_path / "runs" / "objects").glob("dictionaries-*"))
    # Another machine that runs a stage of a plan looks, too.
    plan = Plan.of(StudyConfig.model_validate(config))
    plan.save(Store(tmp_path / "runs"), network="0" * 64)
    assert run(["stage", plan.id(plan.stages[0]), "--root", str(tmp_path / "runs")]) == 2
    assert "other weights each time it is loaded" in capfd.readouterr().err


FEW: dict[str, Any] = {
    "sites": ["blocks.0.resid_post"],
    "tokens": {"train": 1000, "heldout": 400, "splice": 100, "heldout_fraction": 0.4, "context": 16},
    "training": {"n_tokens": 1024, "batch_size": 128},
    "controls": [{"kind": "gaussian_reinit"}],
}


@pytest.mark.slow
def test_a_study_of_a_network_of_ones_own(mine: str, small_corpus: Path, tmp_path: Path) -> None:
    config = small_config(Path(f"{mine}:both"), small_corpus, **FEW)
    first = polyseme.study(config, root=tmp_path / "runs")
    assert sum(first.verdict_counts.values()) == 32
    made = len(list((tmp_path / "runs" / "objects").iterdir()))
    # The artifacts are the weights', whatever the entry point is called or a folder holds.
    tiny.tiny_gpt2().save_pretrained(tmp_path / "folder")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "folder")
    polyseme.study({**config, "network": {"source": str(tmp_path / "folder")}}, root=tmp_path / "runs")
    assert len(list((tmp_path / "runs" / "objects").iterdir())) == made
    # A network that is another one each time it is loaded is loaded once: its control is made of that very one.
    other = polyseme.study({**config, "network": {"source": f"{mine}:another"}}, root=tmp_path / "runs")
    assert other.findings.controls["gaussian_reinit"].subject.network.origin["weights"] == other.network.fingerprint
