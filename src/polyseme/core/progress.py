"""How long-running work reports its progress; the rendering lives in `polyseme.screen.progress`."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """One task's progress."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """`done` of `total` units are finished; `note` is a short figure beside the bar (`loss 0.12, L0 32`)."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """Makes progress lines and prints messages; only rank 0 gets one that writes."""

    def task(self, name: str, total: float, unit: str = "") -> Progress:
        """A new line for a task of `total` units (`tokens`, `latents`)."""
        ...

    def message(self, text: str) -> None:
        """A line that stays."""
        ...


class Silent:
    """A reporter and a progress that say nothing."""

    def task(self, name: str, total: float, unit: str = "") -> "Silent":  # noqa: ARG002  a Reporter's signature
        return self

    def message(self, text: str) -> None:
        pass

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        pass

    def close(self) -> None:
        pass
