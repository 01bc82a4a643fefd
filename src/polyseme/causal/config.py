"""How causal effects are measured, and what that takes."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field

from polyseme.causal.result import EXPECTED, SIZES
from polyseme.core.config import Config, Resamples, Width
from polyseme.nulls import OfLatents

CHUNK_BYTES = 2**28
"""Most bytes of what latents stand for and of the directions of their nulls; more latents are taken in chunks."""


def _distinct(nulls: tuple[OfLatents, ...]) -> tuple[OfLatents, ...]:
    if len(set(nulls)) < len(nulls):
        raise ValueError(f"names one null twice: {', '.join(nulls)}")
    return nulls


class CausalConfig(Config):
    """How causal effects are measured."""

    replaced: ClassVar[Mapping[str, str]] = {
        "null": "every null of `causal.nulls` is compared with, and the answer rests on the hardest",
        "statistic": "the expected effect is tested, and KL and loss are shown as its sizes",
        "n_flips": "the directions of each null (`causal.n_directions`) are compared with by Student's t",
    }

    n_samples: int = Field(default=8, ge=0, le=10**6)
    """Largest number of firing tokens sampled for each latent, spread over its documents; each costs an intervention
    for the latent and one for every direction of every null."""
    nulls: Annotated[tuple[OfLatents, ...], Field(min_length=1, max_length=16), AfterValidator(_distinct)] = get_args(
        OfLatents
    )
    """Where the directions come from that are removed for comparison, at the same tokens and of the same norm:
    uniformly random (`isotropic`), of the covariance of the site's vectors, those of other latents that fire, and those
    of other latents that fire about as often and write about as much (`alike_latent`). All are shown, and the answer
    rests on the hardest."""
    n_directions: int = Field(default=16, ge=2, le=256)
    """Number of directions of each null for each latent, the same ones at all of its tokens."""
    horizon: int = Field(default=8, ge=0, le=4096)
    """Number of later tokens over which the effects of a change are summed."""
    n_later: int = Field(default=6, ge=0, le=10**6)
    """Largest number of a latent's sampled tokens whose effect on later tokens is measured, with one direction of each
    null. An interval takes six documents at least."""
    n_resamples: Resamples = 1000
    """Number of bootstrap resamples of documents behind each interval."""
    route: Literal["auto", "ghosts", "rows"] = "auto"
    """How interventions are run: `ghosts` puts hundreds into one pass, for networks that honour 4-D masks; `rows` takes
    one row for each."""
    max_ghosts: int = Field(default=512, ge=1, le=2**16)
    """Largest number of edited tokens that share the pass over one window."""
    tokens_per_pass: Width = 1024
    """Number of tokens, clean and edited, in one forward pass; this bounds the memory."""
    logit_bytes: int = Field(default=2**28, ge=2**10, le=2**40)
    """Largest size, in bytes, of the logits of one pass; with a large vocabulary fewer interventions share a pass."""

    @property
    def columns(self) -> int:
        """Most directions that are removed at a sampled token: the latent's own and those of its nulls."""
        return 1 + len(self.nulls) * self.n_directions

    @property
    def interventions(self) -> int:
        """Most interventions a latent: its own and those of its nulls, at every sampled token."""
        return self.n_samples * self.columns

    @property
    def edited(self) -> int:
        """Most edited tokens a latent, the later ones of its own interventions and of one a null included."""
        return self.interventions + min(self.n_later, self.n_samples) * self.horizon * (1 + len(self.nulls))

    def latents_at_once(self, vocabulary: int, width: int) -> int:
        """How many latents are measured together.

        Args:
            vocabulary: tokens that the network predicts.
            width: of what the dictionary writes.
        """
        return max(1, CHUNK_BYTES // self._bytes_a_latent(vocabulary, width))

    def held_bytes(self, n_latents: int, vocabulary: int, width: int, n_train: int, l0: float) -> float:
        """Most bytes held beside the passes: what a chunk of latents stands for, its directions, the sums of effects by
        latent and direction, and the counts.

        Args:
            n_latents: of the dictionary.
            vocabulary, width: as in `latents_at_once`.
            n_train: train tokens that the meanings are counted on.
            l0: latents that fire at a token.
        """
        at_once = min(n_latents, self.latents_at_once(vocabulary, width))
        chunk = float(at_once * self._bytes_a_latent(vocabulary, width))
        totals = n_latents * self.columns * (len(EXPECTED) + len(SIZES)) * 8.0
        # Firings by row and by column, and two tables of counts that hold one entry a firing at most.
        return chunk + totals + n_train * (l0 * 4 * 12.0 + 24)

    def _bytes_a_latent(self, vocabulary: int, width: int) -> int:
        """What one latent of a chunk stands for, and its directions."""
        return 36 * vocabulary + 4 * width * self.columns
