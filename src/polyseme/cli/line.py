"""What was typed after `polyseme`, as the function of a command gets it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyseme.cli.flags import HELP, Group, parse
from polyseme.cli.help import show_help
from polyseme.cli.table import COMMANDS
from polyseme.core.errors import InputError


@dataclass(frozen=True)
class Line:
    """A command and what follows it.

    Attributes:
        name: of the command: `study`, `zoo train`.
        words: what stands before the first flag.
        flags: the flags with their values.
    """

    name: str
    words: tuple[str, ...]
    flags: tuple[str, ...]

    @classmethod
    def of(cls, name: str, args: Sequence[str]) -> "Line":
        """The arguments of a command, cut where its flags begin.

        Raises:
            InputError: the word that the command needs is missing.
        """
        command = COMMANDS[name]
        most = len(args) if command.n_words is None else command.n_words
        n = next((i for i, arg in enumerate(args[:most]) if arg.startswith("-") and arg != "-"), min(most, len(args)))
        line = cls(name, tuple(args[:n]), tuple(args[n:]))
        optional = command.usage.startswith("[")
        if command.word and not (args if optional else line.words) and not line.wants_help:
            raise InputError(
                f"{command.word} is missing: {command.meaning}",
                where=f"polyseme {name}",
                fix=f"for example: polyseme {name} {command.example}",
            )
        return line

    @property
    def action(self) -> str:
        """The name without its group."""
        return self.name.rpartition(" ")[2]

    @property
    def first(self) -> str:
        """The first word; "" where there is none."""
        return next(iter(self.words), "")

    @property
    def wants_help(self) -> bool:
        """Whether only help is asked for."""
        return any(flag in HELP for flag in self.flags)

    def configs(self, *groups: Group) -> list[Any]:
        """One config for each group, filled in by the flags.

        Raises:
            InputError: a flag is unknown or lacks its value, or a config does not fit.
            SystemExit: help was asked for, and printed.
        """
        command = COMMANDS[self.name]
        if self.wants_help:
            usage = command.usage.replace(command.word, self.first, 1) if self.first else command.usage
            show_help(self.flags, groups, f"polyseme {self.name} {usage}", command.about)
            raise SystemExit(0)
        return parse(self.flags, groups, " ".join(filter(None, ("polyseme", self.name, self.first))))
