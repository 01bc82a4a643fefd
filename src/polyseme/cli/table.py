"""The commands as a table: what each is called, does and takes. Nothing heavy is imported to print it."""

import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from polyseme.core.version import __version__

OK, USER_ERROR, FAILED, INTERRUPTED = 0, 2, 1, 130
_NARROWEST, _WIDEST = 40, 120


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        run: its function in this package, `module.function`; "" for a group of commands.
        line: what it does, in the list of commands.
        more: what its help adds.
        usage: what follows its name. A word in capitals comes first: it must be given unless it stands in brackets.
        meaning: what that word may be.
        example: what may follow the name.
        starting: printed before imports that take seconds.
    """

    run: str
    line: str
    more: str = ""
    usage: str = "[--FIELD VALUE …]"
    meaning: str = ""
    example: str = ""
    starting: str = ""

    @property
    def word(self) -> str:
        """The word in capitals; "" where there is none."""
        first = self.usage.split()[0].strip("[]")
        return first if first.isalpha() and first.isupper() else ""

    @property
    def n_words(self) -> int | None:
        """Most words in capitals that stand before its flags; None for any number."""
        before = self.usage.split("--")[0]
        return None if "…" in before else sum(word.strip("[]").isalpha() for word in before.split())

    @property
    def about(self) -> str:
        """What its help says before the flags."""
        means = f" {self.word} is {self.meaning}." if self.meaning else ""
        return f"{self.line[0].upper()}{self.line[1:]}.{means} {self.more}".strip()


_TOY = {"usage": "NAME [--FIELD VALUE …]", "meaning": "a toy of `polyseme zoo list`", "example": "superposition"}
_SETTINGS = (
    "The settings of a toy are flags too, which the help lists after its name: polyseme zoo {} superposition --help."
)
_STUDY = {
    "usage": "[FILE] [--FIELD VALUE …]",
    "meaning": "a study file in TOML, or - for standard input",
    "example": "study.toml",
}

COMMANDS: dict[str, Command] = {
    "study": Command(
        "study.study",
        "run a study: from a network and a corpus to latents, each with its evidence",
        "Flags set the same fields and take precedence over the file, which may be left out.",
        **_STUDY,
        starting="polyseme: starting",
    ),
    "plan": Command(
        "study.plan",
        "print a study's stages: what is done, what is to do, and how long that will take",
        "Nothing is trained. `polyseme stage ID` runs one of the stages, here or on another machine that sees the same "
        "folder.",
        **_STUDY,
    ),
    "stage": Command(
        "study.stage",
        "run stages of a study by the ids that `polyseme plan` prints",
        "The stages that they need are run first. A stage that another process is making is waited for, and a finished "
        "one is not made again. A scheduler has to call nothing else.",
        "ID … [--root PATH]",
        "an id that `polyseme plan FILE` prints",
        "0123abcd-4567cdef",
    ),
    "demo": Command(
        "study.demo",
        "run the study that comes with the package: its own language model on Python's standard library",
        "It works offline. Flags set the same fields as those of a study.",
        starting="polyseme: starting the demo (a few minutes on two cores; nothing is downloaded)",
    ),
    "runs": Command("runs.runs", "list the runs of a folder", usage="[--root PATH]"),
    "show": Command(
        "runs.show",
        "print a run's summary, and where its report is",
        usage="RUN [--root PATH]",
        meaning="the id of a run or the start of it, the folder of a run wherever it lies, or a report.json",
        example="demo",
    ),
    "compare": Command(
        "runs.compare",
        "compare two runs: their metrics, their verdicts, and how many latents keep their answers",
        "Answers are compared latent by latent where both runs judge the same dictionary: the first of `seeds`, and "
        "what it is trained on, are the same.",
        "RUN RUN [--root PATH]",
        "the id of a run, the start of it, or its folder",
        "demo other",
    ),
    "sites": Command(
        "sites.sites",
        "list the sites of a network by the names that a study takes",
        usage="NETWORK [--modules] [--download]",
        meaning="pylm, a folder, or a hub name",
        example="pylm",
    ),
    "info": Command(
        "info.info",
        "print versions, devices, threads, the compiled loops in use, and the folder of runs",
        usage="[--root PATH] [--json]",
    ),
    "zoo": Command("", "train, check and draw networks with known answers", usage="ACTION [--FIELD VALUE …]"),
    "zoo list": Command("zoo.list_toys", "list the toys, their experiments and what each costs", usage="[--help]"),
    "zoo train": Command(
        "zoo.train", "train a toy's networks and keep them under runs/zoo", _SETTINGS.format("train"), **_TOY
    ),
    "zoo check": Command(
        "zoo.check",
        "compare a toy, or with --all every toy, with what is known of it",
        _SETTINGS.format("check"),
        **_TOY | {"usage": "[NAME] [--FIELD VALUE …]"},
    ),
    "zoo figures": Command(
        "zoo.figures", "draw a paper's figures from our own networks", _SETTINGS.format("figures"), **_TOY
    ),
    "zoo recovery": Command(
        "zoo.recovery", "train every architecture over L0 on planted data: two Pareto fronts of recovery"
    ),
    "zoo confusion": Command(
        "zoo.confusion",
        "measure how often `polyseme diagnose` is right, wrong or silent on toys whose cause is known",
    ),
    "zoo dose": Command(
        "zoo.dose", "measure whether its answer follows the density, the angle or the mixing that is the cause"
    ),
    "diagnose": Command(
        "diagnose.diagnose",
        "say why a site's neurons are polysemantic, with the evidence, or abstain",
        "The settings of a toy by name are flags as --toy.FIELD: polyseme diagnose toy:superposition --help.",
        "NETWORK --site SITE [--FIELD VALUE …]",
        "pylm, a folder, a hub name, a network of `polyseme zoo train`, or toy:NAME",
        "toy:superposition --site hidden",
    ),
    "calibrate": Command(
        "calibrate.calibrate", "measure how often the verdicts are wrong, on networks whose features are planted"
    ),
}


def overview(group: str = "") -> str:
    """The text of `polyseme --help`, or of a group's help."""
    start = f"{group} " if group else ""
    names = [name for name in COMMANDS if name.startswith(start) and " " not in name.removeprefix(start)]
    width = terminal_width()
    about = f"polyseme {__version__}: finds the features of a neural network, and says which are really the network's."
    kind = "ACTION" if group else "COMMAND"
    lines = [
        *textwrap.wrap(COMMANDS[group].about if group else about, width),
        "",
        f"usage: polyseme {start}{kind} [ARGUMENTS]",
        f"       polyseme {start}{kind} --help",
        "",
        *(line for name in names for line in columns(f"  {name.removeprefix(start)}", COMMANDS[name].line, 13, width)),
    ]
    if not group:
        status = f"{OK} done, {FAILED} failed, {USER_ERROR} wrong input, {INTERRUPTED} interrupted"
        lines += ["", *textwrap.wrap("A study that was stopped is resumed by the same command.", width)]
        lines += textwrap.wrap(f"Exit status: {status}.", width)
    return "\n".join(lines)


def terminal_width() -> int:
    """Columns that help is laid out in."""
    return min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size((100, 24)).columns))


def columns(left: str, right: str, column: int, width: int) -> Iterator[str]:
    """`left`, and `right` from a column on: on the same line where there is room, else on those below."""
    body = textwrap.wrap(right, max(20, width - column), break_on_hyphens=False) or [""]
    if len(left) + 2 <= column:
        yield f"{left:<{column}}{body[0]}".rstrip()
        body = body[1:]
    else:
        yield from textwrap.wrap(left, width, subsequent_indent="      ", break_long_words=False)
    for line in body:
        yield " " * column + line
