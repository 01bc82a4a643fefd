"""Time and memory of training against latents, width, tokens and dictionaries, beside a model of the time.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json
    python benchmarks/scaling.py --axes latents d --rounds 9
    python benchmarks/scaling.py --axes tokens --seconds 7200          100 million tokens

Every point trains TopK dictionaries by polyseme's own `fit` in a process of its own, on vectors that are made a batch
at a time and not kept. The points of an axis take turns with the encoder's product alone at each of their shapes and
with the rates that `scale_model.py` needs, so that a noisy machine slows all alike. An axis goes on for its rounds or
until its share of `--seconds` is used up. The axis of tokens is one long training of each of two shapes, looked at
whenever its tokens have doubled. That of a harvest trains on a GPT-2 of random weights as it is read. That of memory
is one shape in several processes; that of architectures one training of each.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harvest import AFTER, materials
from scale_model import Rates, Shape, predicted
from workers import PAUSE, Contestant, save_figures

from polyseme.dictionaries import ARCHITECTURES
from polyseme.dictionaries.engine.selection import by_bytes

SHARES = {
    "latents": 0.33,
    "d": 0.15,
    "dictionaries": 0.11,
    "tokens": 0.28,
    "harvest": 0.13,
    "memory": 0.0,
    "architectures": 0.0,
}
"""Of `--seconds`; those of memory and architectures take what they take."""
MEMORY_STEPS = 4
"""The first step has no moments yet."""
LEAST_ROUNDS = 3
SHORT_MS, SHORT_STEPS = 150.0, 3
"""Steps shorter than this go so many a turn, and their median counts: the first finds others' data in the caches."""
PLANNED_STEPS = 10_000
"""Of a training that is timed: long enough that no latent is taken for dead in the few steps that are."""
COPIED_BYTES = 2 * 128 * 2**20
"""Read and written by a turn of the copy."""
HARVESTED = 2
"""Batches of a turn with a network."""
SMALL = Shape(d=64, n_latents=256, k=4, batch_size=8192)
"""What sees the most tokens in a given time."""


def measured(name: str, shapes: Sequence[Shape], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The points of an axis, a row each."""
    tile = {"n_latents": args.n, "k": args.k}
    specs: dict[str, dict[str, Any]] = {"copy": {"kind": "copy"}}
    specs["selection"] = {"kind": "selection", "batch_size": args.batch, **tile}
    specs["order"] = {"kind": "order", "batch_size": args.batch, **tile}
    for shape in shapes:
        planned = {**asdict(shape), "n_tokens": PLANNED_STEPS * shape.batch_size}
        specs[f"fit {shape}"] = {"kind": "fit", **planned}
        alone = replace(shape, dictionaries=1)
        specs[f"product {alone}"] = {"kind": "product", **asdict(alone)}
        specs[f"own {alone}"] = {"kind": "own", **asdict(alone)}
    ms, memory = rounds_of(specs, args, SHARES[name] * args.seconds)

    singles = dict.fromkeys(replace(shape, dictionaries=1) for shape in shapes)
    bytewise = {each: by_bytes(each.batch_size, each.n_latents, each.d, each.k) for each in singles}

    def rates(alone: Shape) -> Rates:
        """Those of the shapes that go the same way."""
        same = [each for each in singles if bytewise[each] == bytewise[alone]]
        return Rates(
            flops=statistics.median(1e3 * each.flops / statistics.median(ms[f"own {each}"]) for each in same),
            copied=1e3 * COPIED_BYTES / statistics.median(ms["copy"]),
            selected=None if bytewise[alone] else 1e3 * args.batch * args.n / statistics.median(ms["selection"]),
            ordered=1e3 * args.batch * args.k / statistics.median(ms["order"]),
        )

    return [
        {
            "axis": name,
            "shape": asdict(shape),
            "ms": ms[f"fit {shape}"],
            "product": ms[f"product {replace(shape, dictionaries=1)}"],
            "own": ms[f"own {replace(shape, dictionaries=1)}"],
            "rates": asdict(rates(replace(shape, dictionaries=1))),
            "memory": memory[f"fit {shape}"],
        }
        for shape in shapes
    ]


def rounds_of(
    specs: Mapping[str, Mapping[str, Any]], args: argparse.Namespace, seconds: float
) -> tuple[dict[str, tuple[float, ...]], dict[str, dict[str, Any]]]:
    """Milliseconds of each, round by round until there are enough or the time is up; the memory of those that train.

    Args:
        specs: what takes turns, by name.
        args: rounds, warm-up and threads.
        seconds: from the first turn on.
    """
    with ExitStack() as stack:
        workers = [worker(name, {**spec, "threads": args.threads}, stack) for name, spec in specs.items()]
        taken: dict[str, tuple[float, ...]] = dict.fromkeys(specs, ())
        for one in workers:
            one.ask("memory")  # it is ready
        begun = time.monotonic()
        steps = {one.name: SHORT_STEPS if warmed_up(one, args.warmup) < SHORT_MS else 1 for one in workers}
        longest = 0.0
        for done in range(args.rounds):
            now = time.monotonic()
            if done >= LEAST_ROUNDS and now + longest > begun + seconds:
                break
            for one in workers:
                time.sleep(PAUSE)
                taken[one.name] += (statistics.median(one.ask("step")["ms"] for _ in range(steps[one.name])),)
            longest = max(longest, time.monotonic() - now)
        memory = {one.name: one.ask("memory") for one in workers if specs[one.name]["kind"] in ("fit", "live")}
    return taken, memory


def warmed_up(one: Contestant, steps: int) -> float:
    """Milliseconds of the last of so many steps."""
    return [one.ask("step")["ms"] for _ in range(max(1, steps))][-1]


def worker(name: str, spec: Mapping[str, Any], stack: ExitStack) -> Contestant:
    """A process that ends with the stack."""
    return stack.enter_context(closing(Contestant(name, sys.executable, spec, script="scale_point.py")))


def over_tokens(
    shape: Shape, n_tokens: int, seconds: float, args: argparse.Namespace, architecture: str = "topk"
) -> dict[str, Any]:
    """One training as far as the time lets it, looked at whenever its tokens have doubled."""
    spec = {"kind": "fit", "architecture": architecture, **asdict(shape), "n_tokens": n_tokens, "threads": args.threads}
    marks: list[dict[str, Any]] = []
    since: list[float] = []
    last, mark = n_tokens // shape.batch_size, 8
    with ExitStack() as stack:
        one = worker(f"tokens {shape}", spec, stack)
        warmed_up(one, args.warmup)
        end = time.monotonic() + seconds
        for step in range(max(1, args.warmup) + 1, last + 1):
            since.append(one.ask("step")["ms"])
            over = step == last or time.monotonic() > end
            if step == mark or over:
                marks.append({"tokens": step * shape.batch_size, **summary(since), "memory": one.ask("memory")})
                mark, since = 2 * mark, []
            if over:
                break
    about = {"axis": "tokens", "architecture": architecture, "shape": asdict(shape)}
    return {**about, "planned": n_tokens, "marks": marks}


def memory_again(shape: Shape, repeats: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The memory of so many processes of one shape, for it differs with the layout of the heap; and what is in use."""
    rows: list[dict[str, Any]] = []
    spec = {"kind": "fit", **asdict(shape), "n_tokens": PLANNED_STEPS * shape.batch_size, "threads": args.threads}
    for live_only in [False] * repeats + [True] * (platform.libc_ver()[0] == "glibc"):
        with ExitStack() as stack:
            one = worker(f"memory {shape}", {**spec, "live_only": live_only}, stack)
            warmed_up(one, MEMORY_STEPS)
            rows.append({"axis": "memory", "shape": asdict(shape), "live_only": live_only, "memory": one.ask("memory")})
    return rows


def harvested(shape: Shape, counts: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """So many dictionaries of one fit on a network's activations as they are read; 0: the reading alone."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {"kind": "live", "steps": HARVESTED, "n_tokens": PLANNED_STEPS * shape.batch_size}
        # Enough windows for every round: read again, they would come in groups of another order.
        shared |= materials(Path(folder), shape.d, 1024)
        shapes = [replace(shape, dictionaries=count) for count in (0, *counts)]
        specs = {f"live {each}": {**shared, **asdict(each)} for each in shapes}
        ms, memory = rounds_of(specs, args, SHARES["harvest"] * args.seconds)
    return [
        {
            "axis": "harvest",
            "shape": asdict(each),
            "after": AFTER,
            "batches": HARVESTED,
            "ms": ms[f"live {each}"],
            "memory": memory[f"live {each}"],
        }
        for each in shapes
    ]


def summary(ms: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and n."""
    low, middle, high = statistics.quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else 3 * [ms[0]]
    return {"ms": middle, "low": low, "high": high, "n": len(ms)}


def affordable(shapes: Sequence[Shape], gib: float) -> list[Shape]:
    """The first shapes whose processes fit in memory together: 16 bytes a parameter, W_enc for each of the two
    products, and .6 GiB for the three."""
    fitting: list[Shape] = []
    for shape in shapes:
        gib -= (16 * shape.parameters + 8 * shape.n_latents * shape.d) / 2**30 + 0.6
        if gib < 0:
            print(f"left out for lack of memory (--gib): {shape}")
            break
        fitting.append(shape)
    return fitting


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows of one axis, with the model's terms."""
    for row in rows:
        shape = Shape(**row["shape"])
        name = f"{row.get('architecture', row['axis']):12} {shape.d:5} × {shape.n_latents:6} × {shape.dictionaries}"
        for mark in row.get("marks", ()):
            memory = mark["memory"]
            print(
                f"{name} {mark['tokens']:12,} tokens {mark['ms']:8.1f} ms [{mark['low']:.1f}, {mark['high']:.1f}]"
                f" n {mark['n']}, rest {memory['rest']:.1f} of {memory['peak']:.0f} MiB; {memory['note']}"
            )
        if row["axis"] == "memory":
            kind = "in use at a time" if row["live_only"] else "of a process"
            print(f"{name} rest {kind} {row['memory']['rest']:.1f} of {row['memory']['peak']:.0f} MiB")
        if "ms" not in row:
            continue
        found, memory = summary(row["ms"]), row["memory"]
        line = f"{name} {found['ms']:8.1f} ms [{found['low']:.1f}, {found['high']:.1f}] n {found['n']}"
        if "rates" in row:
            parts = predicted(shape, Rates(**row["rates"]))
            product, own = (shape.dictionaries * statistics.median(row[key]) for key in ("product", "own"))
            line += f", product {product:.1f} (the engine's own {own:.1f}), model {sum(parts.values()):.1f}: "
            line += ", ".join(f"{term} {value:.1f}" for term, value in parts.items())
            line += f"; measured over model {found['ms'] / sum(parts.values()):.2f}"
        print(f"{line}; rest {memory['rest']:.1f} of {memory['peak']:.0f} MiB")
    if rates := next((row["rates"] for row in rows if "rates" in row), None):
        print(
            f"the engine's product {rates['flops'] / 1e9:.0f} G operations/s, copy {rates['copied'] / 1e9:.1f} GB/s,"
            + (
                ""
                if rates["selected"] is None
                else f" top k of {rates['selected'] / 1e6:.0f} M pre-activations a second,"
            )
            + f" sort of {rates['ordered'] / 1e6:.1f} M entries"
        )
    sys.stdout.flush()


def main() -> None:
    """Measure the axes asked for; print each and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="*", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--latents", nargs="*", type=int, default=[2**i for i in range(11, 18)], help="at width --d")
    parser.add_argument("--widths", nargs="*", type=int, default=[256, 512, 1024, 2048, 4096], help="at --n latents")
    parser.add_argument("--dictionaries", nargs="*", type=int, default=[1, 2, 4, 8], help="of one fit")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of --d × --n, at most")
    parser.add_argument("--more-tokens", type=int, default=100_000_000, help="of 64 × 256, at most")
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--n", type=int, default=8192, help="latents")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--network", nargs=3, type=int, default=[384, 8192, 2048], help="its width, latents, batch")
    parser.add_argument("--rounds", type=int, default=7, help="at most, and 3 at least")
    parser.add_argument("--repeats", type=int, default=5, help="processes whose memory is compared")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first timing")
    parser.add_argument("--seconds", type=float, default=520, help="for all axes; processes' starts come on top")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--gib", type=float, default=12, help="memory to be used at most")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()

    reference = Shape(args.d, args.n, args.k, args.batch)
    shapes = {
        "latents": [replace(reference, n_latents=n) for n in args.latents],
        "d": [replace(reference, d=d) for d in args.widths],
        "dictionaries": [replace(reference, dictionaries=count) for count in args.dictionaries],
    }
    about = {"torch": version("torch"), "python": platform.python_version(), "threads": args.threads}
    rows: list[dict[str, Any]] = []
    for axis in args.axes:
        if axis == "tokens":
            seconds = SHARES[axis] * args.seconds
            found = [
                over_tokens(reference, args.tokens, 0.8 * seconds, args),
                over_tokens(SMALL, args.more_tokens, 0.2 * seconds, args),
            ]
        elif axis == "architectures":
            each_of = [over_tokens(reference, args.tokens, args.seconds, args, name) for name in ARCHITECTURES]
            found = [{**row, "axis": axis} for row in each_of]
        elif axis == "memory":
            found = memory_again(reference, args.repeats, args)
        elif axis == "harvest":
            width, latents, batch = args.network
            found = harvested(Shape(width, latents, args.k, batch), args.dictionaries, args)
        else:
            found = measured(axis, affordable(shapes[axis], args.gib), args)
        show(found)
        rows += found
        save_figures(args.out, {**about, **asdict(reference)}, rows)


if __name__ == "__main__":
    main()
