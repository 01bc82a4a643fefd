"""Everything a study's report shows, as data: the studies fill it, the web page and the terminal summary read it.

One `StudyReport` is one JSON file. It holds no tensors and no paths that must exist, so a report can be rendered
again years later. NaN means "not measured" and is `null` in JSON; an empty tuple or None means the part was not run,
and the page says so in its place. Text that comes from a corpus or a tokenizer passes through
`polyseme.core.text.visible` before it gets here, and is still treated as hostile by every renderer.
"""

import math
from collections import Counter
from pathlib import Path

from pydantic import Field

from polyseme.core.config import Record
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.records import AXES, STATUSES, Axis, Interval, MetricRecord, Number, Status
from polyseme.interpret.records import Histogram, LatentReport
from polyseme.store import load_record, save_record
from polyseme.verdicts.error_rates import Calibration

SCHEMA = 2
MAX_BYTES = 256 * 2**20
_AGAIN = "run the study again: the report is written again"


class Curve(Record):
    """One named line or set of points: `trained`, `random directions`, `loss`."""

    name: str
    """Its name in the legend."""
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    """Lower end of the interval at each x, where there is one."""
    high: tuple[Number, ...] = ()
    null: bool = False
    """True for a control or a null: drawn dashed and in grey."""


class Chart(Record):
    """Curves that share their axes."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...] = ()
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    """One sentence on how to read it."""


class NullReport(Record):
    """How the latents of one dictionary stand to one null, on one axis."""

    null: str
    n_hardest: int
    """Latents with an answer whose hardest null it is."""
    difference: tuple[Number, ...]
    """Quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 of value − null over the latents it was measured of."""


class AxisReport(Record):
    """What one axis of the profile says of the latents of one dictionary."""

    axis: Axis
    yes: int
    no: int
    unknown: int
    missing: dict[str, int] = Field(default_factory=dict[str, int])
    """Why there is no answer → of how many latents."""
    least: Number = 0.0
    """The difference from each null that must be exceeded."""
    value: Number = math.nan
    """Median of the latents' own figures, of those with an answer, as the three that follow."""
    null_value: Number = math.nan
    """Median of the hardest null's figures."""
    detectable: Number = math.nan
    """Median of the least difference that would have been shown, after correction, against the null that asks most."""
    kept: Number = math.nan
    """Mean of the frequency at which a repetition gives the same answer."""
    nulls: tuple[NullReport, ...] = ()
    left_out: tuple[str, ...] = ()
    """Nulls that no latent could be compared with, so that the answers rest on the others."""
    differences: tuple[tuple[str, Histogram], ...] = ()
    """Histograms of value − hardest null: (answer, histogram), edges shared."""

    @property
    def n_answered(self) -> int:
        """How many of the latents have an answer."""
        return self.yes + self.no

    @property
    def hardest(self) -> str:
        """The null that is the hardest of most latents; empty where none is of any."""
        most = max(self.nulls, key=lambda null: null.n_hardest, default=None)
        return most.null if most is not None and most.n_hardest else ""


class DictionaryReport(Record):
    """One dictionary of the study: what it is, how it scores, what its latents are worth."""

    name: str
    """Short name of its site (`blocks.2.resid_post`); `a → b` for a transcoder. Unique in the study."""
    site: str
    """Full module path and port."""
    architecture: str
    """`batch_topk`, …"""
    d_in: int
    n_latents: int
    seed: int
    n_train_tokens: int
    settings: tuple[tuple[str, str], ...] = ()
    """Further settings worth a line: (name, value)."""
    metrics: tuple[MetricRecord, ...] = ()
    """FVU, L0, dead and dense latents, baselines (`fvu_token`, `fvu_bigram`), … on held-out documents."""
    verdict_counts: dict[Status, int] = Field(default_factory=dict[Status, int])
    """How many of the dictionary's latents have each word."""
    verdicts_kept: dict[Status, Number] = Field(default_factory=dict[Status, Number])
    """Word → the mean frequency at which a repetition of the study gives it to those that have it."""
    verdicts_missing: dict[str, int] = Field(default_factory=dict[str, int])
    """What the undecided latents lack → how many of them lack it."""
    axes: tuple[AxisReport, ...] = ()
    """What each axis of the profile says, in the order of `AXES`."""
    density: tuple[tuple[str, Histogram], ...] = ()
    """Histograms of log10 density: (`trained` or the control's name, histogram), trained first, edges shared."""
    stability: Chart | None = None
    """Share of latents matched in another seed at each threshold, with the random-direction null."""
    learning: tuple[MetricRecord, ...] = ()
    """How many latents recurred at moments of the training, and what the last doubling changed; empty where no copies
    were kept."""
    training: tuple[Chart, ...] = ()
    """Loss parts, L0, dead latents against tokens."""
    massive: str = ""
    """What is to be said of massive vectors at its site; empty where they decide nothing."""


class ControlValue(Record):
    """One metric on one control, and how far the study itself is from it."""

    control: str
    """Name of the control, as in `ControlSummary.name`."""
    record: MetricRecord
    gap: Number
    """Trained less control, in the metric's unit."""
    gap_interval: Interval | None = None
    """Paired over documents where the documents are the same."""
    note: str = ""
    """Why the two are not compared, where they are not."""


class Comparison(Record):
    """One metric of one site: trained beside every control."""

    site: str
    """Dictionary name, or `joint`."""
    trained: MetricRecord
    controls: tuple[ControlValue, ...] = ()


class ControlSummary(Record):
    """One null of the study."""

    name: str
    """Short name: `gaussian_reinit`, `frozen_decoder_seed1`."""
    targets: str
    """What it replaces: weights, tokens, or the dictionary, on which no verdict rests."""
    preserves: str
    destroys: str
    note: str = ""
    """What must be known to read its numbers: that its network predicts nothing."""


class SpliceRow(Record):
    """What happens to the loss when reconstructions take the place of activations; all CEs in nats/token."""

    site: str
    """Dictionary name, or `joint` for all of them in the same pass."""
    joint: bool = False
    ce_clean: MetricRecord
    ce_patched: MetricRecord
    ce_zero: MetricRecord
    ce_mean: MetricRecord
    recovered_zero: MetricRecord
    """(CE_zero − CE_patched) / (CE_zero − CE_clean)."""
    recovered_mean: MetricRecord
    kl: MetricRecord
    """KL(clean ‖ patched), nats/token."""
    delta_ce: MetricRecord
    """CE_patched − CE_clean."""
    compute_equivalent: str = ""
    """`with every site patched the 3.9 M model predicts like a 0.6 M one`; empty when there is no ladder."""


class Faithfulness(Record):
    """Splicing, one site at a time and jointly."""

    single: tuple[SpliceRow, ...] = ()
    joint: SpliceRow | None = None
    """None with a single site."""
    interaction: MetricRecord | None = None
    """ΔCE(joint) − Σ ΔCE(single)."""
    ladder: tuple[tuple[str, Number, Number], ...] = ()
    """The measured ladder: (name, parameters, held-out CE)."""
    n_parameters: Number = float("nan")
    """Size of the studied network."""
    notes: tuple[str, ...] = ()
    """Why a number, or its interval, was not measured; one sentence each."""


class Continuation(Record):
    """One prompt continued by the clean and by the jointly patched network, greedily or from the same noise."""

    document: str
    prompt: str
    clean: str
    patched: str
    true: str = ""
    """The text that follows in the document."""
    note: str = ""


class Provenance(Record):
    """One stage's artifact."""

    stage: str
    key: str
    """Full hash."""
    inputs: tuple[str, ...] = ()
    """Stages it was made from."""
    seconds: Number = float("nan")
    reused: bool = False


class StudySummary(Record):
    """What was studied, on what, and what it took."""

    network: str
    n_parameters: int
    network_fingerprint: str = ""
    corpus: str
    split: str = "held-out documents, by hash"
    n_train_tokens: int
    n_heldout_tokens: int
    n_heldout_documents: int
    context: int
    excluded: str = "special tokens: beginning-of-sequence, separators, padding, control tokens that a text spells out"
    """What is left out of training and of every statistic."""
    seeds: tuple[int, ...]
    controls: tuple[ControlSummary, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    """Further settings: (name, value)."""
    versions: tuple[tuple[str, str], ...] = ()
    """(package, version)."""
    git_commit: str = ""
    git_dirty: bool = False
    argv: str = ""
    started: str = ""
    """ISO 8601 with the zone."""
    wall_seconds: Number = float("nan")
    peak_memory_bytes: Number = float("nan")
    device: str = ""


class NullKind(Record):
    """One kind of null that latents are judged against."""

    name: str
    targets: str
    """What it replaces: weights or tokens."""
    draws: int
    """How many times it was drawn, each with a dictionary of its own."""


class Judging(Record):
    """What the profiles of this study rest on."""

    partners: tuple[int, ...] = ()
    """Seeds of the dictionaries that recurrence is sought in."""
    nulls: tuple[NullKind, ...] = ()
    tables: tuple[str, ...] = ()
    """Tables that predict a latent from the text alone."""
    directions: tuple[str, ...] = ()
    """Classes of null direction that are removed in a latent's place."""
    n_directions: int = 0
    """How many of each class, fixed for each latent."""
    n_samples: int = 0
    """Most firings of a latent at which it is removed."""
    horizon: int = 0
    """Over how many of the next predictions the later effects are summed."""
    alpha: Number = 0.05
    recurrence: Number = 0.7
    in_one: Number = 0.7
    margin: Number = 0.05
    min_documents: int = 20


class StudyReport(Record):
    """Everything one report shows."""

    schema_version: int = SCHEMA
    title: str
    """The study's name."""
    run: str
    """Its run id."""
    summary: StudySummary
    judging: Judging = Judging()
    headlines: tuple[str, ...] = ()
    """Sentences at the top; empty: made from the numbers by `polyseme.report.headlines.headlines`."""
    dictionaries: tuple[DictionaryReport, ...]
    faithfulness: Faithfulness | None = None
    comparisons: tuple[Comparison, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    latents: tuple[LatentReport, ...] = ()
    """The most telling latents, in the order of display inside each (status, site)."""
    calibration: Calibration | None = None
    """How the very procedure of this study, its nulls included, judges planted latents; None where it was not run on
    any."""
    calibration_missing: str = ""
    """Why there are none."""
    charts: tuple[Chart, ...] = ()
    """Further charts of the study as a whole."""
    provenance: tuple[Provenance, ...] = ()
    limits: tuple[str, ...] = ()
    """Limits of this very study, shown beside the standing ones."""

    @property
    def verdict_counts(self) -> dict[Status, int]:
        """How many latents of all dictionaries have each word."""
        return {s: sum(d.verdict_counts.get(s, 0) for d in self.dictionaries) for s in STATUSES}

    @property
    def n_latents(self) -> int:
        """Latents of all dictionaries."""
        return sum(self.verdict_counts.values())

    @property
    def n_decided(self) -> int:
        """Latents with another word than `undecided`."""
        return self.n_latents - self.verdict_counts["undecided"]

    def kept(self, status: Status) -> float:
        """Mean frequency at which a repetition gives a word again to the latents that have it; NaN without any."""
        pairs = [(d.verdict_counts.get(status, 0), d.verdicts_kept.get(status, math.nan)) for d in self.dictionaries]
        pairs = [(n, kept) for n, kept in pairs if n]
        return sum(n * kept for n, kept in pairs) / sum(n for n, _ in pairs) if pairs else math.nan

    @property
    def axes(self) -> tuple[AxisReport, ...]:
        """Answers of each axis over all dictionaries, without the figures that are of one dictionary."""
        found: list[AxisReport] = []
        for axis in AXES:
            parts = [part for d in self.dictionaries for part in d.axes if part.axis == axis]
            if not parts:
                continue
            missing = sum((Counter(part.missing) for part in parts), Counter[str]())
            found.append(
                AxisReport(
                    axis=axis,
                    yes=sum(part.yes for part in parts),
                    no=sum(part.no for part in parts),
                    unknown=sum(part.unknown for part in parts),
                    missing=dict(missing.most_common()),
                    least=parts[0].least,
                )
            )
        return tuple(found)

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        save_record(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> "StudyReport":
        """Read a report written by `save`.

        Raises:
            InputError: too large, not a report, changed after it was written, or of another schema version.
        """
        from pydantic import ValidationError

        try:
            report = cls.model_validate(load_record(path, MAX_BYTES))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise DamagedArtifact(f"not a report: {place}: {first['msg']}", where=str(path), fix=_AGAIN) from error
        except DamagedArtifact as error:
            raise DamagedArtifact(error.what, where=error.where, fix=_AGAIN) from error
        if report.schema_version != SCHEMA:
            raise InputError(
                f"the report has schema version {report.schema_version}, this polyseme reads {SCHEMA}",
                where=str(path),
                fix="run the study again, or render it with the version that wrote it",
            )
        return report
