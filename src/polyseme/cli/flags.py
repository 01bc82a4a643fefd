"""Flags into configs, with one style of error: what is wrong, where, and how to mend it."""

import io
import sys
from contextlib import redirect_stderr
from typing import Any

from pydantic import BaseModel, ValidationError

from polyseme.core.errors import InputError


def parse(flags: type[Any], args: list[str], prog: str, *, config: tuple[Any, ...] = ()) -> Any:
    """Flags into an instance of a dataclass of configs, as tyro does it.

    Args:
        flags: the dataclass.
        args: of the command line.
        prog: the command, as help calls it.
        config: options of tyro's.

    Raises:
        InputError: the values break a rule of one of the configs.
        SystemExit: help was asked for, or a flag is unknown or of another type; tyro has said so.
    """
    import tyro

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(flags, args=args, prog=prog, config=config)
    except ValidationError as error:
        raise _input_error(error, prog) from error
    except SystemExit as stop:
        # What a nested config says is wrapped by tyro, in pydantic's own words: the cause is still on the exception.
        cause: BaseException | None = stop
        while cause is not None and not isinstance(cause, ValidationError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            sys.stderr.write(said.getvalue())
            raise
        raise _input_error(cause, prog) from cause


def _input_error(error: ValidationError, prog: str) -> InputError:
    from polyseme.core.validation import input_error

    fix = f"see `{prog} --help` for what each of them may be"
    return input_error(error, {}, BaseModel, where="the flags", fix=fix)
