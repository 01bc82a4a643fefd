"""The section of docs/benchmarks.md on scaling, and its picture, from what `scaling.py` wrote."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from page import ratio, spread, table
from scale_model import BLOCK, MATRIX_PASSES, VECTOR_PASSES, Rates, Shape, predicted

Row = Mapping[str, Any]
MEASURED, MODEL, LIMIT = "tab:blue", "0.35", "tab:red"
ASKED_MIB = 64


def section(result: Mapping[str, Any]) -> list[str]:
    """Tables of every axis that was measured."""
    about, rows = result["about"], result["rows"]
    axes = {name: [row for row in rows if row["axis"] == name] for name in dict.fromkeys(row["axis"] for row in rows)}
    lines = [
        f"## Scaling: TopK, k = {about['k']}, batch {about['batch_size']:,}, {about['threads']} threads",
        "",
        "![Time and memory against latents, width, tokens and dictionaries](images/scaling.svg)",
        "",
        *_explained(),
    ]
    titles = {"latents": "Latents", "d": "Width", "dictionaries": "Dictionaries of one `fit`, the same batches"}
    for axis, title in titles.items():
        if axis in axes:
            lines += _of_shapes(title, axes[axis])
    if "memory" in axes:
        lines += _of_memory(axes["memory"])
    if "tokens" in axes:
        lines += _of_tokens(axes["tokens"])
    if "architectures" in axes:
        lines += _of_architectures(axes["architectures"])
    if "harvest" in axes:
        lines += _of_harvest(axes["harvest"])
    return lines


def _explained() -> list[str]:
    text = f"""\
Each point is a process of its own that trains with `fit`. The processes of a table take turns with the encoder's
product and with the measurements of the model's rates (a turn of steps under 150 ms is the median of three). The
model of a step is the sum of these parts, for d inputs, n latents, a batch of B vectors and k active latents a
vector:

| Part | Work |
| --- | --- |
| product | 2 B n d operations as the engine does them: by bytes where the processor can, else by floats in blocks of \
{BLOCK[1]} latents |
| selection | a row of 4 d bytes for each candidate that normal vectors would have (by floats: the k largest of \
B n numbers) |
| order | a sort of k B entries |
| entries | 3 fetches of 4 d bytes for each of k B entries |
| parameters | 32 bytes for each (Adam 28, the gradient's norm 4), and {sum(MATRIX_PASSES.values())} passes over \
the 4 n d bytes of a weight matrix |
| vectors | {sum(VECTOR_PASSES.values())} passes over the 4 B d bytes of the batch |

Product and sort are charged at the rate of each alone, and bytes at the rate of a large copy. All rates were measured
in the same run, the product's as the median over the table's shapes and the others at one shape. No constant is
fitted. Whatever stays in a cache is faster than the model predicts.

*Rest* is the highest memory of the process minus four things: the interpreter with its imports, what the first use of
the code takes, the stream with its batch, and parameters, gradients and Adam's moments (16 bytes a parameter
together).
"""
    return text.split("\n")


def _of_shapes(title: str, rows: Sequence[Row]) -> list[str]:
    each_rate = [Rates(**row["rates"]) for row in rows]
    rates = next((one for one in each_rate if one.selected is None), each_rate[0])
    lines = [f"### {title}", ""]
    cells: list[tuple[str, ...]] = []
    for row in rows:
        shape, ms, memory = Shape(**row["shape"]), statistics.median(row["ms"]), row["memory"]
        product, own = (shape.dictionaries * statistics.median(row[key]) for key in ("product", "own"))
        parts = predicted(shape, Rates(**row["rates"]))
        cells.append(
            (
                f"{shape.d:,} × {shape.n_latents:,}" + (f" × {shape.dictionaries}" if shape.dictionaries > 1 else ""),
                str(len(row["ms"])),
                spread(row["ms"]),
                ratio(ms, product),
                ratio(own, product),
                f"{sum(parts.values()):.0f}",
                ratio(ms, sum(parts.values())),
                *(f"{value:.0f}" for value in parts.values()),
                f"{memory['parameters'] + memory['gradients'] + memory['adam']:.0f}",
                f"{memory['rest']:.0f}",
            )
        )
    header = (
        *(
            "d × latents",
            "n",
            "ms a step, median [quartiles]",
            "over the product",
            "the engine's own product, over it",
        ),
        *("model, ms", "measured over model", *predicted(Shape(1, 1, 1, 1), rates)),
        *("parameters, gradients, Adam, MiB", "rest, MiB"),
    )
    lines += table(header, cells)
    lines += [
        f"Rates: the engine's product {rates.flops / 1e9:.0f} G operations/s"
        f" ({'by bytes' if rates.selected is None else 'by floats'}, median of the shapes that go so),"
        f" copy {rates.copied / 1e9:.1f} GB/s, sort {rates.ordered / 1e6:.1f} M a second.",
        "",
    ]
    alone = next((row for row in rows if row["shape"]["dictionaries"] == 1), None)
    if alone is not None and len({row["shape"]["dictionaries"] for row in rows}) > 1:
        shares = [f"{row['shape']['dictionaries']}: {each(row) / each(alone):.2f}" for row in rows if row is not alone]
        lines += [f"Time of a dictionary over that of one alone: {', '.join(shares)}.", ""]
    return [*lines, *_failings(rows), ""]


def _failings(rows: Sequence[Row]) -> list[str]:
    """Where the model is out by more than a fifth, in words."""
    out: list[str] = []
    for row in rows:
        shape, ms = Shape(**row["shape"]), statistics.median(row["ms"])
        parts = predicted(shape, Rates(**row["rates"]))
        total = sum(parts.values())
        if abs(ms / total - 1) > 0.2:
            own = shape.dictionaries * statistics.median(row["own"])
            out.append(
                f"{shape.d:,} × {shape.n_latents:,} × {shape.dictionaries} ({ms - total:+.0f} ms, of which"
                f" its own product {own - parts['product']:+.0f})"
            )
    if not out:
        return ["The model is within a fifth of every point."]
    return [f"The model is out by more than a fifth at {'; '.join(out)}."]


def each(row: Row) -> float:
    """Milliseconds a dictionary."""
    return statistics.median(row["ms"]) / row["shape"]["dictionaries"]


def _of_memory(rows: Sequence[Row]) -> list[str]:
    shape = Shape(**rows[0]["shape"])
    rest = sorted(row["memory"]["rest"] for row in rows if not row["live_only"])
    within = sum(mib <= ASKED_MIB for mib in rest)
    text = (
        f"Rest of {len(rest)} processes, MiB: {', '.join(f'{mib:.0f}' for mib in rest)}; {within} of them within"
        f" {ASKED_MIB}."
    )
    for row in rows:
        if row["live_only"]:
            text += (
                f" In use at a time: {row['memory']['rest']:.0f} (every large block given back as soon as it is freed)."
                " What is between is the allocator's: the same blocks fall into other holes of every process's heap."
            )
    return [f"### Memory at {shape.d:,} × {shape.n_latents:,}", "", text, ""]


def _of_tokens(rows: Sequence[Row]) -> list[str]:
    lines = ["### Tokens of one training", ""]
    cells: list[tuple[str, ...]] = []
    for row in rows:
        for mark in row["marks"]:
            memory = mark["memory"]
            cells.append(
                (
                    f"{row['shape']['d']:,} × {row['shape']['n_latents']:,}",
                    f"{mark['tokens']:,}",
                    str(mark["n"]),
                    f"{mark['ms']:.0f} [{mark['low']:.0f}, {mark['high']:.0f}]",
                    f"{memory['rest']:.1f}",
                    f"{memory['peak']:.0f}",
                    memory["note"],
                )
            )
    header = (
        "d × latents",
        "tokens so far",
        "n",
        "ms a step since",
        "rest, MiB",
        "peak of the process, MiB",
        "training",
    )
    return lines + table(header, cells)


def _of_architectures(rows: Sequence[Row]) -> list[str]:
    """The highest memory so far of each, as its training goes on."""
    shape, last = rows[0]["shape"], rows[0]["marks"][-1]["tokens"]
    seen = [mark["tokens"] for mark in rows[0]["marks"]]
    lines = [
        f"### Memory of each architecture at {shape['d']:,} × {shape['n_latents']:,}",
        "",
        f"Rest so far, MiB; {last:,} tokens, k or target L0 {shape['k']}, one training each.",
        "",
    ]
    cells: list[tuple[str, ...]] = []
    for row in rows:
        rest = {mark["tokens"]: f"{mark['memory']['rest']:.0f}" for mark in row["marks"]}
        note = row["marks"][-1]["memory"]["note"]
        cells.append((row["architecture"], *(rest.get(tokens, "") for tokens in seen), note))
    return lines + table(("architecture", *(f"{tokens:,} tokens" for tokens in seen), "at the end"), cells)


def _of_harvest(rows: Sequence[Row]) -> list[str]:
    shape, tokens = Shape(**rows[0]["shape"]), rows[0]["batches"] * rows[0]["shape"]["batch_size"]
    median = {row["shape"]["dictionaries"]: statistics.median(row["ms"]) for row in rows}
    reading, alone = median[0], median.get(1)
    lines = [
        "### Dictionaries of one `fit` on a network's activations, harvested as they are needed",
        "",
        f"GPT-2 of six layers and random weights, d = {shape.d}, after block {rows[0]['after']};"
        f" {shape.n_latents:,} latents, batch {shape.batch_size:,}. Alone, each dictionary has a harvest of its own.",
        "",
    ]
    cells = [
        (
            str(count) if count else "none: the harvest alone",
            str(len(row["ms"])),
            spread(row["ms"]),
            f"{ms / count:.0f}" if count else "",
            ratio(ms / count, alone) if count and alone else "",
            f"{reading + count * (alone - reading):.0f}" if count and alone else "",
            f"{row['memory']['rest']:.0f}" if count else "",
        )
        for row in rows
        for count, ms in [(row["shape"]["dictionaries"], median[row["shape"]["dictionaries"]])]
    ]
    header = (
        *("dictionaries", "n", f"ms for {tokens:,} tokens", "a dictionary", "over one alone"),
        *("harvest + one fit for each", "rest, network and its block included, MiB"),
    )
    return lines + table(header, cells)


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Time above, memory below, an axis each."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    rows = result["rows"]
    axes = [name for name in ("latents", "d", "tokens", "dictionaries") if any(row["axis"] == name for row in rows)]
    if not axes:
        return
    with mpl.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "scaling"}
    ):
        figure, grid = plt.subplots(
            2, len(axes), figsize=(3.1 * len(axes), 5.4), squeeze=False, sharex="col", layout="constrained"
        )
        draw: dict[str, Callable[..., None]] = {"tokens": _draw_tokens, "dictionaries": _draw_dictionaries}
        for column, name in enumerate(axes):
            own = [row for row in rows if row["axis"] == name]
            if name == "dictionaries":
                own += [row for row in rows if row["axis"] == "harvest"]
            draw.get(name, _draw_shapes)(grid[0, column], grid[1, column], name, own)
        for ax in grid.flat:
            if ax.get_yscale() == "log":
                ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
                ax.yaxis.set_minor_formatter(NullFormatter())
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _draw_shapes(time: Any, memory: Any, name: str, rows: Sequence[Row]) -> None:
    xs = [row["shape"]["n_latents" if name == "latents" else "d"] for row in rows]
    ms = [statistics.median(row["ms"]) for row in rows]
    low, high = zip(*(_quartiles(row["ms"]) for row in rows), strict=True)
    models = [sum(predicted(Shape(**row["shape"]), Rates(**row["rates"])).values()) for row in rows]
    products = [statistics.median(row["product"]) for row in rows]
    bars = [[m - a for m, a in zip(ms, low, strict=True)], [b - m for m, b in zip(ms, high, strict=True)]]
    time.errorbar(xs, ms, yerr=bars, color=MEASURED, marker="o", markersize=4, label="a step")
    time.plot(xs, models, color=MODEL, linestyle="--", marker="x", markersize=4, label="its model")
    time.plot(xs, products, color=LIMIT, linewidth=1, label="the encoder's product")
    time.set(xscale="log", yscale="log", ylabel="ms" if name == "latents" else None)
    fixed = "d = {d:,}" if name == "latents" else "{n_latents:,} latents"
    time.set_title(("latents, " if name == "latents" else "width, ") + fixed.format(**rows[0]["shape"]), fontsize=10)
    time.legend(frameon=False, reverse=True)

    kept = [sum(row["memory"][part] for part in ("parameters", "gradients", "adam")) for row in rows]
    memory.plot(xs, kept, color=MODEL, marker="o", markersize=4, label="parameters, gradients, Adam")
    _rest(memory, xs, [row["memory"]["rest"] for row in rows], asked=True)
    memory.set(yscale="log", ylabel="MiB" if name == "latents" else None, xlabel=name)
    memory.set_xticks(xs, [_short(x) for x in xs])
    memory.minorticks_off()
    memory.legend(frameon=False)


def _draw_tokens(time: Any, memory: Any, _name: str, rows: Sequence[Row]) -> None:
    for row, marker in zip(rows, "os^", strict=False):
        marks, shape = row["marks"], row["shape"]
        xs = [mark["tokens"] for mark in marks]
        label = f"{shape['d']} × {shape['n_latents']:,}"
        bars = [[mark["ms"] - mark["low"] for mark in marks], [mark["high"] - mark["ms"] for mark in marks]]
        time.errorbar(
            xs, [mark["ms"] for mark in marks], yerr=bars, color=MEASURED, marker=marker, markersize=4, label=label
        )
        _rest(
            memory,
            xs,
            [mark["memory"]["rest"] for mark in marks],
            asked=row is rows[0],
            marker=marker,
            label=f"rest, {label}",
        )
    time.set(xscale="log", yscale="log")
    time.set_title("tokens of one training", fontsize=10)
    time.legend(frameon=False)
    memory.set(xlabel="tokens")
    memory.set_ylim(bottom=0)
    memory.legend(frameon=False)


def _draw_dictionaries(time: Any, memory: Any, _name: str, rows: Sequence[Row]) -> None:
    for axis, label, colour in (
        ("dictionaries", "batches at hand", MEASURED),
        ("harvest", "harvested live", "tab:green"),
    ):
        own = [row for row in rows if row["axis"] == axis and row["shape"]["dictionaries"]]
        alone = next((row for row in own if row["shape"]["dictionaries"] == 1), None)
        if alone is None:
            continue
        xs = [row["shape"]["dictionaries"] for row in own]
        time.plot(xs, [each(row) / each(alone) for row in own], color=colour, marker="o", markersize=4, label=label)
        if axis == "dictionaries":
            _rest(memory, xs, [row["memory"]["rest"] for row in own], asked=True)
    time.axhline(1, color=LIMIT, linewidth=1)
    time.set(xscale="log", ylim=(0, None))
    counts = sorted({row["shape"]["dictionaries"] for row in rows} - {0})
    memory.set_xticks(counts, [str(count) for count in counts])
    time.set_title("dictionaries of one fit", fontsize=10)
    time.set_ylabel("time of each over one alone")
    time.legend(frameon=False)
    memory.set(xlabel="dictionaries", ylim=(0, None))
    memory.minorticks_off()
    memory.legend(frameon=False)


def _rest(
    ax: Any, xs: Sequence[float], mib: Sequence[float], *, asked: bool, marker: str = "o", label: str = "rest"
) -> None:
    ax.plot(xs, mib, color=MEASURED, marker=marker, markersize=4, label=label)
    if asked:
        ax.axhline(ASKED_MIB, color=LIMIT, linewidth=1, linestyle=":", label=f"{ASKED_MIB} MiB")


def _quartiles(ms: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(ms, n=4, method="inclusive")
    return low, high


def _short(number: int) -> str:
    return f"{number // 1024}k" if number % 1024 == 0 else str(number)
