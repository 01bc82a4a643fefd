"""Harvest, in tokens a second, beside its peers and beside the products it cannot do without.

    python benchmarks/harvest.py
    python benchmarks/harvest.py --peers PYTHON      with sae-lens and TransformerLens, from another environment
    python benchmarks/harvest.py --batches           at several windows a pass

A GPT-2 of random weights and random tokens: 6 layers, d=384, context 256, read after block 3. Every contestant runs in
a process of its own and they take turns, so that a noisy machine slows all alike; only ratios within one run mean
anything. Each first row of a precision is the products of the four blocks' weights alone, by the faster of torch's two
routines: the limit, and `share` is how much of it a harvest reaches.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar
from workers import Contestant, save_figures, take_turns

AFTER = 3
CONTEXT = 256
VOCABULARY = 4096


def materials(folder: Path, d: int, n_windows: int) -> dict[str, Any]:
    """A network and tokens in `folder`, as fields of a spec."""
    torch.manual_seed(0)
    disable_progress_bar()
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=d, n_layer=6, n_head=6, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "network")
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (n_windows, CONTEXT))
    np.save(folder / "tokens.npy", tokens)
    return {"network": str(folder / "network"), "tokens": str(folder / "tokens.npy"), "after": AFTER}


def field(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Contestants by name: fields of their specs, `peer` where they need the other environment."""
    if args.batches:
        sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= args.windows]
        return {
            f"polyseme {setting or 'plain'}, {size} windows a pass": {
                "library": "polyseme",
                "batch": size,
                "setting": setting,
            }
            for setting in ("", "fused")
            for size in sizes
        }
    known: dict[str, dict[str, Any]] = {
        "products, mm": {"library": "products", "batch": 8},
        "products, oneDNN": {"library": "products", "batch": 8, "setting": "onednn"},
        "transformers, 32 a pass": {"library": "transformers", "batch": 32},
        "transformers, 8 a pass": {"library": "transformers", "batch": 8},
        "polyseme": {"library": "polyseme"},
        "polyseme fused": {"library": "polyseme", "setting": "fused"},
    }
    peers: dict[str, dict[str, Any]] = {
        "TransformerLens, 8 a pass": {"library": "transformer-lens", "batch": 8},
        "sae-lens, its 32 a pass": {"library": "sae-lens", "batch": 32},
        "sae-lens, 8 a pass": {"library": "sae-lens", "batch": 8},
        "sae-lens with transformers, 8 a pass": {"library": "sae-lens", "batch": 8, "setting": "hf"},
    }
    if args.bfloat16:
        half = {"dtype": "bfloat16"}
        known |= {
            "bf16 products, mm": {"library": "products", "batch": 8, **half},
            "bf16 products, oneDNN": {"library": "products", "batch": 8, "setting": "onednn", **half},
            "bf16 polyseme": {"library": "polyseme", **half},
            "bf16 polyseme fused": {"library": "polyseme", "setting": "fused", **half},
        }
        peers |= {
            "bf16 sae-lens autocast, its 32 a pass": {"library": "sae-lens", "batch": 32, "setting": "autocast"},
            "bf16 sae-lens autocast, 8 a pass": {"library": "sae-lens", "batch": 8, "setting": "autocast"},
        }
    if args.peers:
        known |= {name: {**spec, "peer": True} for name, spec in peers.items()}
    return {name: spec for name, spec in known.items() if not args.only or any(word in name for word in args.only)}


def main() -> None:
    """Time every harvest and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--windows", type=int, default=32, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has sae-lens and transformer-lens")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", nargs="*", metavar="WORD", help="contestants with one of these in their names")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 too")
    parser.add_argument("--batches", action="store_true", help="ours at several windows a pass, and nothing else")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        shared = materials(Path(folder), args.d, 4 * args.windows)
        shared |= {"windows": args.windows, "threads": args.threads}
        contestants: list[Contestant] = []
        try:
            for name, spec in field(args).items():
                python = args.peers if spec.pop("peer", False) else sys.executable
                contestants.append(Contestant(name, python, {**shared, **spec}, script="harvester.py"))
            timings = take_turns(contestants, warmup=2, rounds=args.rounds)
        finally:
            for contestant in contestants:
                contestant.close()

    tokens = args.windows * CONTEXT
    about = {"torch": torch.__version__, "threads": args.threads, "d": args.d, "tokens": tokens}
    save_figures(args.out, about, [{"name": name, "ms": timing.ms} for name, timing in timings.items()])
    flops = 2 * 12 * args.d**2 * (AFTER + 1) * tokens
    print(f"torch {torch.__version__}, {args.threads} threads, d={args.d}, {args.rounds} rounds of {tokens} tokens")
    print(f"{'':42} {'tokens/s':>9} {'quartiles':>15} {'share':>6}")
    for half in (False, True):
        own = {name: timing for name, timing in timings.items() if name.startswith("bf16") == half}
        limit = min((timing.median for name, timing in own.items() if "products" in name), default=float("nan"))
        for name, timing in own.items():
            low, high = (1e3 * tokens / ms for ms in reversed(timing.quartiles))
            speed = f"  {flops / timing.median / 1e6:.0f} GFLOP/s" if "products" in name else ""
            rate = 1e3 * tokens / statistics.median(timing.ms)
            print(f"{name:42} {rate:9.0f} {low:7.0f}{high:8.0f} {limit / timing.median:6.2f}{speed}")


if __name__ == "__main__":
    main()
