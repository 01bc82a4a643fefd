"""A finished study."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from polyseme.core.errors import InputError
from polyseme.core.progress import Reporter, Silent
from polyseme.core.records import Status
from polyseme.interpret.records import LatentReport
from polyseme.store import Run
from polyseme.studies.findings import Findings
from polyseme.studies.latent_table import LatentTable, latent_table
from polyseme.studies.latents import describe, latent_reports
from polyseme.studies.runner import StageRecord


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        run: its run directory.
        findings: everything it found, for what the tables here do not show.
        stages: every stage that it rests on.
        reporter: receives the progress of what is computed when it is first asked for.
    """

    run: Run
    findings: Findings = field(repr=False, compare=False)
    stages: tuple[StageRecord, ...] = field(default=(), repr=False, compare=False)
    reporter: Reporter = field(default_factory=Silent, repr=False, compare=False)

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.run.artifacts / "report.html"

    @property
    def verdict_counts(self) -> dict[Status, int]:
        """How many latents got each verdict."""
        return self._table.counts

    @cached_property
    def _shown(self) -> tuple[LatentReport, ...]:
        return latent_reports(self.findings, self.reporter)

    @cached_property
    def _table(self) -> LatentTable:
        return latent_table(self.findings)

    def latents(self, site: str | None = None, *, status: Status | None = None) -> LatentTable:
        """Every latent of the judged dictionaries, of one site or with one verdict where asked.

        Raises:
            InputError: the study has no such site, or there is no such verdict.
        """
        return self._table.where(site, status=status)

    def shown(self, site: str | None = None, *, status: Status | None = None) -> tuple[LatentReport, ...]:
        """The latents that the report shows, with their contexts: the most telling of each verdict, first ones first.

        A selection that flatters: at most `shown` of each verdict. `latents()` has all of them, `latent()` any one.

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

        Raises:
            InputError: the study has no such site, or its dictionary no such latent.
        """
        n = len(self.latents(site))
        if not 0 <= index < n:
            raise InputError(f"the dictionary at {site} has no latent {index}", fix=f"0 to {n - 1}")
        return describe(self.findings, site, index)
