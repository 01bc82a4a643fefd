"""How often the verdicts are wrong: the whole procedure on networks whose variables are planted."""

from pathlib import Path

from polyseme.core.config import Record, identity
from polyseme.core.progress import Reporter, Silent
from polyseme.kernels.shield import shielded
from polyseme.studies.levels import LevelName
from polyseme.trials.calibration import CalibrationConfig
from polyseme.trials.judging import judged
from polyseme.trials.kinds import Mode
from polyseme.trials.matrix import Procedure, Seen, procedure
from polyseme.zoo.tools.kept import kept

VERSION = 3
"""Raised when the code, or a default, changes what a network gives; kept networks are then judged again."""


class CalibrationReport(Record):
    """What the verdicts say on planted truth."""

    version: int = 3
    config: CalibrationConfig
    procedures: tuple[Procedure, ...]

    def of(self, level: LevelName, mode: Mode, *controls: str) -> Procedure | None:
        """The matrix of one way of judging; None if it was not measured."""
        wanted = (level, mode, tuple(sorted(controls)))
        return next((p for p in self.procedures if (p.level, p.mode, p.controls) == wanted), None)


@shielded
def calibrate(
    config: CalibrationConfig | None = None, reporter: Reporter | None = None, *, root: Path | None = None
) -> CalibrationReport:
    """Judge dictionaries on networks whose variables are planted, and compare the verdicts with what was planted.

    Text is sampled from each network's own predictions. Dictionaries of several seeds on the network, and one on each
    draw of each null, are trained and judged by the functions that a study uses.

    Args:
        config: what is planted and judged.
        reporter: receives progress updates.
        root: a folder that keeps what each network gave, from which a killed run resumes; None keeps nothing.
    """
    config, reporter = config or CalibrationConfig(), reporter or Silent()
    progress = reporter.task("calibration", config.n_networks, "networks")
    seen: list[Seen] = []
    for done, i in enumerate(range(config.first, config.first + config.n_networks), start=1):
        seen += kept(
            root,
            "calibration",
            {"network": i, **identity(config, exclude=("first", "n_networks"))},
            lambda _, i=i: judged(config, i),
            tuple[Seen, ...],
            "seen.json",
            version=VERSION,
            reporter=reporter,
        )
        progress.update(done)
    ways = dict.fromkeys((one.level, one.mode, one.controls) for one in seen)
    return CalibrationReport(
        config=config,
        procedures=tuple(procedure([s for s in seen if (s.level, s.mode, s.controls) == way]) for way in ways),
    )
