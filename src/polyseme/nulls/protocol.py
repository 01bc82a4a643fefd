"""What every null says of itself."""

from typing import ClassVar, Literal

from polyseme.core.config import Config, Seed

Target = Literal["weights", "tokens", "dictionary", "labels", "latents"]


def kind_of(null: Config) -> str:
    """The `kind` of a null's config, its name in the table, which each null declares as a literal of its own."""
    return str(type(null).model_fields["kind"].default)


def with_seed(name: str, seed: int) -> str:
    """The name of a null drawn from a seed: two draws of one null have two names."""
    return f"{name}_seed{seed}" if seed else name


class Null(Config):
    """A thing made random in one way: what it replaces, what it keeps of it, and what it destroys.

    Whatever takes a null takes what it replaces and gives the same kind of thing back (`nulls.on_network`,
    `nulls.on_windows`); what a null does not target stays the same object.
    """

    targets: ClassVar[Target]
    """What it replaces."""
    kept: ClassVar[str]
    """What it shares with the real thing; a result that this explains is not the network's doing."""
    lost: ClassVar[str]
    """What it lacks; only this can explain a gap."""

    seed: Seed = 0

    @property
    def name(self) -> str:
        """A short name, unique within a study: `gaussian_reinit`."""
        return with_seed(kind_of(self), self.seed)

    @property
    def preserves(self) -> str:
        """`kept`, with what its settings keep besides."""
        return self.kept

    @property
    def destroys(self) -> str:
        """`lost`, without what its settings keep."""
        return self.lost
