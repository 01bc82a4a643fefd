"""A whole study, part by part, beside what each part cannot do without; and what importing polyseme costs.

    python benchmarks/study.py                  the study that `polyseme demo` runs
    python benchmarks/study.py --quick          a tenth of it, to see that this works

The study runs in a process of its own, in a folder that is thrown away, and takes its seconds from its own events. The
limit of a part is its products of matrices, each timed here before and after the study at the shapes it has there and
by the faster of torch's two routines; its tokens through the tokenizer alone; its bytes at the rate this disk takes
them. Whatever else a part does (attention, norms, softmax, sorting, hashing) has no limit and counts as time above it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from study_limits import STAGES, Part, Rates, limits, measured_rates
from workers import save_figures

from polyseme.studies.config import StudyConfig
from polyseme.studies.toml import load_config

IMPORTS = {
    "python alone": "",
    "import torch": "import torch",
    "import torch, polyseme": "import torch, polyseme",
    "torch, from polyseme.dictionaries import TopKConfig": "import torch\nfrom polyseme.dictionaries import TopKConfig",
    "torch, polyseme.study": "import torch, polyseme\npolyseme.study",
    "polyseme --help": "import sys\nfrom polyseme.cli import main\nsys.argv[1:] = ['--help']\nmain()",
}
"""What is run in a fresh process each time."""
MEMORY = "\nprint('\\n' + open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"


def main() -> None:
    """Time the imports and the study, print both tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens, an eighth of the interventions")
    parser.add_argument("--rounds", type=int, default=7, help="of the imports, two at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", type=Path, help="a new folder for the run, kept; a temporary one by default")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    imported = imports(args.rounds)
    import_table(imported)
    config = demo(quick=args.quick)
    with tempfile.TemporaryDirectory() as folder:
        before = measured_rates(config, Path(folder))
        done = studied(config, args.keep or Path(folder) / "runs")
        rates = before.joined(measured_rates(config, Path(folder)))
    import_torch = statistics.median(imported[1]["ms"]) / 1e3
    parts = limits(config, done, rates, seconds(done), import_torch=import_torch)
    about = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": args.threads,
        "quick": args.quick,
        "peak_mib": done["peak_mib"],
        **described(config, rates),
    }
    study_table(parts)
    save_figures(args.out, about, [*imported, *(part.row() for part in parts)])


def imports(rounds: int) -> list[dict[str, Any]]:
    """Wall milliseconds and resident memory of each of `IMPORTS`, in turns."""
    rows: dict[str, dict[str, Any]] = {name: {"kind": "import", "name": name, "ms": [], "mib": []} for name in IMPORTS}
    for round_ in range(rounds + 1):
        for name, code in IMPORTS.items():
            begun = time.perf_counter()
            ended = subprocess.run([sys.executable, "-c", code + MEMORY], capture_output=True, text=True, check=True)
            ms = 1e3 * (time.perf_counter() - begun)
            if round_:  # the first brings the files into memory
                rows[name]["ms"].append(ms)
                rows[name]["mib"].append(int(ended.stdout.split()[-1]) / 1024)
    return list(rows.values())


def demo(*, quick: bool) -> StudyConfig:
    """The embedded study, or a tenth of it."""
    with as_file(files("polyseme.cli").joinpath("demo.toml")) as path:
        config = load_config(path, StudyConfig)
    if not quick:
        return config
    tokens, evaluation = config.tokens, config.evaluation
    small = {"train": tokens.train // 10, "heldout": tokens.heldout // 10, "splice": tokens.splice // 10}
    assert config.training.n_tokens is not None
    return config.model_copy(
        update={
            "tokens": tokens.model_copy(update=small),
            "training": config.training.model_copy(update={"n_tokens": config.training.n_tokens // 10}),
            "evaluation": evaluation.model_copy(update={"lookup_tokens": evaluation.lookup_tokens // 10}),
            "causal": config.causal.model_copy(update={"n_samples": config.causal.n_samples // 8}),
        }
    )


def studied(config: StudyConfig, root: Path) -> dict[str, Any]:
    """What `studied.py` says of the study, and when its process was started.

    Raises:
        RuntimeError: the study failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "study.json"
        told.write_text(config.model_dump_json())
        script = str(Path(__file__).with_name("studied.py"))
        begun = time.time()
        ended = subprocess.run(
            [sys.executable, script, str(told), str(root)], capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise RuntimeError(f"the study failed: {ended.stderr[-6000:]}")
    return {**json.loads(ended.stdout.splitlines()[-1]), "begun": begun}


def seconds(done: dict[str, Any]) -> dict[str, float]:
    """Seconds of each part, in the order of the study; they add up to the wall time from the process's start."""
    events, inside = done["events"], done["inside"]
    found = {"starting Python and torch": events[0]["time"] - done["begun"]}
    before = events[0]["time"]
    for event in events[1:-1]:
        stage = event["stage"].partition(" (")[0]
        # Between two stages the next one's inputs are loaded. Verdicts are made for the report, after the last stage.
        gap = "loading the network" if stage == "tokens" else "between stages"
        found[gap] = found.get(gap, 0.0) + event["time"] - event["seconds"] - before
        if stage == "dictionaries" and "harvest" not in found:
            found |= {
                "harvest": inside["batches"],
                "training": inside["fit"] - inside["batches"],
                "mean vectors": inside["means"],
                STAGES[stage]: -inside["fit"] - inside["means"],
            }
        part = STAGES.get(stage, stage)
        found[part] = found.get(part, 0.0) + event["seconds"]
        before = event["time"]
    return {**found, "report": events[-1]["time"] - before}


def described(config: StudyConfig, rates: Rates) -> dict[str, Any]:
    """The study's size and the rates that its limits rest on."""
    dictionary: Any = config.dictionary
    return {
        "sites": len(config.sites),
        "seeds": len(config.seeds),
        "controls": len(config.controls),
        "n_latents": dictionary.n_latents,
        "n_tokens": config.training.n_tokens,
        "gflops": rates.gflops(),
    }


def import_table(rows: list[dict[str, Any]]) -> None:
    """Milliseconds, with what they are beyond torch's own."""
    torch_ms = rows[1]["ms"]
    print(f"{'':52} {'median ms':>9} {'quartiles':>15} {'beyond torch':>12} {'MiB':>6}")
    for row in rows:
        low, middle, high = statistics.quantiles(row["ms"], n=4, method="inclusive")
        beyond = statistics.median(a - b for a, b in zip(row["ms"], torch_ms, strict=True))
        shown = f"{beyond:12.0f}" if "torch," in row["name"] else " " * 12
        mib = statistics.median(row["mib"])
        print(f"{row['name']:52} {middle:9.0f} {low:7.0f} {high:7.0f} {shown} {mib:6.0f}", flush=True)


def study_table(parts: list[Part]) -> None:
    """Every part beside its limit, and the whole."""
    wall = sum(part.seconds for part in parts)
    most = max(parts, key=lambda part: part.above)
    print(f"\n{'':26} {'seconds':>8} {'share':>6} {'limit':>7} {'ratio':>6} {'above':>7}")
    for part in [*parts, Part("the whole study", wall, sum(part.limit for part in parts), "")]:
        print(
            f"{part.name:26} {part.seconds:8.2f} {part.seconds / wall:6.1%} {part.limit:7.2f} {ratio(part):>6}"
            f" {part.above:7.2f}{' ← most above its limit' if part is most else ''}"
        )
    print()
    for part in parts:
        print(f"{part.name}: {part.derivation}")


def ratio(part: Part) -> str:
    """Seconds over the limit; nothing where that is only the disk's, or none."""
    return f"{part.seconds / part.limit:.1f}" if part.limit > 0.005 * part.seconds else ""


if __name__ == "__main__":
    main()
