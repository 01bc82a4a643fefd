"""`polyseme calibrate`: how often the verdicts are wrong, on networks whose variables are planted."""

from pathlib import Path

from polyseme.cli.flags import Group
from polyseme.cli.line import Line
from polyseme.cli.runs import RootOptions
from polyseme.core.config import FilePath
from polyseme.screen.progress import make_reporter
from polyseme.store import check_writable, save_text
from polyseme.trials import calibration, matrix, verdicts


class CalibrateOptions(RootOptions):
    """Where the figures go."""

    out: FilePath = Path("calibration.json")
    """A JSON file."""


def calibrate(line: Line) -> int:
    """Measure it, print the matrix, and keep the figures."""
    options, config = line.configs(Group(CalibrateOptions), Group(calibration.CalibrationConfig, title="calibration"))
    check_writable(options.out)
    report = verdicts.calibrate(config, reporter=make_reporter(), root=options.root)
    save_text(options.out, report.model_dump_json() + "\n")
    print(matrix.as_markdown(report.procedures))
    print(f"written to {options.out}")
    return 0
