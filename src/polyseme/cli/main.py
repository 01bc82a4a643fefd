"""Which command is meant, and what becomes of errors; a command's own file is imported when it is the one."""

import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from polyseme.cli.table import COMMANDS, FAILED, INTERRUPTED, OK, USER_ERROR, overview
from polyseme.core.errors import InputError, nearest_names
from polyseme.core.memory import is_out_of_memory
from polyseme.core.text import visible
from polyseme.core.version import __version__
from polyseme.screen.streams import clean_streams

DEBUG = "POLYSEME_DEBUG"
"""Environment variable that has the traceback of a bug printed instead of saved."""


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
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        _say("interrupted", InputError("what was finished is kept", fix="give the same command again to continue"))
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return FAILED
    except Exception as error:  # noqa: BLE001  the last one above the terminal
        foreseen = _foreseen(error)
        _say("error", foreseen or _bug(error))
        return USER_ERROR if foreseen else FAILED


def _foreseen(error: Exception) -> InputError | None:
    """The sentence about what a user can act on; None about a bug."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError):
        from polyseme.store.failures import refusal

        return refusal(error)
    if is_out_of_memory(error):
        fix = "use a machine with more memory, or less of it: smaller batches, fewer sites or fewer latents"
        return InputError("there is not enough memory", where=str(error).partition("\n")[0] or None, fix=fix)
    return None


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
        fix = "change to a directory that exists, and give the command again"
        raise InputError(what, where=where, fix=fix) from None


def _say(kind: str, error: InputError) -> None:
    # One line each, whatever a stranger's name or text in it holds.
    lines = {f"{kind}: ": error.what, "  where: ": error.where, "  fix:   ": error.fix}
    print("\n".join(head + visible(text) for head, text in lines.items() if text), file=sys.stderr)


def _bug(error: Exception) -> InputError:
    """The sentence about what nobody foresaw; its traceback goes to a file, or to the terminal where `DEBUG` is set."""
    text = "".join(traceback.format_exception(error))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "polyseme" in f.filename]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None
    what = f"polyseme failed in a way nobody foresaw ({type(error).__name__}: {str(error)[:300]})"
    kept = f"what `{DEBUG}=1` prints"
    if os.environ.get(DEBUG):
        print(text, file=sys.stderr)
        kept = "the traceback above"
    else:
        with suppress(OSError):
            file, path = tempfile.mkstemp(prefix="polyseme-", suffix=".txt")
            with open(file, "w", encoding="utf-8", errors="backslashreplace") as out:
                out.write(f"polyseme {__version__}, Python {sys.version}\n{shlex.join(sys.argv)}\n\n{text}")
            kept = f"the traceback in {path}"
    fix = f"this is a bug in polyseme: report it with {kept}; finished work is kept, and the same command resumes it"
    return InputError(what, where=where, fix=fix)


def _forget_output() -> None:
    """Nobody reads standard output any more: what is left of it goes nowhere, and Python does not complain at exit."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as null:  # ValueError: a stream without a file behind it
        os.dup2(null.fileno(), sys.stdout.fileno())
