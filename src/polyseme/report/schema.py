"""Everything a study's report shows, as data: the studies fill it, the web page and the terminal summary read it.

One `StudyReport` is one JSON file. It holds no tensors and no paths that must exist, so a report can be rendered
again years later. NaN means "not measured" and is `null` in JSON; an empty tuple or None means the part was not run,
and the page says so in its place. Text that comes from a corpus or a tokenizer passes through
`polyseme.core.text.visible` before it gets here, and is still treated as hostile by every renderer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from polyseme.core.config import Record
from polyseme.core.errors import DamagedArtifact, InputError
from polyseme.core.records import JUDGED, STATUSES, Interval, MetricRecord, Number, Status
from polyseme.interpret.records import Histogram, LatentReport
from polyseme.store import load_record, save_record
from polyseme.verdicts.error_rates import Calibration

SCHEMA = 1
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


class LatentPoint(Record):
    """One latent in the scatter of causal effect against model-specificity."""

    latent: int
    effect: Number
    """Causal effect less its null, in `DictionaryReport.effect_unit`."""
    margin: Number
    """Model-specificity."""
    status: Status


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
    """How many of the dictionary's latents got each verdict."""
    verdicts_missing: dict[str, int] = Field(default_factory=dict[str, int])
    """What those with insufficient data lack → how many of them lack it."""
    n_not_judged: int = 0
    """Further latents, of which nothing was asked."""
    tests: tuple[tuple[str, int, int], ...] = ()
    """(`causal_effect`, latents that passed, latents it says something of), likewise `model_specificity`."""
    margin_fdr: Number = float("nan")
    """The share of false discoveries that the thresholds allow; 1 where they are `verdicts.margin` alone."""
    thresholds: tuple[tuple[str, Number], ...] = ()
    """(control, the least model-specificity that passes against it); NaN where the FDR filter found none."""
    density: tuple[tuple[str, Histogram], ...] = ()
    """Histograms of log10 density: (`trained` or the control's name, histogram), trained first, edges shared."""
    stability: Chart | None = None
    """Share of latents matched in another seed at each threshold, with the random-direction null."""
    training: tuple[Chart, ...] = ()
    """Loss parts, L0, dead latents against tokens."""
    points: tuple[LatentPoint, ...] = ()
    """Latents with both numbers, for the scatter; a sample of at most a few thousand."""
    n_points: int = 0
    """How many latents have both numbers."""
    effect_unit: str = "nats a firing token"
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


def n_judged(counts: Mapping[Status, int]) -> int:
    """How many of these latents have a verdict."""
    return sum(counts.get(status, 0) for status in JUDGED)


class StudyReport(Record):
    """Everything one report shows."""

    schema_version: int = SCHEMA
    title: str
    """The study's name."""
    run: str
    """Its run id."""
    summary: StudySummary
    causal_null: str = "a random direction of equal norm"
    """What is removed in the place of a latent, for comparison."""
    statistic: Literal["kl", "ce"] = "kl"
    """What the causal test is made on: KL(clean ‖ ablated) of the predictions, or ΔCE of the actual next tokens."""
    headlines: tuple[str, ...] = ()
    """Sentences at the top; empty: made from the numbers by `polyseme.report.headlines.headlines`."""
    dictionaries: tuple[DictionaryReport, ...]
    faithfulness: Faithfulness | None = None
    comparisons: tuple[Comparison, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    latents: tuple[LatentReport, ...] = ()
    """The most telling latents, in the order of display inside each (status, site)."""
    calibration: Calibration | None = None
    """Error rates of the very procedure of this study, its controls included; None where none were measured."""
    calibration_missing: str = ""
    """Why there are none."""
    charts: tuple[Chart, ...] = ()
    """Further charts of the study as a whole."""
    provenance: tuple[Provenance, ...] = ()
    limits: tuple[str, ...] = ()
    """Limits of this very study, shown beside the standing ones."""

    @property
    def verdict_counts(self) -> dict[Status, int]:
        """Counts of each verdict over all dictionaries."""
        return {s: sum(d.verdict_counts.get(s, 0) for d in self.dictionaries) for s in STATUSES}

    @property
    def n_judged(self) -> int:
        """Latents with a verdict: supported, mixed or indistinguishable from a control."""
        return n_judged(self.verdict_counts)

    @property
    def n_latents(self) -> int:
        """Latents of all dictionaries, judged or not."""
        return sum(self.verdict_counts.values()) + sum(d.n_not_judged for d in self.dictionaries)

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
