"""`polyseme calibrate`: how often the verdicts are wrong, on networks whose features are planted."""

from pathlib import Path

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.core.config import Config, FilePath
from polyseme.screen.progress import make_reporter
from polyseme.store import check_writable, save_json
from polyseme.trials import verdicts


class CalibrateOptions(Config):
    """Where the figures go."""

    out: FilePath = Path("calibration.json")
    """A JSON file."""


def calibrate(line: Line) -> int:
    """Measure it, print a summary, and keep the figures."""
    options, config = line.configs(Group(CalibrateOptions), Group(verdicts.CalibrationConfig, title="calibration"))
    check_writable(options.out)
    report = verdicts.calibrate(config, reporter=make_reporter())
    save_json(options.out, report.model_dump(mode="json"))
    print(report.summary())
    print(f"written to {options.out}")
    return 0
