"""A study with its report: the files of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyseme.core.progress import Reporter
from polyseme.kernels.shield import shielded
from polyseme.report.build import all_records, report_of
from polyseme.report.html import write_report
from polyseme.report.schema import StudyReport
from polyseme.screen.progress import reporting
from polyseme.store import save_lines, save_record
from polyseme.studies.config import StudyConfig
from polyseme.studies.result import StudyResult
from polyseme.studies.run import running


@shielded
def study(
    config: StudyConfig | Mapping[str, Any] | str | Path,
    *,
    root: str | Path = "runs",
    resume: bool = True,
    jobs: int = 1,
    launch: str = "",
    reporter: Reporter | None = None,
) -> StudyResult:
    """Run a study with its controls and write its report, or resume one that was stopped.

    Args:
        config: a config, a mapping of its fields, or the path of a TOML file.
        root: folder of runs and of the artifacts they share.
        resume: take finished stages as they are; False computes every one again.
        jobs: processes that run the study and its controls side by side, with the machine's threads divided.
        launch: command line that starts each of these processes elsewhere and waits for it: `srun -c 4`.
        reporter: receives the progress; by default bars in a notebook or on a terminal, and nothing elsewhere.

    Raises:
        InputError: anything wrong with config, network, corpus or disk, before long work where possible.
        Diverged: a training that went wrong.
    """
    with (
        reporting(reporter) as told,
        running(config, root=root, resume=resume, jobs=jobs, launch=launch, reporter=told) as result,
    ):
        write(result)
    return result


def write(result: StudyResult) -> StudyReport:
    """Write `report.json`, `report.html`, `metrics.jsonl` and `verdicts.jsonl`, each whole or not at all."""
    result.reporter.message("writing the report")
    run, findings = result.run, result.findings
    report = report_of(result)
    save_record(run.artifacts / "report.json", report.model_dump(mode="json"))
    write_report(report, run.artifacts / "report.html")
    run.save_metrics(all_records(findings))
    lines = [
        {"site": site, "seed": findings.config.seeds[0], "latent": latent, **verdict.model_dump(mode="json")}
        for site, judged in findings.verdicts.items()
        for latent, verdict in enumerate(judged.verdicts)
    ]
    save_lines(run.artifacts / "verdicts.jsonl", lines)
    return report
