"""What a control can be a null of, and how its config is told apart."""

from typing import Literal

from polyseme.core.config import Config

Target = Literal["data", "labels", "weights", "latents"]


def kind_of(control: Config) -> str:
    """The `kind` of a control's config, which each control declares as a literal of its own."""
    return str(type(control).model_fields["kind"].default)
