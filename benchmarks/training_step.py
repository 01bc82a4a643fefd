"""One training step of every architecture, beside other libraries' and beside the product it cannot do without.

    python benchmarks/training_step.py --peers .venv-peers/bin/python --out results/step.json

Every library trains by its own loop in its own process on the same batches; they take turns step by step, so that a
noisy machine slows all alike, and medians are compared. `encoder GEMM` is x W_encᵀ alone, by torch's own product and by
oneDNN's; the faster is the limit. Architectures with a penalty are trained until sparse before the timing (`--warmup`).
"""

import argparse
import math
import platform
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from workers import Contestant, save_figures, take_turns

ARCHITECTURES = ("topk", "batch_topk", "matryoshka", "relu", "jumprelu", "gated")
PENALISED = ("relu", "jumprelu", "gated")
"""Those whose L0 a penalty decides."""
LIMIT = "encoder GEMM"
BEGINNING = 6
"""First steps of a penalised architecture that are shown apart: all latents are active in them."""
PEERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sae-lens", "default", ARCHITECTURES),
    ("sae-lens", "sparse", ("topk",)),  # its fastest in float32
    ("sae-lens", "autocast", ("topk", "batch_topk", "relu")),
    ("dictionary-learning", "default", ARCHITECTURES),
    ("overcomplete", "default", ("topk", "batch_topk", "relu", "jumprelu")),
    ("overcomplete", "silent", ("topk",)),
    ("sparsify", "default", ("topk",)),
    ("sparsify", "adam", ("topk",)),
)
"""Library, setting, and the architectures it has."""


def shown(library: str, setting: str) -> str:
    """A contestant's name in tables."""
    return library if setting == "default" else f"{library} ({setting})"


def planted(rows: int, generator: torch.Generator, directions: torch.Tensor) -> np.ndarray:
    """Sums of about 30 of 4d directions, each coordinate of variance 1."""
    on = torch.rand(rows, len(directions), generator=generator) < 30 / len(directions)
    x = (on * torch.rand(rows, len(directions), generator=generator)) @ directions
    x -= x.mean(0)
    return (x / x.square().mean().sqrt()).numpy()


def save_data(folder: Path, d: int, n_train: int, n_heldout: int) -> None:
    """train.npy and heldout.npy of the same planted directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * d, d, generator=generator), dim=1)
    for name, rows in (("train", n_train), ("heldout", n_heldout)):
        parts = [planted(min(8192, rows - i), generator, directions) for i in range(0, rows, 8192)]
        np.save(folder / f"{name}.npy", np.concatenate(parts))


def main() -> None:
    """Time what is asked for, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--latents", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batches", type=int, default=16, help="distinct batches")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first timing")
    parser.add_argument(
        "--sparse-warmup", type=int, default=120, help="the same for polyseme's penalised architectures"
    )
    parser.add_argument("--coefficient", type=float, default=2.0, help="of polyseme's penalty, at first")
    parser.add_argument("--target-l0", type=float, default=64.0, help="that polyseme's penalty is steered to")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--libraries", nargs="*", help="of the peers; all by default")
    parser.add_argument("--peers", help="the interpreter that has the other libraries; without it polyseme alone")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    shape = {"n_latents": args.latents, "batch_size": args.batch, "k": args.k, "threads": args.threads}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_data(Path(folder), args.d, args.batches * args.batch, args.batch)
        for architecture in args.only:
            spec = {**shape, "data": folder, "architecture": architecture}
            penalised = architecture in PENALISED
            training: dict[str, Any] = {"warmup": 0.0}
            ours: dict[str, Any] = {"library": "polyseme", "options": {"training": training}}
            if penalised:
                training |= {"sparsity_warmup": 0.0, "target_l0": args.target_l0}
                ours |= {"lr": 3e-3, "coefficient": args.coefficient}
            entrants = [
                (LIMIT, sys.executable, {"library": LIMIT}),
                (f"{LIMIT} (oneDNN)", sys.executable, {"library": LIMIT, "setting": "onednn"}),
                ("polyseme", sys.executable, ours),
            ]
            for library, setting, has in PEERS:
                if args.peers and architecture in has and (not args.libraries or library in args.libraries):
                    entrants.append((shown(library, setting), args.peers, {"library": library, "setting": setting}))
            with ExitStack() as stack:
                invited = [
                    stack.enter_context(closing(Contestant(name, python, {**spec, **own})))
                    for name, python, own in entrants
                ]
                contestants = [contestant for contestant in invited if works(contestant)]
                if penalised:
                    own = next(c for c in contestants if c.name == "polyseme")
                    ms = [own.ask("step")["ms"] for _ in range(args.sparse_warmup)][:BEGINNING]
                    found.append({"architecture": architecture, "name": "polyseme (its first steps, dense)", "ms": ms})
                timings = take_turns(contestants, warmup=args.warmup, rounds=args.rounds)
                for contestant in contestants:
                    measured = {**contestant.ask("memory"), **contestant.ask("quality")}
                    ms = timings[contestant.name].ms
                    found.append({"architecture": architecture, "name": contestant.name, "ms": ms, **measured})
            table(architecture, [row for row in found if row["architecture"] == architecture])
            about = {"torch": torch.__version__, "python": platform.python_version(), "d": args.d, **shape}
            about["sparse_warmup"] = args.sparse_warmup
            save_figures(args.out, about, found)


def works(contestant: Contestant) -> bool:
    """Whether it can take a step; what it says when it cannot is printed."""
    try:
        contestant.ask("step")
    except RuntimeError as error:
        print(str(error)[-800:])
        return False
    return True


def table(architecture: str, rows: list[dict[str, Any]]) -> None:
    """One architecture's figures, with ratios to the limit and to polyseme."""
    medians = {row["name"]: float(np.median(row["ms"])) for row in rows}
    limit = min(ms for name, ms in medians.items() if name.startswith(LIMIT))
    print(f"\n{architecture:24} {'median ms':>9} {'quartiles':>17} {'/ GEMM':>7} {'/ ours':>7} {'L0':>7} {'MiB':>6}")
    for row in rows:
        low, high = np.quantile(row["ms"], [0.25, 0.75])
        median = medians[row["name"]]
        print(
            f"{row['name']:24} {median:9.0f} {low:8.0f}{high:9.0f} {median / limit:7.2f}"
            f" {median / medians['polyseme']:7.2f} {row.get('l0', math.nan):7.1f} {row.get('peak_mib', math.nan):6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
