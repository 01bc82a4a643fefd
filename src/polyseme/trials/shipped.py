"""The error rates that come with the package, each for the way of judging that it was measured with."""

from importlib.resources import files

from polyseme.core.config import Config
from polyseme.nulls import Null, kind_of, make_null
from polyseme.studies.config import StudyConfig
from polyseme.studies.levels import LEVELS, LevelName
from polyseme.trials.calibration import MATCH_TOKENS
from polyseme.trials.kinds import EITHER, FEATURES, MODES, NAMES
from polyseme.trials.matrix import Procedure, Row
from polyseme.trials.verdicts import CalibrationReport
from polyseme.verdicts.error_rates import Calibration, PlantedKind

_DECISIVE = ("nulls",)
"""Fields of the causal test that decide an answer, beside those that a level sets."""


def shipped_report() -> CalibrationReport:
    """The figures that come with the package."""
    file = files("polyseme.trials") / "calibration.json"
    return CalibrationReport.model_validate_json(file.read_text("utf-8"))


def shipped_calibration(config: StudyConfig) -> tuple[Calibration | None, str]:
    """The error rates measured with a study's way of judging; if there are none, None and why."""
    report = shipped_report()
    level, others = _level(config, report)
    others += _differing("dictionary", config.dictionary, report.config.dictionary, ("architecture",))
    others += [
        f"{name} is no autoencoder of one site"
        for name, of in config.bindings.items()
        if not of.is_autoencoder or len(of.reads) > 1
    ]
    others += [
        f"evaluation.{field} {mine:,}, calibrated with {its:,}"
        for field, its in (("match_tokens", MATCH_TOKENS), ("lookup_tokens", report.config.n_train_tokens))
        if (mine := getattr(config.evaluation, field)) != its
    ]
    others += _differing("causal", config.causal, report.config.causal, _DECISIVE)
    others += _differing("verdicts", config.verdicts, report.config.verdicts, tuple(type(config.verdicts).model_fields))
    others += [f"control {null.name}" for null in _of_weights(config) if not _plain(null)]
    if level is None or others:
        return None, f"it differs from the calibrated ones ({'; '.join(others)})"
    controls = sorted({kind_of(null) for null in _of_weights(config)})
    found = [p for mode in MODES if (p := report.of(level, mode, *controls)) is not None]
    if not found:
        return None, f"these controls were not calibrated together ({', '.join(controls) or 'none'})"
    return _shown(report, level, found), ""


def _level(config: StudyConfig, report: CalibrationReport) -> tuple[LevelName | None, list[str]]:
    """The calibrated level that has a study's numbers of partners, draws, samples and directions; else, how it differs
    from the one that it names."""
    drawn = {len(nulls) for nulls in config.drawn.values() if nulls[0].targets == "weights"}
    mine = {
        "seeds": {len(config.seeds)},
        "draws": drawn,
        "causal.n_samples": {config.causal.n_samples},
        "causal.n_directions": {config.causal.n_directions},
    }

    def others(name: LevelName) -> list[str]:
        level = LEVELS[name]
        its = {"seeds": 1 + level.partners, "draws": level.draws}
        its |= {f"causal.{field}": value for field, value in level.causal.items()}
        return [
            f"{field} {', '.join(map(str, sorted(mine[field])))}, calibrated with {value}"
            for field, value in its.items()
            if not mine[field] <= {value}
        ]

    for name in report.config.levels:
        if not others(name):
            return name, []
    if config.evidence not in report.config.levels:
        return None, [f"evidence {config.evidence}, calibrated with {' and '.join(report.config.levels)}"]
    return None, others(config.evidence)


def _of_weights(config: StudyConfig) -> list[Null]:
    """The controls that an answer rests on."""
    return [null for null in config.judging if null.targets == "weights"]


def _plain(null: Null) -> bool:
    """Whether a null has its defaults; its seed draws one null of many, and decides nothing else."""
    return null == make_null(kind_of(null), null.seed)


def _differing(name: str, given: Config, calibrated: Config, fields: tuple[str, ...]) -> list[str]:
    pairs = [(field, getattr(given, field), getattr(calibrated, field)) for field in fields]
    return [f"{name}.{field} {mine}, calibrated with {its}" for field, mine, its in pairs if mine != its]


def _shown(report: CalibrationReport, level: LevelName, found: list[Procedure]) -> Calibration:
    n = report.config.n_networks
    return Calibration(
        description=f"{n} small networks with planted variables, none of them this study's, judged with the controls "
        f"and the numbers of seeds, draws and samples of this study (evidence {level}): dictionaries of this study's "
        f"architecture that were trained there ({report.config.dictionary.n_latents:,} latents, k = "
        f"{report.config.k}), and dictionaries that were given, with latents that are no features. How often a latent "
        "of this network is judged wrongly may differ.",
        controls=found[0].controls,
        n_networks=n,
        kinds=tuple(_kind(procedure, row) for procedure in found for row in procedure.rows),
    )


def _kind(procedure: Procedure, row: Row) -> PlantedKind:
    return PlantedKind(
        name=f"{NAMES[row.kind]}; {MODES[procedure.mode]}",
        is_feature=None if row.kind in EITHER else row.kind in FEATURES,
        called=row.called,
        counts=row.counts,
    )
