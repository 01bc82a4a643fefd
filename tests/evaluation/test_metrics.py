"""Each line of the table of metrics: what changes its value and what does not, and that nothing else lists metrics.

`python -m tests.evaluation.test_metrics` writes docs/metrics.md from the table.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import polyseme
from polyseme.activations.massive import Ordinary
from polyseme.causal import SIZES
from polyseme.core.batch import Latents
from polyseme.core.records import MetricRecord
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.evaluation import METRICS, LookupConfig, evaluate_lookup, evaluate_reconstruction, splice, stability
from polyseme.evaluation.metric import Change, Metric, Pass
from polyseme.evaluation.recovery import Answers, FeatureTruth, recovery
from polyseme.zoo import TOYS
from tests.evaluation.fakes import (
    AT_FIRST,
    AT_SECOND,
    FIRST,
    SECOND,
    WIDTH,
    FakeNetwork,
    Linear,
    counted,
    fluent_windows,
    make_windows,
)
from tests.evaluation.test_recovery import PARENTS, noisy

DOCS = Path(__file__).parents[2] / "docs/metrics.md"
SITES = (FIRST, SECOND)
CHANGES: dict[Pass, tuple[Change, ...]] = {
    "reconstruction": ("batches", "documents", "scale", "shift", "latents"),
    "lookup": ("batches", "documents", "scale", "shift"),
    "splice": ("batches", "documents", "scale", "shift", "latents"),
    "stability": ("scale", "latents"),
    "recovery": ("batches", "documents", "scale", "latents"),
}
"""What can be changed for each pass; the ladder is a function of one record."""


class Moved:
    """Where a network's sites hold factor · x + offset instead of x."""

    def __init__(self, change: Change | None):
        self.factor = 3.0 if change == "scale" else 1.0
        self.offset = torch.linspace(1, 2, WIDTH) if change == "shift" else torch.zeros(WIDTH)
        self.order = torch.arange(12)
        if change == "latents":
            self.order = torch.randperm(12, generator=torch.Generator().manual_seed(3))

    def put(self, x: Tensor) -> Tensor:
        return self.factor * x + self.offset

    def back(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.factor

    def network(self) -> FakeNetwork:
        moved = self

        class Network(FakeNetwork):
            def read(self, inputs, sites):
                return {site: moved.put(x) for site, x in super().read(inputs, sites).items()}

            def _forward(self, tokens, edits):
                inside = {site: lambda x, e=edit: moved.back(e(moved.put(x))) for site, edit in edits.items()}
                return super()._forward(tokens, inside)

        return Network()

    def dictionary(self, seed: int) -> Linear:
        moved, order = self, self.order

        class Dictionary(Linear):
            def encode(self, x: Tensor) -> Latents:
                return super().encode(moved.back(x))

            def decode(self, z: Latents) -> Tensor:
                return moved.put(super().decode(z))

        found = Dictionary(seed=seed)
        found.W_enc, found.W_dec, found.b_enc = (t[order] for t in (found.W_enc, found.W_dec, found.b_enc))
        return found

    def ordinary(self, *, limit: float, positions: int = 0) -> dict[Site, Ordinary]:
        centre = counted(FakeNetwork(), fluent_windows()).mean(0)
        return {SECOND: Ordinary(self.put(centre), self.factor * limit, positions)}


def _turned(windows: Windows) -> Windows:
    """The same windows in another order."""
    order = np.random.default_rng(0).permutation(len(windows))
    of_windows = (windows.tokens[order], windows.document[order], windows.special[order])
    return Windows(*of_windows, windows.names, windows.n_bytes)


@cache
def measured(which: Pass, change: Change | None) -> Mapping[tuple[str, ...], float]:
    """(metric, …) to its value, after one change of what is measured or of how."""
    moved, at_once = Moved(change), 1 if change == "batches" else 100
    windows = _turned(fluent_windows()) if change == "documents" else fluent_windows()
    network, ordinary = moved.network(), moved.ordinary(limit=3.0)
    records: list[MetricRecord] = []
    if which == "reconstruction":
        d = moved.dictionary(0)
        options = {"ordinary": ordinary, "batch_windows": at_once, "n_resamples": 2}
        records = evaluate_reconstruction(network, windows, {"d": (AT_SECOND, d)}, **options)["d"]
    elif which == "lookup":
        config = LookupConfig(batch_windows=at_once)
        lookup = config.build(network, make_windows(60, seed=1), windows, [AT_SECOND], ordinary=ordinary)
        records = evaluate_lookup(network, windows, lookup, batch_windows=at_once, n_resamples=2)
    elif which == "splice":
        means = {site: moved.put(counted(FakeNetwork(), fluent_windows(), site).mean(0)) for site in SITES}
        chosen = {"s": {at: moved.dictionary(seed) for seed, at in enumerate((AT_FIRST, AT_SECOND))}}
        kinds = {"trained_on": moved.ordinary(limit=float("inf"), positions=2), "ordinary": ordinary}
        records = splice(network, windows, chosen, means, batch_windows=at_once, n_resamples=2, **kinds)["s"]
    elif which == "stability":
        write = [moved.factor * moved.dictionary(0).W_dec, Linear(seed=1).W_dec]
        records = stability(*write, n_resamples=2)
    else:
        write, truth, z, v = noisy(0)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
        if change == "latents":
            write, z = write[order], z[:, order]
        if change == "documents":
            rows = torch.randperm(len(v), generator=torch.Generator().manual_seed(3))
            z, v = z[rows], v[rows]
        truth = FeatureTruth(moved.factor * truth.directions, PARENTS)
        parts = [(z[:150], v[:150]), (z[150:], v[150:])] if change == "batches" else [(z, v)]
        records = recovery(moved.factor * write, truth, Answers.of(parts))
    found = {
        (r.name, *(str(r.scope.get(key, "")) for key in ("site", "ablation", "depth", "directions"))): r.value
        for r in records
    }
    assert len(found) == len(records)
    return found


def _cases() -> Iterator[tuple[Metric, Change]]:
    return ((m, change) for m in METRICS.values() for change in CHANGES.get(m.measured, ()))


@pytest.mark.parametrize(("metric", "change"), [pytest.param(m, c, id=f"{m.name}-{c}") for m, c in _cases()])
def test_a_metric_changes_with_what_its_line_says_and_with_nothing_else(metric: Metric, change: Change):
    before, after = (
        {k: v for k, v in measured(metric.measured, c).items() if k[0] == metric.name} for c in (None, change)
    )
    assert before
    assert all(map(np.isfinite, before.values()))
    same = after == pytest.approx(before, rel=1e-4, abs=1e-5)
    assert same == (change not in metric.changes_with)


@pytest.mark.parametrize("which", CHANGES)
def test_a_pass_gives_the_metrics_that_the_table_says_it_gives(which: Pass):
    given = {name for name, *_ in measured(which, None)}
    expected = {m.name for m in METRICS.values() if m.measured == which}
    assert given - {"l0", "dead_latents"} == expected - {"l0", "dead_latents"}  # truth is compared with these, too


SELECTIONS = {
    "evaluation/metrics.py": "the table",
    "evaluation/splice.py": "columns that the pass sums",
    "evaluation/reconstruction.py": "columns that the pass sums",
    "training/controller.py": "history of training",
    "api/train.py": "history of training",
    "zoo/planted_sparse/sweep.py": "which metrics architectures are compared by",
}
"""Files that may list metrics' names."""


def _named(node: ast.Dict | ast.Tuple | ast.List | ast.Set) -> set[str]:
    """Metrics that a literal lists, or that stand first in what it lists."""
    parts = node.keys if isinstance(node, ast.Dict) else node.elts
    inside = [e for part in parts if isinstance(part, ast.Tuple | ast.List) for e in part.elts]
    constants = {part.value for part in (*parts, *inside) if isinstance(part, ast.Constant)}
    # The causal test's statistics and two toys have the names of metrics.
    return (constants & set(METRICS)) - set(SIZES) - set(TOYS)


def second_tables(source: str) -> list[tuple[int, set[str]]]:
    """Lines at which literals list metrics: one at the top of a module, two anywhere."""
    tree = ast.parse(source)
    exported = [s for s in tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "__all__"]
    top = {id(n) for s in tree.body if isinstance(s, ast.Assign | ast.AnnAssign) for n in ast.walk(s)}
    skipped = {id(n) for s in exported for n in ast.walk(s)}
    literals = [n for n in ast.walk(tree) if isinstance(n, ast.Dict | ast.Tuple | ast.List | ast.Set)]
    named = [(n, _named(n)) for n in literals if id(n) not in skipped]
    return [(n.lineno, names) for n, names in named if len(names) > (id(n) not in top)]


def test_no_second_table_of_metrics():
    root = Path(polyseme.__file__).parent
    found = {
        f"{path.relative_to(root)}:{line}": names
        for path in sorted(root.rglob("*.py"))
        if str(path.relative_to(root)) not in SELECTIONS
        for line, names in second_tables(path.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        '_SHOWN = frozenset({"fvu"})',
        'TITLES: dict[str, str] = {"fvu": "FVU", "x": ""}',
        '_ROWS = (("ce_clean", "ring"), ("other", "dot"))',
        'def f():\n    for name in ("fvu", "shrinkage"): print(name)',
    ],
)
def test_a_second_table_is_found(source: str):
    assert second_tables(source)


@pytest.mark.parametrize("source", ['x = f("fvu")', 'def f(): return sums["fvu"]', '__all__ = ["mcc", "stability"]'])
def test_a_name_by_itself_is_no_table(source: str):
    assert not second_tables(source)


def documented() -> str:
    """docs/metrics.md."""
    rows = [
        "| Name | Title | Unit | Better | Measured by | Interval | Meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in METRICS.values():
        interval = f"{m.finish.resampling} over documents" if m.finish else ""
        meaning = m.meaning.replace("|", r"\|")
        unit = m.unit or ("share" if m.is_share else "")
        better = "" if m.better == "neither" else m.better
        cells = (f"`{m.name}`", m.title, unit, better, m.measured, interval, meaning)
        rows.append(f"| {' | '.join(cells)} |")
    compared = ", ".join(f"`{m.name}`" for m in METRICS.values() if m.compared)
    return (
        "# Metrics\n\nThis page lists every metric that a study, the zoo or a function of `polyseme.evaluation` "
        "records. It is generated from `polyseme.evaluation.METRICS` by `python -m tests.evaluation.test_metrics`. "
        "*Ordinary* vectors are those that are not massive ([decision 22](decisions/0022-massive-activations.md))."
        " ȳ is a mean, ŷ a reconstruction of y.\n\n"
        + "\n".join(rows)
        + f"\n\nA study compares these metrics with those of every control: {compared}.\n"
    )


def test_the_docs_have_the_table():
    assert DOCS.read_text() == documented(), "run `python -m tests.evaluation.test_metrics`"


if __name__ == "__main__":
    DOCS.write_text(documented())
