"""What was found of every latent of one dictionary by removing it from single tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from polyseme.core.contrast import Contrast, moderated_together

SIZES = ("kl", "loss", "kl_later", "loss_later")
"""How large an effect is: KL(clean ‖ ablated) of the prediction and the loss of the actual next token, ablated minus
clean, at the token where the latent is removed and summed over the later ones."""
_OF_LATENTS = ("n_tokens", "n_documents", "n_later")
_OF_SAMPLES = ("sample_latent", "sample_row", "sample_kl", "sample_loss", "sample_expected")


EXPECTED = ("expected", "given_token")
"""The expected effects of `CausalEffects`: against what follows any token, and against what follows the same tokens."""


@dataclass(frozen=True)
class Expected:
    """The expected effect of every latent, with that of null directions; NaN where it was not measured.

    Attributes:
        value: aᵢ = mean over sampled firings s of the correlation of Δₛ with the lift of i (`CausalEffects`).
        error: standard error of aᵢ over the documents that its firings were sampled from.
        null: by null, the same for each of its directions, which stay the same at all tokens of a latent.
    """

    value: Float[np.ndarray, " latent"]
    error: Float[np.ndarray, " latent"]
    null: Mapping[str, Float[np.ndarray, "direction latent"]]

    def contrasts(self) -> dict[str, Contrast]:
        """The effect of every latent against the directions of each null.

        A latent that does nothing in particular has an aᵢ like that of another direction in its place, so it is tested
        as one more draw: t = (aᵢ − mean of its K null values) / (s̃ √(1 + 1/K)), s̃² their variance, which is
        moderated by those of other nulls and other latents (`core.contrast.moderated_together`). A repetition draws
        other firings and other directions.
        """
        spreads = moderated_together(self.null)
        found: dict[str, Contrast] = {}
        for name, null in self.null.items():
            n, spread = max(1, len(null)), spreads[name]
            mean = null.mean(axis=0) if len(null) else np.full(len(self.value), np.nan)
            error = np.sqrt(spread.variance * (1 + 1 / n))
            redrawn = np.sqrt(self.error**2 + spread.variance / n)
            found[name] = Contrast(self.value, mean, error, spread.freedom, redrawn, reach=1.0)
        return found


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
        expected: expected effect aᵢ = mean over sampled firings s of r(Δₛ, qᵢ / P), from −1 to 1. What the latent
            stands for is qᵢ(v) = P(next token = v | i fires) − P(v), counted on train text with P(v) = P(next token =
            v), each firing by its activation (`Meanings`); what removing it does is Δₛ(v) = log p(clean) − log
            p(ablated). Each token v counts P(v) in the correlation.
        given_token: the same with qᵢ(v) = P(next token = v | i fires) − P(next token = v | the same current tokens),
            which only what a latent says beyond its token can raise; shown, and no answer rests on it.
        sizes: by name (`SIZES`), how large the effect is, whatever it does.
        n_tokens: firing tokens sampled.
        n_documents: documents they come from.
        n_later: sampled tokens whose effect on later ones was measured.
        sample_latent: whose firing each sampled token is, in latent order.
        sample_row: which token it is, a row of the firings.
        sample_kl, sample_loss, sample_expected: what ablating the latent there did; `expected` and the sizes at the
            token are their means.
    """

    expected: Expected
    given_token: Expected
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
        """Axis `used`: the expected effect of every latent against the directions of each null."""
        return self.expected.contrasts()

    def at_tokens(self, latent: int) -> tuple[dict[int, float], dict[int, float]]:
        """Loss and KL of ablating one latent at each token sampled for it: row of the firings to nats."""
        mine = slice(*np.searchsorted(self.sample_latent, [latent, latent + 1]))
        rows = self.sample_row[mine].tolist()
        loss, kl = (dict(zip(rows, x[mine].tolist(), strict=True)) for x in (self.sample_loss, self.sample_kl))
        return loss, kl

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array under its name (`array_names`), for saving."""
        found = {name: getattr(self, name) for name in (*_OF_LATENTS, *_OF_SAMPLES)}
        for name in EXPECTED:
            of: Expected = getattr(self, name)
            found |= {f"{name}.value": of.value, f"{name}.error": of.error}
            found |= {f"{name}.{null}": array for null, array in of.null.items()}
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
        expected, given_token = (
            Expected(
                arrays[f"{name}.value"], arrays[f"{name}.error"], {null: arrays[f"{name}.{null}"] for null in nulls}
            )
            for name in EXPECTED
        )
        columns = {name: arrays[name] for name in (*_OF_LATENTS, *_OF_SAMPLES)}
        return cls(expected=expected, given_token=given_token, sizes=sizes, **columns)


def array_names(nulls: Sequence[str]) -> list[str]:
    """The names of the arrays of `CausalEffects` that were measured against these nulls."""
    of_sizes = [f"{size}.{part}" for size in SIZES for part in ("value", "low", "high", *nulls)]
    of_expected = [f"{name}.{part}" for name in EXPECTED for part in ("value", "error", *nulls)]
    return [*_OF_LATENTS, *_OF_SAMPLES, *of_expected, *of_sizes]
