"""Which command is meant, and what every command does about errors; each command imports what it needs by itself."""

import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module

from polyseme.cli.table import COMMANDS, FAILED, INTERRUPTED, OK, USER_ERROR, overview
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.memory import is_out_of_memory
from polyseme.core.text import visible
from polyseme.core.version import __version__
from polyseme.screen.streams import clean_streams

DEBUG = "POLYSEME_DEBUG"
"""Environment variable that has an unforeseen error's traceback printed instead of saved."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (it failed), 2 (bad input) or 130 (interrupted)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["help"]:
        args = [*args[1:2], "--help", *args[2:]]
    with clean_streams():
        return _guarded(args)


def _guarded(args: list[str]) -> int:
    """Run a command; whatever it raises becomes a sentence and an exit status."""
    try:
        status = _run(args)
        sys.stdout.flush()  # the reader of a pipe may be gone, or the disk full
        return status
    except InputError as error:
        _say("error", error.what, error.where, error.fix)
        return USER_ERROR
    except SystemExit as stop:  # help was asked for, and printed
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        _say("interrupted", "what was finished is kept", None, "give the same command again to go on from there")
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return FAILED
    except OSError as error:
        from polyseme.store.failures import refusal

        refused = refusal(error)
        _say("error", refused.what, refused.where, refused.fix)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001  the last one above the terminal
        if is_out_of_memory(error):
            fix = "use a machine with more, or ask for less at a time: smaller batches, fewer sites, fewer latents"
            _say("error", "there is not enough memory", str(error).splitlines()[0] if str(error) else None, fix)
            return USER_ERROR
        _say_bug(error)
        return FAILED


def _run(args: list[str]) -> int:
    name = args[0] if args else ""
    if name in {"", "-h", "--help"}:
        print(overview())
        return OK if args else USER_ERROR
    if name in {"-V", "--version"}:
        print(__version__)
        return OK
    group, rest = "", args[1:]
    if name in COMMANDS and not COMMANDS[name].run:
        if rest[:1] in (["-h"], ["--help"]):
            print(overview(name))
            return OK
        group, name, rest = name, f"{name} {rest[0] if rest else ''}", rest[1:]
    if name not in COMMANDS:
        raise _unknown(group, name.removeprefix(f"{group} "))
    _check_place()
    # A terminated run is an interrupted one: it writes its checkpoint and its status before it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from polyseme.cli.line import Line

    line, command = Line.of(name, rest), COMMANDS[name]
    if command.starting and not line.wants_help:
        print(command.starting, file=sys.stderr, flush=True)
    module, function = command.run.split(".")
    return getattr(import_module(f"polyseme.cli.{module}"), function)(line)


def _unknown(group: str, name: str) -> InputError:
    """The error about a command, or an action of a group, that there is not."""
    start = f"{group} " if group else ""
    known = [other.removeprefix(start) for other in COMMANDS if other.startswith(start)]
    near = nearest_names(name, known) or known
    what = f"there is no {'action' if group else 'command'} {name[:80]!r}" if name else f"{group} needs an action"
    fix = f"did you mean {', '.join(near)}? see polyseme {start}--help"
    return InputError(what, where=f"polyseme {group}".strip(), fix=fix)


def _check_place() -> None:
    """Refuse a current directory that is gone: what is given relative to it would be said to be missing."""
    try:
        os.getcwd()
    except OSError as error:
        what = f"the current directory is gone or may not be looked at ({error.strerror})"
        where = os.environ.get("PWD") or "the current directory"
        raise InputError(
            what, where=where, fix="change to a directory that exists, and give the command again"
        ) from None


def _say(kind: str, what: str, where: str | None, fix: str | None) -> None:
    # One line each, whatever a stranger's name or text in it holds.
    lines = [f"{kind}: {visible(what)}"]
    if where:
        lines.append(f"  where: {visible(where)}")
    if fix:
        lines.append(f"  fix:   {visible(fix)}")
    print("\n".join(lines), file=sys.stderr)


def _say_bug(error: Exception) -> None:
    """One sentence for what nobody foresaw; its traceback goes to a file, or to the terminal if that is asked for."""
    text = "".join(traceback.format_exception(error))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "polyseme" in f.filename]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None
    what = f"polyseme failed in a way nobody foresaw ({type(error).__name__}: {str(error)[:300]})"
    if os.environ.get(DEBUG):
        print(text, file=sys.stderr)
        _say("error", what, where, "this is a bug in polyseme: report it with the traceback above")
        return
    try:
        file, path = tempfile.mkstemp(prefix="polyseme-", suffix=".txt")
        with open(file, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"polyseme {__version__}, Python {sys.version}\n{shlex.join(sys.argv)}\n\n{text}")
    except OSError:
        path = ""
    kept = f"the traceback in {path}" if path else f"what `{DEBUG}=1` prints"
    fix = f"this is a bug in polyseme: report it with {kept}; finished work is kept, and the same command resumes it"
    _say("error", what, where, fix)


def _forget_output() -> None:
    """Nobody reads standard output any more: what is left of it goes nowhere, and Python does not complain at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):  # a stream without a file behind it
        pass
    finally:
        os.close(null)
