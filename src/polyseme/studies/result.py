"""A finished study."""

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from polyseme.activations.firings import Firings
from polyseme.core import html
from polyseme.core.errors import DamagedArtifact, InputError, known_name
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import STATUSES, Status
from polyseme.core.text import visible
from polyseme.corpora import Windows
from polyseme.dictionaries import Dictionary
from polyseme.evaluation.metrics import METRICS
from polyseme.interpret.records import LatentReport
from polyseme.networks import Network
from polyseme.store import Run, load_lines
from polyseme.studies.findings import Findings
from polyseme.studies.latent_table import LatentTable, latent_table
from polyseme.studies.latents import describe, latent_reports
from polyseme.studies.metric_table import MetricTable, metric_table
from polyseme.studies.stage import StageRecord

_SUMMARY = tuple(metric for metric in METRICS.values() if metric.in_summary)


@dataclass(frozen=True, repr=False)
class StudyResult:
    """A finished study.

    >>> result
    study small-...: 64 latents at 2 sites of ...
    site ...
    blocks.0.resid_post ...
    blocks.1.resid_post ...
    report: ...report.html

    Attributes:
        run: its run directory.
        findings: everything it found, for what the tables here do not show.
        reporter: receives the progress of what is computed when it is first asked for.
    """

    run: Run
    findings: Findings = field(repr=False, compare=False)
    reporter: Reporter = field(default_factory=Silent, repr=False, compare=False)

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.run.artifacts / "report.html"

    @cached_property
    def stages(self) -> tuple[StageRecord, ...]:
        """Every stage that it rests on, in the order in which they were run."""
        at = self.findings.at
        return tuple(at.record(stage) for stage in self.findings.plan.stages if at.is_used(stage))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of what was studied: sites, and `read → write` for transcoders."""
        return tuple(self.findings.config.bindings)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the dictionaries; the first one's are judged."""
        return self.findings.config.seeds

    @property
    def network(self) -> Network:
        """The network that was studied."""
        return self.findings.real.subject.network

    @property
    def heldout(self) -> Windows:
        """The held-out tokens that everything was measured on; `firings` says where in them a latent fires."""
        return self.findings.real.subject.tokens.heldout

    @cached_property
    def metrics(self) -> MetricTable:
        """Every metric of the study, its baselines and its controls, and the gaps between them, with intervals.

        >>> len(result.metrics.where("fvu", site="blocks.0.resid_post", study="trained"))
        2

        Raises:
            DamagedArtifact: the run's `metrics.jsonl` is missing or was changed.
        """
        return metric_table(self.run.metrics)

    def dictionary(self, site: str, seed: int | None = None) -> Dictionary:
        """The dictionary trained at a site: the judged one, or another seed's.

        >>> result.dictionary("blocks.0.resid_post", seed=1)
        SparseDictionary(topk, 16 → 32 latents → 16, k 4)

        Raises:
            InputError: the study has no such site, or no such seed.
        """
        return self.findings.real.trained.dictionaries[self._key(site, seed)]

    def firings(self, site: str, seed: int | None = None) -> Firings:
        """The latents of that dictionary at every held-out token, kept sparse.

        >>> firings = result.firings("blocks.0.resid_post")
        >>> firings.matrix.shape, len(firings.token), result.heldout.tokens.shape[1]
        ((703, 32), 703, 32)

        Raises:
            InputError: the study has no such site, or no such seed.
        """
        return self.findings.real.readings.firings[self._key(site, seed)]

    def _key(self, site: str, seed: int | None) -> tuple[str, int]:
        known_name(site, self.sites, "the study has no site")
        if seed is not None and seed not in self.seeds:
            raise InputError(f"the study has no seed {seed}", fix=f"one of {', '.join(map(str, self.seeds))}")
        return site, self.seeds[0] if seed is None else seed

    @property
    def verdict_counts(self) -> dict[Status, int]:
        """How many latents got each verdict."""
        return self._table.counts

    @cached_property
    def _shown(self) -> tuple[LatentReport, ...]:
        return latent_reports(self.findings, self.reporter)

    @cached_property
    def _table(self) -> LatentTable:
        table = latent_table(self.findings)
        if self.findings.at.recorded is not None:
            self._check_verdicts(table)
        return table

    def _check_verdicts(self, table: LatentTable) -> None:
        """The evidence of a finished run is judged again: a polyseme that judges otherwise says so."""
        path = self.run.artifacts / "verdicts.jsonl"
        if f"{path.parent.name}/{path.name}" in self.run.changed_files():
            raise DamagedArtifact(
                "verdicts.jsonl is missing, or was changed after the run wrote it",
                where=str(path),
                fix="run the study again: it is written again",
            )
        recorded = [line.get("status") if isinstance(line, dict) else None for line in load_lines(path)]
        now = table["status"].tolist()
        n = sum(a != b for a, b in zip(recorded, now, strict=False)) + abs(len(recorded) - len(now))
        if n:
            warnings.warn(
                f"this polyseme judges {n:,} of {len(now):,} latents otherwise than the one that ran {self.run.id}; "
                "the run's own verdicts are in verdicts.jsonl and in its report",
                stacklevel=4,
            )

    def latents(self, site: str | None = None, *, status: Status | None = None) -> LatentTable:
        """Every latent of the judged dictionaries, of one site or with one verdict where asked.

        >>> len(result.latents("blocks.0.resid_post")), len(result.latents())
        (32, 64)
        >>> result.latents("blocks.0.resid_mid")
        Traceback (most recent call last):
            ...
        polyseme.core.errors.InputError: no latent has the site 'blocks.0.resid_mid'. ...

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        return self._table.where(site, status=status)

    def shown(self, site: str | None = None, *, status: Status | None = None) -> tuple[LatentReport, ...]:
        """The latents that the report shows, with their contexts: the most informative ones of each verdict first.

        The selection flatters the study: it has at most `shown` latents of each verdict. `latents()` has all of them,
        `latent()` any one.

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        self._table.where(site, status=status)
        return tuple(
            latent
            for latent in self._shown
            if (site is None or latent.site == site) and (status is None or latent.verdict.status == status)
        )

    def latent(self, site: str, index: int) -> LatentReport:
        """One latent with its contexts, tokens and neighbours, whether the report shows it or not.

        >>> latent = result.latent("blocks.0.resid_post", 3)
        >>> latent.site, latent.latent, latent.verdict.status == result.latents("blocks.0.resid_post")["status"][3]
        ('blocks.0.resid_post', 3, True)

        Raises:
            InputError: the study has no such site, or its dictionary no such latent.
        """
        n = self.firings(site).n_latents
        if not 0 <= index < n:
            raise InputError(f"the dictionary at {site} has no latent {index}", fix=f"0 to {n - 1}")
        return describe(self.findings, site, index)

    @property
    def _title(self) -> str:
        n, several = len(self.sites), "s" if len(self.sites) > 1 else ""
        return f"study {self.run.id}: {len(self._table):,} latents at {n} site{several} of {self._source}"

    @property
    def _source(self) -> str:
        return visible(self.findings.config.network.source, limit=200)

    def _rows(self) -> list[tuple[object, ...]]:
        """By site: the metrics of a summary, and the number of latents with each verdict."""
        found = self.findings.real.readings.sums
        rows: list[tuple[object, ...]] = []
        for site in self.sites:
            values = {entry.name: float(entry.values(entry.sums.sum(0))) for entry in found[self._key(site, None)]}
            shown = [values.get(metric.name, math.nan) for metric in _SUMMARY]
            rows.append((site, *shown, *self._table.where(site).counts.values()))
        return rows

    def __repr__(self) -> str:
        head = ("site", *(metric.title for metric in _SUMMARY), *STATUSES)
        cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in (head, *self._rows())]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([self._title, *lines, f"report: {self.report}"])

    def _repr_html_(self) -> str:
        head = ("site", *(metric.title for metric in _SUMMARY), *(status.replace("_", " ") for status in STATUSES))
        return html.frame(self._title, html.table(head, self._rows()), html.small(html.text(f"report: {self.report}")))
