"""Errors a user can act on."""


class InputError(ValueError):
    """Bad input: says what is wrong, where, and how to put it right.

    The command line prints it without a traceback and exits with status 2; from Python it is an ordinary
    `ValueError`.

    Args:
        what: what is wrong, one sentence without a full stop.
        where: the file, field, site or stage it was found in.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        parts = [what if what.endswith((".", "?")) else f"{what}."]
        if where:
            parts.append(f"Where: {where}.")
        if fix:
            parts.append(f"Fix: {fix}{'' if fix.endswith(('.', '?')) else '.'}")
        super().__init__(" ".join(parts))


class DamagedArtifact(InputError):  # noqa: N818 - says what happened
    """A file of ours that fails its checksum or cannot be read; it is re-made, never trusted."""


class Diverged(InputError):  # noqa: N818 - says what happened
    """Training produced a NaN, an infinity or an exploding loss; names the step and the last good checkpoint."""


def nearest_names(name: str, known: "list[str] | tuple[str, ...]", n: int = 5) -> list[str]:
    """The known names most like `name`, best first, for an error message."""
    import difflib

    # Its cost grows with the square of the length, and a stranger's name may be as long as a file.
    return difflib.get_close_matches(name[:200], known, n=n, cutoff=0.3)


def known_name(name: str, known: "list[str] | tuple[str, ...]", what: str) -> str:
    """`name`, where it is one of the known names.

    Args:
        name: what was given.
        known: what may be given.
        what: the sentence for anything else, up to the name: `the study has no site`.

    Raises:
        InputError: it is none of them; the nearest are said.
    """
    if name in known:
        return name
    near = nearest_names(str(name), known)
    raise InputError(
        f"{what} {str(name)[:80]!r}", fix=f"nearest: {', '.join(near)}" if near else f"one of {', '.join(known[:10])}"
    )
