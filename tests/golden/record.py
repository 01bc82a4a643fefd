"""Golden files: the keys and the numbers of a small study on every kind of network, and of the toys' fast checks.

`python -m tests.golden.record` compares them bit for bit with what the code gives now, on the machine that wrote them;
`--write` writes them anew. A difference belongs into the changelog.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polyseme
from tests import tiny
from tests.studies.small import small_config, write_corpus

HERE = Path(__file__).parent
SMALL: dict[str, Any] = {
    "tokens": {"train": 2000, "heldout": 900, "splice": 300, "heldout_fraction": 0.4, "context": 16},
    "training": {"n_tokens": 4096, "batch_size": 256},
    "evaluation": {"n_resamples": 100, "lookup_tokens": 1000, "n_continuations": 0},
    "controls": [{"kind": "gaussian_reinit"}, {"kind": "shuffled_tokens"}],
    "causal": {"n_samples": 4, "n_directions": 2},
    "seeds": [0, 1, 2],
    "draws": 2,
}


def _folder(make: Callable[[], Any]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        make().save_pretrained(folder)
        tiny.tiny_tokenizer().save_pretrained(folder)
        return str(folder)

    return write


STUDIES: dict[str, tuple[Callable[[Path], str], dict[str, Any]]] = {
    "gpt2": (_folder(tiny.tiny_gpt2), {"dictionary": {"architecture": "topk", "n_latents": 32, "k": 4}}),
    "neox": (
        _folder(tiny.tiny_neox),
        {
            "dictionary": {"architecture": "batch_topk", "n_latents": 32, "k": 4},
            "controls": [*SMALL["controls"], {"kind": "frozen_decoder"}],
        },
    ),
    "llama": (_folder(tiny.tiny_llama), {"dictionary": {"architecture": "matryoshka", "n_latents": 32, "k": 4}}),
    "mamba": (
        _folder(tiny.tiny_mamba),
        {"dictionary": {"architecture": "gated", "n_latents": 32}, "harvest": {"cache": "disk"}},
    ),
    "bert": (
        _folder(tiny.tiny_bert),
        {
            "dictionary": {"architecture": "jumprelu", "n_latents": 32},
            "training": {**SMALL["training"], "target_l0": 4.0},
        },
    ),
    "pylm": (
        lambda _: "pylm",
        {
            "dictionary": {"architecture": "relu", "n_latents": 64},
            "sites": ["blocks.2.resid_post"],
            "tokens": {**SMALL["tokens"], "context": 96},
            "evaluation": {**SMALL["evaluation"], "n_continuations": 1},
            "controls": [{"kind": "spectrum_reinit"}, {"kind": "permuted_weights"}, {"kind": "unigram_tokens"}],
        },
    ),
}
"""Kind of network → what writes one and names it, and what is special in its study; every architecture has its turn."""


def _same(value: Any) -> Any:
    """JSON that is equal where the numbers are: NaN and infinity become text."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {str(k): _same(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_same(v) for v in value]
    return value


def study_numbers(kind: str, folder: Path) -> dict[str, Any]:
    """Keys, metrics and the table of all latents of one kind's study."""
    write, changes = STUDIES[kind]
    corpus = write_corpus(folder / "texts")
    network = write(folder / "network")
    config = small_config(Path("unused"), corpus, **{**SMALL, "network": {"source": network}, **changes})
    result = polyseme.study(config, root=folder / "runs")
    table = result.latents()
    return _same(
        {
            "keys": dict(sorted(result.run.record.parents.items())),
            "metrics": [
                {"name": m.name, "scope": m.scope, "value": m.value, "interval": m.interval and m.interval.model_dump()}
                for m in result.run.metrics
            ],
            "latents": {name: column.tolist() for name, column in table.columns.items()},
        }
    )


def toy_keys() -> dict[str, dict[str, list[str]]]:
    """Key of the result of every experiment of the zoo and of every part of a trial, and the hash of all its settings.

    No key moves where a default changes: the hash does, and tells that the version has to be raised.
    """
    from polyseme.core.config import Config
    from polyseme.store import Store
    from polyseme.trials import diagnosis, dose
    from polyseme.zoo import TOYS, running
    from polyseme.zoo.planted_sparse import sweep

    found: dict[str, list[str]] = {}
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))

        def add(at: str, stage: str, decisive: Any, version: int, config: Config) -> None:
            found[at] = [store.key(stage, decisive, {}, version=version)[:16], config.fingerprint()[:16]]

        for name, toy in TOYS.items():
            for e in toy.experiments:
                config = toy.config()
                add(f"{name}/{e.name}", "toy-check", running.decisive(name, config, e), e.version, config)
        points = sweep.RecoverySweep()
        add("recovery/0", "recovery", sweep.decisive(points, 0), sweep.VERSION, points)
        rows = diagnosis.ConfusionConfig()
        for kind in (*diagnosis.CLASSES, *diagnosis.NULLS):
            at = f"confusion/{kind.name}"
            add(at, "confusion", diagnosis.decisive(kind.name, rows), diagnosis.VERSION, rows)
        curves = dose.DoseConfig()
        for name in dose.DOSES:
            add(f"dose/{name}", "dose", dose.decisive(name, curves), dose.VERSION, curves)
    return {"key and hash of all settings": found}


def toy_numbers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Values and bounds of every fast check."""
    from polyseme.core.progress import Silent
    from polyseme.zoo import TOYS
    from polyseme.zoo.running import run_experiment

    for name, toy in TOYS.items():
        for experiment in toy.experiments:
            if experiment.cost == "fast":
                result = run_experiment(name, toy.config(), experiment, reporter=Silent())
                yield f"{name}/{experiment.name}", _same({c.name: [c.value, c.outcome] for c in result.checks})


def defaults() -> dict[str, Any]:
    """The defaults that keys leave out: a stage whose default changes must raise its version."""
    from pydantic_core import to_jsonable_python

    from polyseme.activations import HarvestConfig
    from polyseme.causal import CausalConfig
    from polyseme.corpora import CORPORA
    from polyseme.dictionaries import ARCHITECTURES
    from polyseme.evaluation import ContinuationConfig, LookupConfig
    from polyseme.evaluation.recurrence import RecurrenceConfig
    from polyseme.nulls import NULLS
    from polyseme.studies.config import TokensConfig
    from polyseme.training import TrainingConfig

    stages = (TokensConfig, TrainingConfig, HarvestConfig, CausalConfig, LookupConfig, ContinuationConfig)
    return {
        config.__name__: {
            name: to_jsonable_python(field.get_default(call_default_factory=True))
            for name, field in config.model_fields.items()
            if not field.is_required()
        }
        for config in (*stages, RecurrenceConfig, *ARCHITECTURES.values(), *NULLS.values(), *CORPORA.values())
    }


def differences(old: Any, new: Any, at: str = "", *, within: float = 0.0) -> list[str]:
    """Where two trees differ; numbers by more than `within` of the larger one."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{at}: only in the golden file: {k}" for k in old if k not in new]
        found += [f"{at}: not in the golden file: {k}" for k in new if k not in old]
        return found + [d for k in old if k in new for d in differences(old[k], new[k], f"{at}/{k}", within=within)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            d
            for i, pair in enumerate(zip(old, new, strict=True))
            for d in differences(*pair, f"{at}/{i}", within=within)
        ]
    if isinstance(old, float | int) and isinstance(new, float | int):
        close = abs(old - new) <= within * max(abs(old), abs(new), 1e-3)
        return [] if close else [f"{at}: {old} is now {new}"]
    return [] if old == new else [f"{at}: {old!r} is now {new!r}"]


def _text(tree: dict[str, Any]) -> str:
    """JSON with a line for each key, metric and column."""

    def lines(value: Any) -> str:
        if isinstance(value, dict):
            inside = [
                f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}" for k, v in value.items()
            ]
            return "{\n" + ",\n".join(inside) + "\n}"
        return "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False, allow_nan=False) for v in value) + "\n]"

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {lines(part)}" for name, part in tree.items()) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--toys", action="store_true", help="the toys' fast checks, too: some minutes")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore
    found: list[str] = []

    def settle(name: str, new: dict[str, Any]) -> None:
        path = HERE / f"{name}.json"
        if options.write:
            path.write_text(_text(new))
            print("wrote", path.name)
            return
        differing = differences(json.loads(path.read_text()), new, name)
        print(f"{name}: {'the same' if not differing else f'{len(differing)} differences'}")
        print(*[f"  {line}" for line in differing[:12]], sep="\n", end="\n" if differing else "")
        found.extend(differing)

    for kind in STUDIES:
        with TemporaryDirectory() as folder:
            settle(kind, study_numbers(kind, Path(folder)))
    settle("toys_keys", toy_keys())
    settle("defaults", defaults())
    if options.toys:
        settle("toys", dict(toy_numbers()))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
