"""Nulls: things made random, one null a file, with what each keeps and destroys.

To add one: a file with a null of the weights, tokens, dictionary, latents or labels, and its line here.
"""

from typing import Annotated, Literal, get_args

from pydantic import Discriminator

from polyseme.core.errors import known_name
from polyseme.nulls.alike_latent import AlikeLatent
from polyseme.nulls.covariance import Covariance
from polyseme.nulls.frozen_decoder import FrozenDecoder
from polyseme.nulls.frozen_directions import FrozenDirections
from polyseme.nulls.frozen_encoder import FrozenEncoder
from polyseme.nulls.gaussian import GaussianReinit
from polyseme.nulls.isotropic import Isotropic
from polyseme.nulls.latents import LatentNull
from polyseme.nulls.other_latent import OtherLatent
from polyseme.nulls.permuted import PermutedWeights
from polyseme.nulls.protocol import Null, Written, kind_of
from polyseme.nulls.shuffled_labels import ShuffledLabels
from polyseme.nulls.shuffled_tokens import ShuffledTokens
from polyseme.nulls.spectrum import SpectrumReinit
from polyseme.nulls.uniform_tokens import UniformTokens
from polyseme.nulls.unigram_tokens import UnigramTokens

NullConfig = Annotated[
    GaussianReinit
    | SpectrumReinit
    | PermutedWeights
    | ShuffledTokens
    | UnigramTokens
    | UniformTokens
    | FrozenDecoder
    | FrozenEncoder
    | FrozenDirections,
    Discriminator("kind"),
]
"""Nulls that a whole study can be repeated on."""
OfLatents = Literal["isotropic", "covariance", "other_latent", "alike_latent"]
"""Nulls that the causal effect of a latent can be compared with."""
_OF_LATENTS: dict[OfLatents, type[LatentNull]] = {
    "isotropic": Isotropic,
    "covariance": Covariance,
    "other_latent": OtherLatent,
    "alike_latent": AlikeLatent,
}
NULLS: dict[str, type[Null]] = {
    kind_of(null): null for null in (*get_args(get_args(NullConfig)[0]), *_OF_LATENTS.values(), ShuffledLabels)
}
"""Every null by its kind."""


def make_null(kind: str, seed: int = 0) -> Null:
    """A null of the table by its kind, with its defaults.

    Raises:
        InputError: there is no such kind.
    """
    return NULLS[known_name(kind, tuple(NULLS), "there is no null")](seed=seed)


def null_of_latents(kind: OfLatents, seed: int = 0) -> LatentNull:
    """A null of the latents by its kind."""
    return _OF_LATENTS[kind](seed=seed)


__all__ = [
    "NULLS",
    "LatentNull",
    "Null",
    "NullConfig",
    "OfLatents",
    "Written",
    "kind_of",
    "make_null",
    "null_of_latents",
]
