"""The sections of docs/benchmarks.md on imports and on a whole study, from what `study.py` measured."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from page import spread, table


def section(result: Mapping[str, Any]) -> list[str]:
    """Imports, and a whole study part by part beside its limits."""
    rows: dict[str, list[dict[str, Any]]] = {"import": [], "part": []}
    for row in result["rows"]:
        rows[row["kind"]].append(row)
    return [*_imports(rows["import"]), *_study(result["about"], rows["part"])]


def _imports(found: Sequence[Mapping[str, Any]]) -> list[str]:
    torch_ms = next(row["ms"] for row in found if row["name"] == "import torch")
    rows: list[tuple[str, ...]] = []
    for row in found:
        beyond = statistics.median(a - b for a, b in zip(row["ms"], torch_ms, strict=True))
        shown = f"{beyond:.0f}" if "torch," in row["name"] else ""
        rows.append((f"`{row['name']}`", spread(row["ms"]), shown, f"{statistics.median(row['mib']):.0f}"))
    return [
        f"## Imports, fresh processes in turns, n = {len(torch_ms)}",
        "",
        *table(("", "ms, median [quartiles]", "beyond torch, paired", "resident MiB"), rows),
    ]


def _study(about: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> list[str]:
    wall, limit = (sum(row[key] for row in parts) for key in ("seconds", "limit"))
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in about["gflops"].items())
    lines = [
        f"## A whole study over the sum of its limits: {wall / limit:.1f}",
        "",
        f"{'A tenth of what' if about['quick'] else 'What'} `polyseme demo` runs: {about['sites']} sites, "
        f"{about['seeds']} seeds, {about['controls']} controls, {about['n_latents']:,} latents, {about['n_tokens']:,} "
        f"tokens a dictionary. One run, {about['threads']} threads, {about['peak_mib']:.0f} MiB at most.",
        "A part's limit is its products, at the rates measured beside the study at its own shapes and by the faster",
        f"routine (GFLOP/s: {rates}); its tokens through the tokenizer alone; and its bytes at",
        "the disk's rate. The derivations are below; whatever else a part does counts as above its limit.",
        "",
    ]
    most = max(parts, key=lambda row: row["seconds"] - row["limit"])
    rows: list[tuple[str, ...]] = []
    whole: dict[str, Any] = {"name": "the whole study", "seconds": wall, "limit": limit}
    for row in [*parts, whole]:
        above = f"{row['seconds'] - row['limit']:.1f}"
        rows.append(
            (
                row["name"],
                f"{row['seconds']:.1f}",
                f"{row['seconds'] / wall:.0%}",
                f"{row['limit']:.1f}",
                f"{row['seconds'] / row['limit']:.1f}" if row["limit"] > 0.005 * row["seconds"] else "",
                f"**{above}**" if row is most else above,
            )
        )
    lines += table(("part", "s", "share", "limit, s", "ratio", "s above the limit"), rows)
    return [*lines, *(f"- {row['name']}: {row['derivation']}" for row in parts), ""]
