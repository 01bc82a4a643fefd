"""docs/benchmarks.md and its picture, from the figures that the benchmarks of this folder left in results/."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import scaling_page
import study_page
from page import spread, table
from training_step import LIMIT, PENALISED

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


def main() -> None:
    """Write what there are figures for."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))}
    lines = [(HERE / "preamble.md").read_text().rstrip(), "", f"Machine: {machine()}. {versions()}", ""]
    for name, result in found.items():
        if name.startswith("step-"):
            lines += step_tables(result)
    if "harvest" in found:
        lines += harvest_table(found["harvest"])
    if "toys" in found:
        lines += toys_table(found["toys"])
    if "quality" in found:
        lines += quality_table(found["quality"])
    if "recovery" in found:
        lines += recovery_table(found["recovery"])
    if "scaling" in found:
        lines += scaling_page.section(found["scaling"])
        scaling_page.picture(found["scaling"], DOCS / "images" / "scaling.svg")
    if "study" in found:
        lines += study_page.section(found["study"])
    (DOCS / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n")
    steps = {name: result for name, result in found.items() if name.startswith("step-")}
    if steps:
        picture(next(iter(steps.values())), DOCS / "images" / "benchmarks.svg")


RECOVERY = {
    "mcc": "MCC",
    "nearest_f1": "F1",
    "nearest_precision": "precision",
    "nearest_recall": "recall",
    "unique_features": "unique",
    "fvu": "FVU",
    "dead_latents": "dead",
    "l0": "L0",
    "absorption": "absorption",
}
"""Column of the table of recovery for each metric."""


def recovery_table(result: dict[str, Any]) -> list[str]:
    """Recovery beside reconstruction, in SynthSAEBench's setting."""
    about, rows = result["about"], result["rows"]
    world = about["world"]
    cells = [[row["architecture"], *(f"{row[name]['value']:.3f}" for name in RECOVERY)] for row in rows]
    chance = ", ".join(
        f"{title} {rows[0][name]['chance']:.3f}" for name, title in RECOVERY.items() if rows[0][name]["chance"]
    )
    lines = [
        f"## Recovery, {world['n_features']:,} features in {world['d']} dimensions, {about['latents']:,} latents, "
        f"L0 {about['l0']:g}, {about['samples']:,} vectors, {len(world['seeds'])} seeds",
        "",
        *table(["", *RECOVERY.values()], cells),
        f"A vector has {rows[0]['true_l0']:.2f} features. MCC counts dead latents as misses; F1, precision and",
        f"recall are those of each latent for its nearest feature. By chance, for {rows[0]['architecture']}: {chance}.",
    ]
    if "sae_lens" in about:
        worst = about["sae_lens"]["largest difference of a score"]
        lines[-1] += f" Computed by sae-lens, no score differs by more than {worst:.0e}."
    return [*lines, ""]


def machine() -> str:
    """The processor in words."""
    listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    fields = dict(line.split(":", 1) for line in listed.splitlines() if ":" in line)
    name = fields.get("Model name", platform.processor()).strip()
    flags = [flag for flag in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in fields.get("Flags", "")]
    family, model = (fields.get(key, "?").strip() for key in ("CPU family", "Model"))
    cores = f"{fields.get('CPU(s)', '?').strip()} cores"
    return f"{name} (family {family}, model {model}), {cores}, {', '.join(flags) or 'no AVX-512'}"


def versions() -> str:
    """What was compared."""
    peers = [
        line for line in (HERE / "peers.txt").read_text().splitlines() if "==" in line and not line.startswith("#")
    ]
    return f"Python {platform.python_version()}; {', '.join(peers)}, overcomplete==0.3.0."


def medians(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """Of each contestant, and of the faster encoder product."""
    found = {row["name"]: statistics.median(row["ms"]) for row in rows}
    return found, min(ms for name, ms in found.items() if name.startswith(LIMIT))


def step_tables(result: dict[str, Any]) -> list[str]:
    """One table an architecture."""
    about, rows = result["about"], result["rows"]
    lines = [
        f"## Training step, d = {about['d']}, {about['n_latents']:,} latents, batch {about['batch_size']:,},"
        f" k = {about['k']}, {about['threads']} threads",
        "",
    ]
    for architecture in dict.fromkeys(row["architecture"] for row in rows):
        own = {row["name"]: row for row in rows if row["architecture"] == architecture}
        median, limit = medians(own.values())
        lines += [f"### {architecture}, n = {len(own['polyseme']['ms'])} steps each", ""]
        penalised = architecture in PENALISED
        if penalised:
            lines += [
                f"Before the timing polyseme trained for {about.get('sparse_warmup', 120)} steps, until few latents",
                "were active: its time depends on their number, the others' does not. L0 is that of held-out vectors.",
                "",
            ]
        lines += table(
            (
                "",
                "ms, median [quartiles]",
                "over the encoder product",
                "over polyseme",
                "L0",
                "peak MiB of the process",
            ),
            [
                (
                    name,
                    spread(row["ms"]),
                    f"{median[name] / limit:.2f}",
                    "" if name.startswith(LIMIT) else f"{median[name] / median['polyseme']:.2f}",
                    f"{row['l0']:.0f}" if penalised and "l0" in row and not name.startswith(LIMIT) else "",
                    f"{row['peak_mib']:.0f}" if "peak_mib" in row else "",
                )
                for name, row in own.items()
            ],
        )
    return lines


def harvest_table(result: dict[str, Any]) -> list[str]:
    """Tokens a second, each precision beside its own products and its own fused harvest."""
    about, rows = result["about"], result["rows"]
    n = len(rows[0]["ms"])
    title = f"Harvest, six-layer GPT-2, d = {about['d']}, after block 3, {about['threads']} threads"
    lines = [f"## {title}, n = {n} each", ""]
    cells: list[tuple[str, ...]] = []
    for half in (False, True):
        own = {row["name"]: row["ms"] for row in rows if row["name"].startswith("bf16") == half}
        median = {name: statistics.median(ms) for name, ms in own.items()}
        limit = min((ms for name, ms in median.items() if "products" in name), default=float("nan"))
        fused = next((ms for name, ms in median.items() if name.endswith("polyseme fused")), float("nan"))
        for name, ms in own.items():
            rates = spread([1e3 * about["tokens"] / each for each in ms])
            cells.append((name, rates, f"{limit / median[name]:.2f}", f"{median[name] / fused:.2f}"))
    header = ("", "tokens a second, median [quartiles]", "share of the products alone", "polyseme fused over it")
    return lines + table(header, cells)


def toys_table(result: dict[str, Any]) -> list[str]:
    """Sweeps of small networks."""
    about = result["about"]
    lines = [f"## Sweeps of toy networks, batch {about['batch']:,}, {about['threads']} threads", ""]
    rows: list[tuple[str, ...]] = []
    for row in result["rows"]:
        ratio = statistics.median(row["loop"]) / statistics.median(row["ours"])
        rows.append((" × ".join(map(str, row["shape"])), spread(row["loop"]), spread(row["ours"]), f"{ratio:.2f}"))
    return lines + table(("networks × features × hidden", "the notebooks' loop, ms", "polyseme, ms", "ratio"), rows)


def quality_table(result: dict[str, Any]) -> list[str]:
    """FVU at equal steps."""
    about = result["about"]
    lines = [
        f"## Quality: held-out FVU after {about['steps']:,} equal steps",
        "",
        f"Planted directions, d = {about['d']}, {about['n_latents']:,} latents, batch {about['batch_size']:,}, "
        f"k = {about['k']}; one",
        "seed each, every library's own defaults. Where a penalty decides L0, polyseme's is adjusted to the L0 that",
        f"the other reached, and may miss it. With so small a number of steps some end at an L0 of {about['d']}",
        "or more, where any code is exact, or near 0, where none is: those rows only show where the defaults lead.",
        "",
    ]
    rows = [(row["architecture"], row["name"], f"{row['fvu']:.4f}", f"{row['l0']:.1f}") for row in result["rows"]]
    return lines + table(("architecture", "", "FVU", "L0"), rows)


def picture(result: dict[str, Any], path: Path) -> None:
    """Steps over the encoder product, a bar each."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    import matplotlib.pyplot as plt

    rows = result["rows"]
    architectures = list(dict.fromkeys(row["architecture"] for row in rows))
    measured = dict.fromkeys(row["name"] for row in rows if "l0" in row)
    names = [name for name in measured if not name.startswith(LIMIT)]
    across = min(3, len(architectures))
    down = -(-len(architectures) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(2 + 2.6 * across, 0.6 + 2.6 * down), sharey=True, layout="constrained", squeeze=False
    )
    grid[0, 0].invert_yaxis()
    for ax in grid.flat[len(architectures) :]:
        ax.set_axis_off()
    for ax, architecture in zip(grid.flat, architectures, strict=False):
        median, limit = medians(row for row in rows if row["architecture"] == architecture)
        values = [median.get(name, 0) / limit for name in names]
        colours = ["tab:blue" if name == "polyseme" else "0.65" for name in names]
        for bar, value in zip(ax.barh(names, values, color=colours), values, strict=True):
            label = f"{value:.1f}" if value else "–"
            ax.annotate(label, (value, bar.get_y() + bar.get_height() / 2), (3, 0), textcoords="offset points",
                        va="center", fontsize=7)  # fmt: skip
        ax.axvline(1, color="tab:red", linewidth=1)
        ax.margins(x=0.15)
        ax.set_title(architecture, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("step over the encoder's product alone (red: 1)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
