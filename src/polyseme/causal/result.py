"""What was found of every latent of one dictionary by removing it from single tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.contrast import Contrast, moderated_together

SIZES = ("kl", "loss", "kl_later", "loss_later")
"""How large an effect is: KL(clean ‖ ablated) of the prediction and the loss of the actual next token, ablated minus
clean, at the token where the latent is removed and summed over the later ones."""
_OF_LATENTS = ("expected", "expected_error", "n_tokens", "n_documents", "n_later")
_OF_SAMPLES = ("sample_latent", "sample_row", "sample_kl", "sample_loss", "sample_expected")


@dataclass(frozen=True)
class Size:
    """How large the effect of every latent is in one respect, in nats; NaN where it was not measured.

    Attributes:
        value: mean over the sampled firing tokens.
        low, high: its 95% interval by bootstrap over documents.
        null: by null, the same mean for the directions of that null.
    """

    value: Float[np.ndarray, " latent"]
    low: Float[np.ndarray, " latent"]
    high: Float[np.ndarray, " latent"]
    null: Mapping[str, Float[np.ndarray, " latent"]]


@dataclass(frozen=True)
class CausalEffects:
    """What removing every latent of one dictionary does to predictions; NaN where it was not measured.

    Attributes:
        expected: expected effect aᵢ = mean over sampled firings s of qᵢ · Δₛ. What the latent stands for is qᵢ(v) =
            P(next token = v | i fires) − P(next = v | the same current tokens), counted on train text; what removing it
            does is Δₛ(v) = log p(clean) − log p(ablated), centred under p(clean) and divided by its standard deviation
            under it.
        expected_error: standard error of aᵢ over the documents that its firings were sampled from.
        null_expected: by null, the same for each of its directions, which stay the same at all tokens of a latent.
        sizes: by name (`SIZES`), how large the effect is, whatever it does.
        n_tokens: firing tokens sampled.
        n_documents: documents they come from.
        n_later: sampled tokens whose effect on later ones was measured.
        sample_latent: whose firing each sampled token is, in latent order.
        sample_row: which token it is, a row of the firings.
        sample_kl, sample_loss, sample_expected: what ablating the latent there did; `expected` and the sizes at the
            token are their means.
    """

    expected: Float[np.ndarray, " latent"]
    expected_error: Float[np.ndarray, " latent"]
    null_expected: Mapping[str, Float[np.ndarray, "direction latent"]]
    sizes: Mapping[str, Size]
    n_tokens: Int[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]
    n_later: Int[np.ndarray, " latent"]
    sample_latent: Int[np.ndarray, " sample"]
    sample_row: Int[np.ndarray, " sample"]
    sample_kl: Float[np.ndarray, " sample"]
    sample_loss: Float[np.ndarray, " sample"]
    sample_expected: Float[np.ndarray, " sample"]

    def used(self) -> dict[str, Contrast]:
        """Axis `used`: the expected effect of every latent against the directions of each null.

        A latent that does nothing in particular has an aᵢ like that of another direction in its place, so it is tested
        as one more draw: t = (aᵢ − mean of its K null values) / (s̃ √(1 + 1/K)), s̃² their variance, which is
        moderated by those of other nulls and other latents (`core.contrast.moderated_together`). A repetition draws
        other firings and other directions.
        """
        spreads = moderated_together(self.null_expected)
        found: dict[str, Contrast] = {}
        for name, null in self.null_expected.items():
            n, spread = max(1, len(null)), spreads[name]
            mean = null.mean(axis=0) if len(null) else np.full(len(self.expected), np.nan)
            error = np.sqrt(spread.variance * (1 + 1 / n))
            redrawn = np.sqrt(self.expected_error**2 + spread.variance / n)
            found[name] = Contrast(self.expected, mean, error, spread.freedom, redrawn)
        return found

    def at_tokens(self, latent: int) -> tuple[dict[int, float], dict[int, float]]:
        """Loss and KL of ablating one latent at each token sampled for it: row of the firings to nats."""
        mine = slice(*np.searchsorted(self.sample_latent, [latent, latent + 1]))
        rows = self.sample_row[mine].tolist()
        loss, kl = (dict(zip(rows, x[mine].tolist(), strict=True)) for x in (self.sample_loss, self.sample_kl))
        return loss, kl

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name (`array_names`), for saving."""
        found = {name: getattr(self, name) for name in (*_OF_LATENTS, *_OF_SAMPLES)}
        found |= {f"null_expected.{null}": array for null, array in self.null_expected.items()}
        for name, size in self.sizes.items():
            found |= {f"{name}.value": size.value, f"{name}.low": size.low, f"{name}.high": size.high}
            found |= {f"{name}.{null}": array for null, array in size.null.items()}
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], nulls: Sequence[str]) -> "CausalEffects":
        """The object whose `arrays` these are."""
        sizes = {
            name: Size(
                arrays[f"{name}.value"],
                arrays[f"{name}.low"],
                arrays[f"{name}.high"],
                {null: arrays[f"{name}.{null}"] for null in nulls},
            )
            for name in SIZES
        }
        return cls(
            **{name: arrays[name] for name in (*_OF_LATENTS, *_OF_SAMPLES)},
            null_expected={null: arrays[f"null_expected.{null}"] for null in nulls},
            sizes=sizes,
        )


def array_names(nulls: Sequence[str]) -> list[str]:
    """The names of the arrays of `CausalEffects` that were measured against these nulls."""
    of_sizes = [f"{size}.{part}" for size in SIZES for part in ("value", "low", "high", *nulls)]
    return [*_OF_LATENTS, *_OF_SAMPLES, *(f"null_expected.{null}" for null in nulls), *of_sizes]
