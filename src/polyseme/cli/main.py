"""Which command is meant, and what every command does about errors; each command imports what it needs by itself."""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

from polyseme import __version__
from polyseme.cli.terminal import clean_streams
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.memory import is_out_of_memory
from polyseme.core.text import visible

OK, USER_ERROR, FAILED, INTERRUPTED = 0, 2, 1, 130


def _study(args: list[str]) -> int:
    from polyseme.cli.commands import study

    return study(args)


def _demo(args: list[str]) -> int:
    from polyseme.cli.commands import demo

    return demo(args)


def _runs(args: list[str]) -> int:
    from polyseme.cli.commands import runs

    return runs(args)


def _show(args: list[str]) -> int:
    from polyseme.cli.commands import show

    return show(args)


def _sites(args: list[str]) -> int:
    from polyseme.cli.commands import sites

    return sites(args)


def _calibrate(args: list[str]) -> int:
    from polyseme.cli.commands import calibrate

    return calibrate(args)


def _toys(args: list[str]) -> int:
    from polyseme.cli.toys import toys

    return toys(args)


def _diagnose(args: list[str]) -> int:
    from polyseme.cli.diagnose import diagnose

    return diagnose(args)


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "study": (_study, "run a study file: a network and a corpus to latents with evidence beside each of them"),
    "demo": (_demo, "run the embedded study: the shipped language model on the standard library's source, offline"),
    "runs": (_runs, "list the runs of a folder"),
    "show": (_show, "print a run's summary and where its report is"),
    "sites": (_sites, "list the sites of a network, by the names a study file takes"),
    "toys": (_toys, "networks with known answers: train them, check them, draw them"),
    "diagnose": (_diagnose, "say why a site's neurons are polysemantic, with the evidence, or abstain"),
    "calibrate": (_calibrate, "measure how often the verdicts are wrong, on networks whose features are planted"),
}


def usage() -> str:
    """The text of `polyseme --help`."""
    lines = [
        f"polyseme {__version__}: finds the features inside a neural network, and says which are really the network's.",
        "",
        "usage: polyseme COMMAND [ARGUMENTS]        polyseme COMMAND --help for each command's own",
        "",
        *(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()),
        "",
        "A killed or interrupted study goes on where it was when the same command is given again.",
    ]
    return "\n".join(lines)


def run(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    args = list(sys.argv[1:] if argv is None else argv)
    out = out or sys.stdout
    if args[:1] == ["help"] and args[1:]:
        args = [args[1], "--help", *args[2:]]
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage(), file=out)
        return OK if args else USER_ERROR
    if args[0] in {"-V", "--version"}:
        print(__version__, file=out)
        return OK
    with clean_streams():
        return _run(args[0], args[1:])


def _run(name: str, rest: list[str]) -> int:
    try:
        if name not in COMMANDS:
            near = nearest_names(name, list(COMMANDS)) or list(COMMANDS)
            raise InputError(f"unknown command {name!r}", fix=f"did you mean {', '.join(near)}? see polyseme --help")
        # A terminated run is an interrupted one: it writes its checkpoint and its status before it ends.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return COMMANDS[name][0](rest)
    except InputError as error:
        _say("error", error.what, error.where, error.fix)
        return USER_ERROR
    except SystemExit as stop:  # help was asked for, and printed
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        _say("interrupted", "what was finished is kept", None, "give the same command again to go on from there")
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        from polyseme.store.failures import refusal

        refused = refusal(error)
        _say("error", refused.what, refused.where, refused.fix)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001  the last one above the terminal
        if not is_out_of_memory(error):
            traceback.print_exc()
            return FAILED
        fix = (
            "give it a machine with more, or ask for less at a time: smaller batches, fewer sites, a smaller dictionary"
        )
        _say("error", "there is not enough memory", str(error).splitlines()[0] if str(error) else None, fix)
        return USER_ERROR


def _say(kind: str, what: str, where: str | None, fix: str | None) -> None:
    # One line each, whatever a stranger's name or text in it holds.
    lines = [f"{kind}: {visible(what)}"]
    if where:
        lines.append(f"  where: {visible(where)}")
    if fix:
        lines.append(f"  fix:   {visible(fix)}")
    print("\n".join(lines), file=sys.stderr)
