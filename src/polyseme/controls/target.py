"""What a control can be a null of, and how its config is named."""

from typing import Literal

from polyseme.core.config import Config

Target = Literal["data", "labels", "weights", "latents"]


def kind_of(control: Config) -> str:
    """The `kind` of a control's config, which each control declares as a literal of its own."""
    return str(type(control).model_fields["kind"].default)


def with_seed(name: str, seed: int) -> str:
    """The name of a control drawn from a seed: two draws of one null have two names."""
    return f"{name}_seed{seed}" if seed else name
