"""Recovery beside reconstruction: every architecture on SynthSAEBench's setting, in one pass over the same vectors.

    python benchmarks/recovery.py --out results/recovery.json
    python benchmarks/recovery.py --published --latents 4096 --l0 25 --samples 5_000_000
    python benchmarks/recovery.py --ablate
    python benchmarks/recovery.py --peers .venv-peers/bin/python

The second is SynthSAEBench-16k's world (dictionaries are trained on 200 M vectors there). The last also computes every
score by sae-lens's own calculators, and draws from sae-lens's generator what ours is compared with.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from page import table
from pydantic import TypeAdapter
from workers import save_figures

from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.dictionaries import ARCHITECTURES, SparseDictionary
from polyseme.evaluation.recovery import FeatureTruth, over_seeds, scored
from polyseme.training import Job, TrainingConfig, fit
from polyseme.zoo.synth_sae_bench.toy import PUBLISHED, SynthSaeBenchToy
from polyseme.zoo.synth_sae_bench.world import World, frequencies, moved_apart

COLUMNS = ("mcc", "nearest_f1", "nearest_precision", "nearest_recall", "unique_features", "fvu", "dead_latents", "l0")
"""Metrics of the table; absorption, which has records of several depths, follows."""
NESTED = (1 / 32, 1 / 8, 1 / 2, 1.0)
EASY = {"k_start": 4.0}
ABLATION: dict[str, dict[str, Any]] = {
    "ista": {},
    "k falls from 4 k": EASY,
    "and one pass": {"eta": 0.0} | EASY,
    "and the batch's k throughout": {"per_vector": 0.0} | EASY,
    "and nested by index": {"prefixes": NESTED} | EASY,
    "and nested by frequency": {"prefixes": NESTED, "nesting": "detached_by_frequency"} | EASY,
    "and not detached": {"prefixes": NESTED, "nesting": "by_frequency"} | EASY,
    "the batch's k throughout": {"per_vector": 0.0},
    "batch_topk": {"eta": 0.0, "per_vector": 0.0},
}
"""What `--ablate` trains instead of the architectures: `ista` with each idea left out or put in."""
CHUNK = 4096
"""Held-out rows that are encoded at a time."""


def jobs_of(config: SynthSaeBenchToy, args: argparse.Namespace, seed: int, site: str) -> list[Job]:
    """A dictionary of each architecture, at the L0 asked for."""
    jobs: list[Job] = []
    for name in args.only:
        kind = ARCHITECTURES["ista" if args.ablate else name]
        has_k = "k" in kind.model_fields
        settings = {"n_latents": args.latents, **({"k": args.l0} if has_k else {})}
        of = TypeAdapter(kind).validate_python(settings | (ABLATION[name] if args.ablate else {}))
        dictionary = of.build(config.d, seed=derive_seed(seed, "recovery", name))
        jobs.append(Job(name, dictionary, Binding.at(site), seed, None if has_k else args.l0))
    return jobs


def heldout(world: World, args: argparse.Namespace, seed: int) -> list[tuple[torch.Tensor, Latents]]:
    """Vectors that no dictionary was trained on, with the sizes of their features."""
    generator = make_generator(seed, "recovery", "heldout")
    drawn = [world.draw(min(CHUNK, args.heldout - i), generator) for i in range(0, args.heldout, CHUNK)]
    return [(world.vectors(values), values) for values in drawn]


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table, with what chance reaches."""
    names = [*COLUMNS, "absorption"]
    cells = [[row["architecture"], *(f"{row[name]['value']:.3f}" for name in names)] for row in rows]
    chance = [f"{name} {rows[0][name]['chance']:.3f}" for name in names if rows[0][name]["chance"] is not None]
    return "\n".join([*table(["", *names], cells), f"By chance, {rows[0]['architecture']}: {', '.join(chance)}"])


def beside_sae_lens(config: SynthSaeBenchToy, jobs: Sequence[Job], args: argparse.Namespace) -> dict[str, Any]:
    """Scores by sae-lens's calculators and what its generator draws, of the last seed's dictionaries and world."""
    seed = config.seeds[-1]
    world, n = config.world(seed), args.heldout
    batches = heldout(world, args, seed)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        start = torch.randn(min(2 * config.d, config.n_features), config.d, generator=make_generator(seed, "start"))
        forest = world.forest
        arrays: dict[str, Any] = {
            name: getattr(world, name).numpy()
            for name in ("directions", "bias", "frequency", "chosen", "mean", "spread", "loadings")
        }
        arrays |= {"parents": forest.parents.numpy(), "excluding": forest.excluding.numpy(), "start": start.numpy()}
        arrays |= {"law": [config.n_features, config.zipf, *config.frequencies], "scaled": config.scaled, "rows": n}
        np.savez(at / "world.npz", **arrays)
        for job in jobs:
            assert isinstance(job.dictionary, SparseDictionary)
            z = [job.dictionary.encode(x) for x, _ in batches]
            np.savez(
                at / f"dictionary-{job.name}.npz",
                directions=job.dictionary.write_directions().detach().numpy(),
                x=torch.cat([x for x, _ in batches]).numpy(),
                y=torch.cat([job.dictionary.decode(of) for of in z]).detach().numpy(),
                **_sparse("z", z),
                **_sparse("values", [values for _, values in batches]),
            )
        found = shutil.which(args.peers)
        if found is None:
            raise FileNotFoundError(f"No interpreter at {args.peers!r}: `make .venv-peers/.installed` makes one.")
        script = Path(__file__).with_name("recovery_peer.py")
        done = subprocess.run([os.path.abspath(found), str(script), folder], check=True, stdout=subprocess.PIPE)
        theirs = json.loads(done.stdout.splitlines()[-1])
        drawn = dict(np.load(at / "drawn.npz"))
    ours = world.draw(n, make_generator(seed, "recovery", "beside sae-lens"))
    return {
        "scores": theirs["scores"],
        "frequencies": float(
            np.abs(drawn["law"] - frequencies(config.n_features, config.zipf, *config.frequencies).numpy()).max()
        ),
        "chosen": float(np.abs(drawn["chosen"] - forest.chosen(world.frequency).numpy()).max()),
        "directions": float(np.abs(drawn["moved"] - moved_apart(start).numpy()).max()),
        "generator": differences(statistics(ours), drawn, forest.parents.numpy()),
        "seconds": theirs["seconds"],
    }


def _sparse(name: str, parts: Sequence[Latents]) -> dict[str, Any]:
    lengths = np.concatenate([part.offsets.diff().numpy() for part in parts])
    return {
        f"{name}_values": torch.cat([part.values for part in parts]).detach().numpy(),
        f"{name}_indices": torch.cat([part.indices for part in parts]).numpy(),
        f"{name}_offsets": np.concatenate([[0], lengths.cumsum()]),
    }


def statistics(values: Latents) -> dict[str, np.ndarray]:
    """How often features and pairs of the 64 most frequent ones are on, and sums of sizes."""
    from scipy import sparse

    arrays = (values.values.double().numpy(), values.indices.numpy(), values.offsets.numpy())
    sizes = sparse.csr_array(arrays, shape=(values.n_rows, values.n_latents))
    on = (sizes[:, :64].toarray() > 0).astype(np.float64)
    squares = np.asarray(sizes.power(2).sum(0))
    return {
        "counts": np.diff(sizes.tocsc().indptr),
        "pairs": on.T @ on,
        "sums": np.asarray(sizes.sum(0)),
        "squares": squares,
    }


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], parents: np.ndarray) -> dict[str, float]:
    """Differences of two draws of as many rows in standard errors: mean z² is 1 for equal distributions."""
    out: dict[str, float] = {}
    upper = np.triu_indices(64, 1)
    for name, which in (("roots and free", parents < 0), ("children", parents >= 0)):
        out |= _z(f"frequencies, {name}", ours["counts"][which], theirs["counts"][which])
    out |= _z("pairs", ours["pairs"][upper], theirs["pairs"][upper])
    enough = (ours["counts"] > 200) & (theirs["counts"] > 200)
    mean = [of["sums"][enough] / of["counts"][enough] for of in (ours, theirs)]
    error = sum(
        (of["squares"][enough] / of["counts"][enough] - m**2) / of["counts"][enough]
        for of, m in zip((ours, theirs), mean, strict=True)
    )
    z = (mean[0] - mean[1]) / np.sqrt(error)
    return out | {
        "sizes: mean z²": float((z**2).mean()),
        "sizes: largest |z|": float(np.abs(z).max()),
        "sizes: n": int(enough.sum()),
    }


def _z(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    enough = a + b >= 40
    z = (a - b)[enough] / np.sqrt((a + b)[enough])
    return {
        f"{name}: mean z²": float((z**2).mean()),
        f"{name}: largest |z|": float(np.abs(z).max()),
        f"{name}: n": int(enough.sum()),
    }


def main() -> None:
    """Train, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", action="store_true", help="SynthSAEBench-16k's world instead of the small one")
    parser.add_argument("--features", type=int)
    parser.add_argument("--d", type=int)
    parser.add_argument("--zipf", type=float)
    parser.add_argument("--frequencies", type=float, nargs=2)
    parser.add_argument("--trees", type=int)
    parser.add_argument("--exclusive", type=float)
    parser.add_argument("--compensated", action=argparse.BooleanOptionalAction)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--latents", type=int, default=512)
    parser.add_argument("--l0", type=int, default=6)
    parser.add_argument("--samples", type=int, default=1_500_000)
    parser.add_argument("--heldout", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, help="by default as training chooses it")
    parser.add_argument("--ablate", action="store_true", help="variants of ista instead of the architectures")
    parser.add_argument("--only", nargs="*", choices=[*ARCHITECTURES, *ABLATION])
    parser.add_argument("--peers", help="an interpreter that has sae-lens; without it polyseme alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    args.only = args.only or list(ABLATION if args.ablate else ARCHITECTURES)
    torch.set_num_threads(args.threads)
    base = PUBLISHED if args.published else SynthSaeBenchToy()
    sizes = {"n_features": args.features, "d": args.d, "zipf": args.zipf, "frequencies": args.frequencies}
    sizes |= {"trees": args.trees, "exclusive": args.exclusive, "compensated": args.compensated}
    sizes |= {"seeds": args.seeds}
    changes = {name: value for name, value in sizes.items() if value is not None}
    config = SynthSaeBenchToy.model_validate(base.model_dump() | changes)
    training = TrainingConfig(n_tokens=args.samples, batch_size=args.batch, lr=args.lr)
    records: dict[str, list[Any]] = {name: [] for name in args.only}
    jobs: list[Job] = []
    for seed in config.seeds:
        world, source = config.world(seed), config.source(seed, args.samples)
        begun = time.perf_counter()
        jobs = jobs_of(config, args, seed, source.sites[0])
        fit(jobs, source, training)
        print(f"seed {seed}: {len(jobs)} dictionaries trained in {time.perf_counter() - begun:.0f} s", flush=True)
        truth = FeatureTruth(world.directions, world.forest.parents.tolist())
        batches = heldout(world, args, seed)
        for job in jobs:
            records[job.name].append(scored(job.dictionary, truth, batches, seed=seed, hedging=False))
    rows: list[dict[str, Any]] = []
    for name, of_seeds in records.items():
        found = {r.name: r for r in over_seeds(of_seeds) if not {"depth", "directions"} & r.scope.keys()}
        kept = {
            key: {
                "value": found[key].value,
                "seeds": found[key].details["seeds"],
                "chance": found[key].details.get("chance"),
            }
            for key in (*COLUMNS, "absorption")
        }
        rows.append({"architecture": name, "true_l0": found["l0"].details["true_l0"], **kept})
    print(f"\nTrue L0 {rows[0]['true_l0']:.2f}; {args.samples:,} vectors; L0 asked for {args.l0}\n\n{shown(rows)}")
    about: dict[str, Any] = {"world": config.model_dump(mode="json"), "torch": torch.__version__}
    about |= {name: getattr(args, name) for name in ("latents", "l0", "samples", "heldout", "batch", "lr")}
    if args.peers:
        about["sae_lens"] = beside_sae_lens(config, jobs, args)
        print("\nBeside sae-lens:\n" + json.dumps(about["sae_lens"], indent=1))
        worst = 0.0
        for row in rows:
            theirs = about["sae_lens"]["scores"][row["architecture"]]
            ours = {key: row[key]["seeds"][-1] for key in COLUMNS}
            record = next(r for r in records[row["architecture"]][-1] if r.name == "mcc")
            ours["mcc"] = record.details["of_weights"]
            differing = {key: abs(ours[key] - theirs[key]) for key in COLUMNS}
            worst = max(worst, *differing.values())
            print(row["architecture"], {key: f"{value:.1e}" for key, value in differing.items()})
        about["sae_lens"]["largest difference of a score"] = worst
    save_figures(args.out, about, rows)


if __name__ == "__main__":
    main()
