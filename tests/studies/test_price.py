"""What a study needs is said before it trains, what cannot fit is refused, and the figure is near what it takes."""

import json
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyseme.causal import CausalConfig
from polyseme.core.errors import InputError
from polyseme.core.memory import available_memory
from polyseme.core.progress import Silent
from polyseme.report.write import study
from polyseme.store import Store
from polyseme.studies import price as module
from polyseme.studies.config import StudyConfig
from polyseme.studies.plan import Plan
from polyseme.studies.price import Price, Sizes, Widths, check_price, price
from tests.studies.small import small_config

SIZES = Sizes({"a": Widths(99, 99, 99)}, 400, 0, 1e6, 100, 10**6, 100_000, 100, 1, 2, second_network=False)
Usage = namedtuple("Usage", "total used free")


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def _study(**changes: object) -> StudyConfig:
    dictionary = {"architecture": "topk", "n_latents": 1000, "k": 10}
    return StudyConfig.model_validate({"dictionary": dictionary, "sites": ["a"], "seeds": [0, 1], **changes})


def _check(study: StudyConfig, sizes: Sizes = SIZES, root: Path = Path(), reporter: Silent | None = None) -> None:
    check_price(study, sizes, CausalConfig(), device=torch.device("cpu"), root=root, reporter=reporter or Silent())


def test_the_price_in_closed_form() -> None:
    harvest = {"prefetch": False}
    cost = price(_study(harvest=harvest), SIZES, CausalConfig(n_samples=0))
    weights = 4 * (2 * 1000 * 100 + 99)
    position = 2 * 400 + 8 * 99  # of a pass
    step = 8e6 + 4 * 2048 * 1000 * 4
    assert cost.training == 4 * weights * 2 + 2048 * 8 * 99 * 4 * 2 + step + 65_536 * 99 * 4 + 2048 * position
    # Both seeds, a control and a further draw; of three dictionaries what is compared, on held-out and train tokens.
    assert cost.kept == weights * 4 + 24 * 10 * (100_000 * 4 + 3 * 160_000) + 13 * 1_100_000
    assert cost.passes == 1600 * position
    assert cost.tables == 99 * (12 + 16) * 100_000 + 100 * 102 * 32 + 1600 * position
    few = price(_study(harvest=harvest), replace(SIZES, n_heldout=1000), CausalConfig(n_samples=0))
    cells = 20 * 2**4  # groups of documents by what four tables know
    assert few.tables == 20 * 1000**2 + 8 * 5 * cells * 1000 + 1.5 * 100 * 2**20
    assert cost.disk == weights * 11 + 160_000 * 5 * (80 + 13) + 13 * 1_100_000
    assert cost.tokens == 10**6
    assert cost.memory == cost.kept + max(cost.training, min(cost.training / 2, 2e8) + cost.tables)


def test_every_stage_has_its_part_in_the_price() -> None:
    base, causal = price(_study(), SIZES, CausalConfig(n_samples=0)), CausalConfig(n_samples=64)
    predicts = replace(SIZES, vocabulary=50_000)
    spliced = price(_study(), predicts, CausalConfig(n_samples=0)).passes
    assert spliced == 600 * (2 * 400 + 8 * 99) + 6 * 50_000 * 4 * 600  # six windows have 128 MiB of logits
    assert price(_study(), predicts, replace_config(causal, tokens_per_pass=8192)).passes > spliced
    assert price(_study(), SIZES, causal).tables >= base.tables
    assert price(_study(), replace(SIZES, second_network=True), CausalConfig(n_samples=0)).passes == base.passes + 1e6
    assert (
        price(
            _study(evaluation={"lookup_tokens": 10**9}), replace(SIZES, widths={"a": Widths(9999, 9999, 9999)}), causal
        ).tables
        > 1e10
    )
    wide = _study(dictionary={"architecture": "topk", "n_latents": 4000})
    assert price(wide, SIZES, causal).tables >= 24 * 4000**2


def replace_config(config: CausalConfig, **changes: object) -> CausalConfig:
    return CausalConfig.model_validate({**config.model_dump(), **changes})


def test_a_transcoder_is_priced_by_both_its_widths() -> None:
    def cost(reads: int, writes: int) -> Price:
        widths = Widths(reads, writes, reads + writes)
        return price(_study(harvest={"prefetch": False}), replace(SIZES, widths={"a": widths}), CausalConfig())

    weights = 4 * (1000 * (30 + 70 + 2) + 70)
    assert cost(30, 70).disk == weights * 11 + 160_000 * 5 * (80 + 13) + 13 * 1_100_000
    assert cost(70, 30).disk < cost(70, 70).disk
    assert cost(30, 70).training < cost(70, 70).training
    assert cost(30, 70).stages["baselines"] - cost(30, 30).stages["baselines"] > 40 * (12 + 16) * 100_000
    wide = _study(dictionary={"architecture": "topk", "expansion": 8})
    assert replace(SIZES, widths={"a": Widths(30, 70, 100)}).latents(wide) == {"a": 240}


def test_copies_along_the_training_are_priced() -> None:
    two, three, four = (price(_study(seeds=list(range(n))), SIZES, CausalConfig()) for n in (2, 3, 4))
    assert two.stages["learning"] < three.stages["learning"]
    # Each of three seeds has three copies, and no further seed has any.
    assert three.disk - two.disk == four.disk - three.disk + 9 * 4 * (1000 * (99 + 99 + 2) + 99)


def test_each_stage_has_a_price_of_its_own() -> None:
    changes = {"controls": [{"kind": "gaussian_reinit"}], "seeds": [0, 1, 2]}
    config = StudyConfig.model_validate({**_study().model_dump(), **changes})
    whole = price(config, replace(SIZES, vocabulary=5000), CausalConfig())
    assert set(whole.stages) == {stage.name for stage in Plan.of(config).stages}
    assert all(0 < needed <= whole.memory + whole.kept for needed in whole.stages.values())
    assert whole.stages["dictionaries"] > whole.training
    assert whole.stages["statistics"] < whole.stages["dictionaries"]


def test_more_latents_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="less than one token a latent"):
        _check(_study(training={"n_tokens": 999}))
    with pytest.raises(InputError, match="less than one token a latent"):
        _check(_study(), replace(SIZES, n_train=999))
    _check(_study(), replace(SIZES, n_train=1000))


SITES = {f"site{i}": Widths(2048, 2048, 2048) for i in range(100)}


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        (
            {"dictionary": {"architecture": "topk", "n_latents": 10**7}, "training": {"n_tokens": 10**8}},
            {},
        ),
        ({}, {"n_heldout": 10**12}),
        ({"harvest": {"block_tokens": 2**28}}, {"n_train": 2**28}),
        ({"training": {"batch_size": 2**24}}, {}),
        ({"harvest": {"batch_windows": 2**16}}, {"row_bytes": 2**20}),
        ({"evaluation": {"lookup_tokens": 10**9}}, {"widths": {"a": Widths(10**5, 10**5, 10**5)}}),
        ({"seeds": list(range(100))}, {"widths": SITES}),
        ({"dictionary": {"architecture": "topk", "n_latents": 2**17}}, {"n_documents": 10**5}),
    ],
    ids=["latents", "held-out tokens", "block", "batch", "pass", "look-up", "seeds and sites", "recurrence"],
)
def test_what_cannot_fit_is_refused(
    changes: dict[str, object], sizes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    _check(_study())
    monkeypatch.setattr(module, "available_memory", lambda: 8e9)
    with pytest.raises(InputError, match=r"of memory, and 8[.]00 GB is free") as caught:
        _check(_study(**changes), replace(SIZES, **sizes))
    assert caught.value.fix


def test_a_disk_too_small_is_refused_unless_what_is_there_already_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = price(_study(), SIZES, CausalConfig()).disk
    root = tmp_path / "not" / "made"
    listener = Listener()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, int(needed) - 1000))
    with pytest.raises(InputError, match=r"writes about 0[.]\d\d GB, and the disk has 0[.]\d\d GB free") as caught:
        _check(_study(), root=root, reporter=listener)
    assert caught.value.where == str(root)
    assert "--root" in (caught.value.fix or "")
    assert "GB of disk (0." in listener.said[0]
    assert "GB free)" in listener.said[0]
    root.mkdir(parents=True)
    (root / "artifact").write_bytes(bytes(2000))
    _check(_study(), root=root)


def test_the_machine_says_how_much_is_free() -> None:
    assert 0 < available_memory() < 1e15


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_a_study_is_refused_before_its_corpus_is_read(
    what: str, small_network: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "memory":
        monkeypatch.setattr(module, "available_memory", lambda: 1e6)
    else:
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    with pytest.raises(InputError, match="free"):
        study(small_config(small_network, small_corpus), root=tmp_path)
    assert not [path for path in Store(tmp_path).objects.iterdir() if path.name.startswith("tokens")]


MEASURED = """
import json, sys
from pathlib import Path
from polyseme.studies import prepare as module
from polyseme.studies.config import StudyConfig
from polyseme.studies.run import find
from polyseme.core.progress import Silent
from polyseme.store import Store
from polyseme.studies.stage import Worker

def held(name):
    return 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

costs, before = [], []
check_price = module.check_price
def check(*args, **options):
    costs.append(check_price(*args, **options))
    before.append(held("VmRSS"))
module.check_price = check
config = StudyConfig.model_validate(json.loads(sys.argv[1]))
find(Worker(config, Store(Path(sys.argv[2])), Silent()))
print(json.dumps([costs[-1].memory, held("VmHWM") - before[0]]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_price_is_near_what_a_study_takes(tmp_path: Path) -> None:
    config = {
        "sites": ["blocks.2.resid_post"],
        "tokens": {"train": 12_000, "heldout": 3000, "splice": 2000},
        "dictionary": {"architecture": "topk", "n_latents": 512, "k": 16},
        "training": {"n_tokens": 8192},
        "evaluation": {"n_resamples": 100, "lookup_tokens": 4000, "n_continuations": 0},
        "controls": [{"kind": "gaussian_reinit"}],
        "causal": {"n_samples": 1},
    }
    command = [sys.executable, "-c", MEASURED, json.dumps(config), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    needed, taken = json.loads(done.stdout.splitlines()[-1])
    assert 0.8 <= needed / taken <= 2


def test_long_windows_are_priced_as_they_are_read() -> None:
    long = replace(SIZES, context=1024)
    position = 2 * 400 + 8 * 99
    assert price(_study(), long, CausalConfig(n_samples=0)).passes == 2048 * position
    assert price(_study(), replace(long, context=4096), CausalConfig(n_samples=0)).passes == 4096 * position
