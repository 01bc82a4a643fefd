"""The error rates that come with the package, each for the procedure that it was measured with."""

from collections.abc import Sequence
from importlib.resources import files

from polyseme.causal import CausalConfig
from polyseme.nulls import Null, kind_of, make_null
from polyseme.trials.planted import NON_FEATURES, Kind
from polyseme.trials.verdicts import CalibratedProcedure, CalibrationReport
from polyseme.verdicts.error_rates import Calibration
from polyseme.verdicts.judge import VerdictConfig

KIND_NAMES: dict[Kind, str] = {
    "feature": "features",
    "hidden": "variables that nothing reads",
    "bystander": "variables along directions like any other",
    "input": "statistics of the input",
}
_DECISIVE = ("n_samples", "statistic", "null", "n_flips", "n_resamples")
"""Fields of the causal test that decide its result; the others decide what it costs."""


def shipped_report() -> CalibrationReport:
    """The figures that come with the package."""
    file = files("polyseme.trials") / "calibration.json"
    return CalibrationReport.model_validate_json(file.read_text("utf-8"))


def shipped_calibration(
    causal: CausalConfig, verdicts: VerdictConfig, controls: Sequence[Null]
) -> tuple[Calibration | None, str]:
    """The error rates measured with a study's procedure; if there are none, None and why."""
    report = shipped_report()
    others = [*_differing("causal", causal, report.config.causal, _DECISIVE)]
    others += _differing("verdicts", verdicts, report.config.verdicts, tuple(VerdictConfig.model_fields))
    # A control's seed draws one null of many, and decides nothing else.
    others += [f"control {c.name}" for c in controls if c != make_null(kind_of(c), c.seed)]
    found = report.of("trained", *(kind_of(control) for control in controls)) if not others else None
    if found is None and not others:
        others = [f"controls {', '.join(control.name for control in controls) or 'none'}"]
    if found is None:
        return None, f"it differs from the calibrated ones ({'; '.join(others)})"
    return _shown(report, found), ""


def _differing(name: str, given: object, calibrated: object, fields: tuple[str, ...]) -> list[str]:
    pairs = [(field, getattr(given, field), getattr(calibrated, field)) for field in fields]
    return [f"{name}.{field} {mine}, calibrated with {its}" for field, mine, its in pairs if mine != its]


def _shown(report: CalibrationReport, found: CalibratedProcedure) -> Calibration:
    config = report.config
    return Calibration(
        description=f"{config.n_networks} small networks with planted variables, none of them this study's; two "
        f"dictionaries of {config.n_latents} latents trained on each and one on every control, made and judged as this "
        "study's are, with the same controls. Non-features: variables that nothing reads, variables along directions "
        "like any other, and statistics of the input. How often a latent of this network is judged wrongly may differ.",
        controls=found.controls,
        false_positive_rate=found.false_positive_rate(),
        miss_rate=found.miss_rate(),
        by_kind=tuple((KIND_NAMES[kind], found.false_positive_rate(kind)) for kind in NON_FEATURES),
        counts=tuple((KIND_NAMES[group.kind], group.counts) for group in found.groups),
    )
