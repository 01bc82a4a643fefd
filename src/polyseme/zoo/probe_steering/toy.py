"""Probe and steering directions: the best vector to read a feature is not the best one to write it.

a = Σ_i z_i f_i for a pair of features at an angle (invertible) and for a regular polygon of them (more features than
dimensions). Every direction has a closed form; `polyseme.causal.directions` computes them, the network's own edits
apply them, and `polyseme.causal.causal_effects` measures what removing a feature does to a prediction.
"""

import math
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from polyseme.activations.firings import Firings
from polyseme.causal.directions import optimal_probe
from polyseme.core.config import Seeds, Width
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows
from polyseme.zoo.tools.geometry import polygon
from polyseme.zoo.tools.toy import Sample, Toy, TrainedToy, Truth

Arrangement = Literal["pair", "polygon"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("pair", "polygon")
SITE = Site(path="hidden")
GAIN = 0.25
"""Half of the log-odds that a read-off of 1 gives a bit of the next token."""


class ReadOff(nn.Module):
    """z → a = zF → a · r_j, with the rows of F the features and r_j the readers; `hidden` is a. In float64."""

    def __init__(self, features: Float[Tensor, "feature d"], readers: Float[Tensor, "feature d"]):
        super().__init__()
        self.F = nn.Parameter(features.double())
        self.hidden = nn.Identity()
        self.readers = nn.Parameter(readers.double())

    def forward(self, z: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        return self.hidden(z.double() @ self.F) @ self.readers.mT


class NextState(nn.Module):
    """A language model of states: token t has the bits of t on; bit j of the next one is on with log-odds 2κ a · r_j.

    The bits of the next token are independent given a: logit(t) = κ Σ_j ± a · r_j, + where bit j of t is on.

    Args:
        features: the vector that each bit writes to `hidden`.
        readers: the vector that each bit's log-odds are read with.
    """

    def __init__(self, features: Float[Tensor, "feature d"], readers: Float[Tensor, "feature d"]):
        super().__init__()
        bits = all_states(len(features)).to(features.dtype)
        self.embed = nn.Embedding.from_pretrained(bits @ features)
        self.hidden = nn.Identity()
        self.unembed = nn.Parameter(GAIN * (2 * bits - 1) @ readers)

    def forward(self, tokens: Int[Tensor, "row position"]) -> Float[Tensor, "row position token"]:
        return self.hidden(self.embed(tokens)) @ self.unembed.mT


class ProbeSteeringToy(Toy):
    """The pair and the polygon, each read with its own probes."""

    title: ClassVar[str] = "probe and steering directions"
    paper: ClassVar[str] = "duality of probes and features: G = (F⁺)ᵀ"

    angle: float = Field(default=60.0, gt=0, lt=180)
    """Angle between the features of the pair, in degrees."""
    n_features: int = Field(default=5, ge=3, le=8)
    """Number of corners of the polygon."""
    density: float = Field(default=0.3, gt=0, lt=1)
    """Probability that a feature is on; its value is then 1."""
    n_samples: Width = 500_000
    """Number of rows that the sampled directions are fitted to."""
    n_windows: Annotated[Width, Field(ge=2)] = 500
    """Number of windows of 65 tokens that causal effects are measured on."""
    seeds: Seeds = (0, 1, 2)
    """Seeds of the samples."""

    def build(self) -> ReadOff:
        """The pair's network."""
        rows = features(self, "pair")
        return ReadOff(rows, rows)

    def train(self, reporter: Reporter) -> list[TrainedToy]:  # noqa: ARG002  nothing is trained
        """The pair and the polygon for each seed, made, not trained."""
        toys: list[TrainedToy] = []
        for shape in ARRANGEMENTS:
            rows = features(self, shape)
            probe = optimal_probe(rows)
            cause = "superposition" if len(rows) > rows.shape[1] else None
            truth = Truth(SITE, tuple(f"z{i}" for i in range(len(rows))), rows.float(), cause=cause)
            module, draw = ReadOff(rows, probe.directions), partial(self._draw, len(rows))
            loss = float((1 - probe.r2).mean())
            toys += [
                TrainedToy(module, truth, draw, seed, {"arrangement": shape}, loss, ceiling=1.0) for seed in self.seeds
            ]
        return toys

    def _draw(self, n_features: int, n: int, generator: torch.Generator) -> Sample:
        z = states(self, n_features, n, generator)
        return Sample(inputs=z, features=z)


def features(config: ProbeSteeringToy, shape: Arrangement) -> Float[Tensor, "feature 2"]:
    """Unit vectors: (1, 0) and (cos θ, sin θ), or the corners of a regular polygon."""
    if shape == "polygon":
        return torch.from_numpy(polygon(config.n_features))
    theta = math.radians(config.angle)
    return torch.tensor([[1.0, 0.0], [math.cos(theta), math.sin(theta)]], dtype=torch.float64)


def all_states(n_features: int) -> Float[Tensor, "state feature"]:
    """Every combination of features on and off; row t has the bits of t, the lowest first."""
    return (torch.arange(2**n_features)[:, None] >> torch.arange(n_features) & 1).double()


def states(
    config: ProbeSteeringToy, n_features: int, n: int, generator: torch.Generator
) -> Float[Tensor, "row feature"]:
    """Independent features, each on with the config's density."""
    return (torch.rand(n, n_features, generator=generator) < config.density).double()


def coupled(config: ProbeSteeringToy, n: int, generator: torch.Generator) -> Float[Tensor, "row 2"]:
    """Two features that are equal in half of the rows and independent in the others."""
    z = states(config, 2, n, generator)
    same = torch.rand(n, generator=generator) < 0.5
    return torch.stack([z[:, 0], torch.where(same, z[:, 0], z[:, 1])], dim=1)


def predicted_windows(
    config: ProbeSteeringToy, change: Float[Tensor, "feature reader"], generator: torch.Generator
) -> Windows:
    """Windows in which each token is drawn from the prediction at the one before; each window is a document.

    Args:
        config: how many windows to draw.
        change: what feature i adds to read-off j.
        generator: the generator of the draws.
    """
    n, context, n_features = config.n_windows, 65, len(change)
    bits = torch.arange(n_features)
    tokens = [torch.randint(2**n_features, (n,), generator=generator)]
    for _ in range(context - 1):
        odds = torch.sigmoid(2 * GAIN * all_states(n_features)[tokens[-1]] @ change)
        on = torch.rand(n, n_features, generator=generator) < odds
        tokens.append((on.long() << bits).sum(1))
    return Windows(
        tokens=torch.stack(tokens, dim=1).numpy().astype(np.int32),
        document=np.repeat(np.arange(n, dtype=np.int32)[:, None], context, axis=1),
        special=np.zeros((n, context), dtype=bool),
        names=tuple(f"window {i}" for i in range(n)),
        n_bytes=np.full(n, context, dtype=np.int64),
    )


def true_firings(windows: Windows, n_features: int) -> Firings:
    """The values of the features over the windows, as the firings of a dictionary that found them."""
    from scipy.sparse import csr_array

    token = windows.tokens.ravel()
    window, position = (index.ravel().astype(np.int32) for index in np.indices(windows.tokens.shape))
    values = all_states(n_features).numpy().astype(np.float32)[token]
    return Firings(csr_array(values), token, windows.document.ravel(), window, position)


def expected_kl(
    state: Float[Tensor, "row feature"], change: Float[Tensor, "feature reader"], removed: Float[Tensor, " reader"]
) -> Float[Tensor, " row"]:
    """KL between the next token's distributions before and after each read-off falls by `removed`.

    The bits are independent: Σ_j KL(Bernoulli(σ(2κ r_j)) ‖ Bernoulli(σ(2κ (r_j − removed_j)))).
    """
    clean = 2 * GAIN * state @ change
    edited = clean - 2 * GAIN * removed
    p, softplus = torch.sigmoid(clean), torch.nn.functional.softplus
    # −log σ(x) = softplus(−x), −log (1 − σ(x)) = softplus(x)
    on, off = softplus(-edited) - softplus(-clean), softplus(edited) - softplus(clean)
    return (p * on + (1 - p) * off).sum(-1)


def exact_ce(
    state: Float[Tensor, "row feature"],
    following: Float[Tensor, "row feature"],
    change: Float[Tensor, "feature reader"],
    removed: Float[Tensor, " reader"],
) -> Float[Tensor, " row"]:
    """Cross-entropy of the token that follows, after each read-off falls by `removed`, minus before."""
    signs = 1 - 2 * following
    clean = 2 * GAIN * state @ change
    softplus = torch.nn.functional.softplus
    return (softplus(signs * (clean - 2 * GAIN * removed)) - softplus(signs * clean)).sum(-1)
