"""The figure of the recovery sweep."""

import math
from typing import Any

import numpy as np

from polyseme.evaluation.metrics import METRICS
from polyseme.zoo.planted_sparse.sweep import AGREED, NAMES, RecoveryReport
from polyseme.zoo.tools.figures import panels


def recovery_figure(report: RecoveryReport, *, most: int = 6) -> Any:
    """The fronts of FVU, MCC and F1 over L0, side by side, and sentences where they disagree.

    Args:
        report: the result of the sweep.
        most: maximum number of sentences under the panels; the others are counted.
    """
    from matplotlib import colormaps

    figure, panel = panels(len(NAMES), width=13, height=5.6)
    colours = {name: colormaps["tab10"](i) for i, name in enumerate(report.config.architectures)}
    for axes, (metric, name) in zip(panel, NAMES.items(), strict=True):
        front = report.front(metric)
        l0 = [p.value("l0") for p in front]
        axes.plot(l0, [p.value(metric) for p in front], color="0.85", lw=9, zorder=0, label="front")
        for architecture, colour in colours.items():
            own = sorted((p for p in report.points if p.architecture == architecture), key=lambda p: p.value("l0"))
            intervals = [p.record(metric).interval for p in own]
            half = [math.nan if i is None else i.high - p.value(metric) for i, p in zip(intervals, own, strict=True)]
            l0, values = [p.value("l0") for p in own], [p.value(metric) for p in own]
            axes.plot(l0, values, color=colour, marker="o", ms=4, lw=1.4, label=architecture)
            axes.errorbar(l0, values, yerr=half, color=colour, lw=0.8, alpha=0.5, ls="none")
        axes.axvline(report.true_l0, color="0.4", ls=":", lw=1, label="true L0")
        shown = [p.value(metric) for p in report.points]
        if metric != "fvu":
            chance = float(np.mean([p.record(metric).details["chance"] for p in report.points]))
            axes.axhline(chance, color="0.4", ls="--", lw=1, label="chance")
            shown.append(chance)
        ticks = sorted({p.wanted_l0 for p in report.points})
        axes.set(
            xscale="log",
            xlabel="L0, latents a vector",
            ylabel=name,
            title=f"{name} ({METRICS[metric].better} is better)",
        )
        axes.set_xticks(ticks, [f"{l0:g}" for l0 in ticks])
        axes.minorticks_off()
        margin = 0.08 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    figure.legend(
        *panel[-1].get_legend_handles_labels(), loc="outside upper center", ncols=9, frameon=False, fontsize=8
    )
    said = report.disagreements()
    if len(said) > most:
        said = [*said[:most], f"… and {len(said) - most} more."]
    figure.supxlabel("\n".join(said or [AGREED]), x=0.01, ha="left", fontsize=9)
    return figure
