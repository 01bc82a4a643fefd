"""Running toys: checks with their results kept, trained networks on disk, and the table of what was found."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from polyseme.core.config import Record, identity
from polyseme.core.errors import DamagedArtifact, InputError, nearest_names
from polyseme.core.progress import Reporter, Silent
from polyseme.core.seeds import make_generator
from polyseme.kernels.shield import shielded
from polyseme.store import load_record, load_tensors, save_record, save_tensors, sha256
from polyseme.zoo import TOYS
from polyseme.zoo.tools.checks import Check, Cost, Experiment
from polyseme.zoo.tools.kept import kept
from polyseme.zoo.tools.toy import Entry, Toy, TrainedToy

SAVED_ROWS = 4_096
"""Number of rows of data that are kept with a trained toy."""
_TRAIN = "train it again with `polyseme zoo train`"


class Result(Record):
    """The checks of one experiment and what they were run on."""

    toy: str
    experiment: str
    about: str
    cost: Cost
    seconds: float
    config: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> int:
        """Checks that did not pass; those not measured count."""
        return sum(c.outcome != "pass" for c in self.checks)


class SavedToy(Record):
    """`toy.json`: a trained network's toy, and what came of its training."""

    toy: str
    config: dict[str, Any]
    seed: int
    setting: dict[str, Any]
    """What sets the networks of a toy apart besides their seeds."""
    loss: float | None
    trained: bool
    """Whether its training succeeded by the toy's own measure."""
    files: dict[str, str] = Field(default_factory=dict[str, str])
    """File beside it to its SHA-256; earlier versions wrote none."""


def toy_named(name: str) -> Entry:
    """The toy of a name.

    Raises:
        InputError: there is none; names the nearest ones.
    """
    if name not in TOYS:
        near = nearest_names(name, list(TOYS)) or list(TOYS)
        raise InputError(f"there is no toy {name!r}", fix=f"did you mean {', '.join(near)}? see polyseme zoo list")
    return TOYS[name]


def chosen(name: str, experiments: Sequence[str] = (), costs: Sequence[Cost] = ()) -> list[Experiment]:
    """A toy's experiments of the given names, or else of the given costs.

    Raises:
        InputError: the toy has no experiment of a name.
    """
    of_toy = {e.name: e for e in toy_named(name).experiments}
    for wanted in experiments:
        if wanted not in of_toy:
            raise InputError(
                f"toy {name!r} has no experiment {wanted!r}", where="--only", fix=f"it has {', '.join(of_toy)}"
            )
    if experiments:
        return [of_toy[wanted] for wanted in experiments]
    return [e for e in of_toy.values() if not costs or e.cost in costs]


def decisive(name: str, config: Any, experiment: Experiment) -> dict[str, Any]:
    """What decides the result of an experiment, beside its version: defaults are left out."""
    return {"toy": name, "experiment": experiment.name, "config": identity(config)}


@shielded
def run_experiment(
    name: str,
    config: Any,
    experiment: Experiment,
    *,
    root: Path | None = None,
    resume: bool = True,
    reporter: Reporter | None = None,
) -> Result:
    """Run one experiment, or take its result from `root` where this version of it ran on the same config before.

    Args:
        name, config, experiment: the toy, its config and one of its experiments.
        root: folder of runs that keeps results; None keeps nothing.
        resume: False runs it again in any case.
        reporter: receives progress updates.
    """
    import time

    reporter = reporter or Silent()

    def make(checkpoints: Path | None) -> Result:
        started = time.perf_counter()
        checks = tuple(experiment.run(config, reporter, *([checkpoints] if experiment.resumable else [])))
        return Result(
            toy=name,
            experiment=experiment.name,
            about=experiment.about,
            cost=experiment.cost,
            seconds=time.perf_counter() - started,
            config=config.model_dump(mode="json"),
            checks=checks,
        )

    return kept(
        root,
        "toy-check",
        decisive(name, config, experiment),
        make,
        Result,
        "result.json",
        version=experiment.version,
        reporter=reporter,
        fresh=not resume,
    )


@shielded
def save_toy(folder: Path, name: str, config: Toy, toy: TrainedToy) -> None:
    """Write one trained network as `model.safetensors` and `toy.json`, and rows of its data as `data.safetensors`.

    `load_toy` and `saved_inputs` read them back.
    """
    tensors = {k: v.detach().contiguous() for k, v in toy.module.state_dict().items()}
    save_tensors(folder / "model.safetensors", tensors)
    inputs = toy.draw(SAVED_ROWS, make_generator(toy.seed, "saved")).inputs
    save_tensors(folder / "data.safetensors", {"inputs": inputs.contiguous()})
    about = {"toy": name, "config": config.model_dump(mode="json"), "seed": toy.seed, "setting": dict(toy.setting)}
    checksums = {name: sha256(folder / name) for name in ("model.safetensors", "data.safetensors")}
    save_record(folder / "toy.json", {**about, "loss": toy.loss, "trained": toy.trained, "files": checksums})


def read_toy(folder: Path) -> SavedToy:
    """What is known of a saved toy.

    Raises:
        InputError: the folder holds none, or its record was changed after it was saved.
    """
    try:
        return SavedToy.model_validate(load_record(folder / "toy.json"))
    except (DamagedArtifact, ValidationError) as error:
        raise _no_toy(folder, error) from error


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """A file of tensors of a saved toy, checked against its record."""
    wanted = read_toy(folder).files.get(name)
    tensors = load_tensors(folder / name)
    if wanted is not None and sha256(folder / name) != wanted:
        raise DamagedArtifact(f"{name} fails its checksum", where=str(folder / name), fix=_TRAIN)
    return tensors


def _no_toy(folder: Path, error: Exception) -> InputError:
    said = error.what if isinstance(error, InputError) else error
    return InputError(f"this is not a saved toy ({said})", where=str(folder), fix=_TRAIN)


@shielded
def load_toy(folder: Path) -> tuple[nn.Module, Toy]:
    """A saved toy's network and its config.

    Raises:
        InputError: the folder holds no toy, one of another version, one that was changed after it was saved, or one
            whose weights are not finite.
    """
    about = read_toy(folder)
    try:
        config: Toy = toy_named(about.toy).config.model_validate(about.config)
        module = config.build()
        tensors = _tensors(folder, "model.safetensors")
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"tensor {name} holds NaN or infinities")
        module.load_state_dict(tensors)
    except (OSError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise _no_toy(folder, error) from error
    return module.eval(), config


def saved_inputs(folder: Path) -> Tensor:
    """Rows of the data that a saved toy was trained on, `[row, ...]`.

    Raises:
        InputError: the folder has none, or they were changed after they were saved.
    """
    try:
        return _tensors(folder, "data.safetensors")["inputs"]
    except (OSError, KeyError, InputError) as error:
        said = f" that can be read ({error.what})" if isinstance(error, InputError) else ""
        raise InputError(f"this saved toy has no data beside it{said}", where=str(folder), fix=_TRAIN) from error


def markdown(results: Iterable[Result]) -> str:
    """The results as Markdown tables, one a toy."""
    lines: list[str] = []
    toy = None
    for result in results:
        if result.toy != toy:
            toy = result.toy
            kind = toy_named(toy).config
            lines += ["", f"## {toy}: {kind.title}", "", kind.paper, ""]
            lines += ["| check | reference | source | measured | n | outcome |", "|---|---|---|---|---|---|"]
        for c in result.checks:
            cells = (c.name, c.reference, c.source, measured(c), f"{c.n} {c.n_unit}", c.outcome.replace("_", " "))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    notes = [f"- **{r.toy}, {c.name}**: {c.note}" for r in results for c in r.checks if c.note and c.outcome != "pass"]
    if notes:
        lines += ["", "## What did not reproduce, and what was found", "", *notes]
    return "\n".join(lines).strip() + "\n"


def measured(check: Check) -> str:
    """The measured value with its interval: `0.40 [0.39, 0.41]`."""
    if check.outcome == "not_measured":
        return "–"
    text = _number(check.value)
    if check.interval is not None and check.interval.low == check.interval.low:
        text += f" [{_number(check.interval.low)}, {_number(check.interval.high)}]"
    return f"{text} {check.unit}".strip()


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"
