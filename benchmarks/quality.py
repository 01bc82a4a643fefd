"""What the speed costs in quality: FVU on held-out data after equal steps on the same batches, at equal L0.

    python benchmarks/quality.py --peers .venv-peers/bin/python --out results/quality.json

Every library trains by its own loop with its own defaults (learning rate, initialisation, schedule), told the number of
steps. Where a penalty decides L0, the library goes first with its own coefficient and polyseme is then steered to the
L0 that came out.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from training_step import ARCHITECTURES, PEERS, PENALISED, save_data, shown
from workers import Contestant, save_figures


def trained(name: str, python: str, spec: dict[str, Any]) -> dict[str, float] | None:
    """FVU and L0 after `spec["steps"]` steps; None where the library fails."""
    contestant = Contestant(name, python, spec)
    try:
        for _ in range(spec["steps"]):
            contestant.ask("step")
        return contestant.ask("quality")
    except RuntimeError as error:
        print(str(error)[-500:])
        return None
    finally:
        contestant.close()


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batches", type=int, default=256, help="distinct batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--libraries", nargs="*", help="of the peers; all by default")
    parser.add_argument("--peers", required=True, help="the interpreter that has the other libraries")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_data(Path(folder), args.d, args.batches * args.batch, 8 * args.batch)
        spec = {"data": folder, "n_latents": args.latents, "batch_size": args.batch, "k": args.k, "steps": args.steps}
        spec["threads"] = args.threads
        for architecture in args.only:
            entrants = [
                (library, setting)
                for library, setting, has in PEERS
                if architecture in has and setting in ("default", "adam")
                if not args.libraries or library in args.libraries
            ]
            if architecture not in PENALISED:
                entrants.append(("polyseme", "default"))
            for library, setting in entrants:
                own = {**spec, "architecture": architecture, "library": library, "setting": setting}
                python = sys.executable if library == "polyseme" else args.peers
                name = shown(library, setting)
                quality = trained(name, python, own)
                if quality is None:
                    continue
                rows = [(name, quality)]
                if architecture in PENALISED:
                    steered = {"training": {"target_l0": max(1.0, quality["l0"])}}
                    ours = trained("polyseme", sys.executable, {**own, "library": "polyseme", "options": steered})
                    rows.append((f"polyseme, at the L0 of {name}", ours or {}))
                for row, measured in rows:
                    found.append({"architecture": architecture, "name": row, **measured})
                    figures = "  ".join(f"{key} {value:.4f}" for key, value in measured.items())
                    print(f"{architecture:12} {row:44} {figures}", flush=True)
                about = {key: value for key, value in spec.items() if key != "data"} | {"d": args.d}
                save_figures(args.out, about, found)


if __name__ == "__main__":
    main()
