"""Dictionaries that are given, not trained: the truth with noise, and the truth split, merged and absorbed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from polyseme.activations import Firings
from polyseme.core.seeds import derive_seed, make_generator
from polyseme.corpora.pack import Windows
from polyseme.evaluation.matches import Sides
from polyseme.trials.kinds import Kind
from polyseme.trials.planted import PlantedNetwork

NOISE = 0.33
"""Norm of the noise of a write direction of norm 1: its cosine with the true one is about 0.95."""


@dataclass(frozen=True)
class Dictionary:
    """What is judged.

    Attributes:
        train: its firings on the train text, on which it is counted what they stand for.
        sides: those on the first of the train text, which matches are chosen on, and on the held-out text.
        directions: what its latents write.
        kinds: what each latent stands for; None where that is found by comparing it with the truth.
    """

    train: Firings
    sides: Sides
    directions: Float[Tensor, "n_latents d"]
    kinds: tuple[Kind, ...] | None = None

    @classmethod
    def of(
        cls,
        train: Firings,
        heldout: Firings,
        n_matched: int,
        directions: Float[Tensor, "n_latents d"],
        kinds: tuple[Kind, ...] | None = None,
    ) -> "Dictionary":
        """A dictionary whose matches are chosen on the first `n_matched` train windows."""
        return cls(train, Sides(_first(train, n_matched), heldout), directions, kinds)


@dataclass(frozen=True)
class Text:
    """What a dictionary's latents are known on.

    Attributes:
        train: windows that dictionaries are trained on.
        n_matched: how many of them, from the first on, matches are chosen on.
        heldout: windows that all is measured on.
    """

    train: Windows
    n_matched: int
    heldout: Windows


def truth(module: PlantedNetwork, windows: Windows) -> Float[np.ndarray, "token variable"]:
    """The variables at every counted token."""
    return module.variables(_tokens(windows)).numpy()[~windows.special].astype(np.float64)


def dense_firings(windows: Windows, activations: Float[np.ndarray, "token latent"]) -> Firings:
    """Firings of latents that are known at every counted token."""
    window, position = (~windows.special).nonzero()
    ids = (windows.tokens[window, position], windows.document[window, position], window, position)
    return Firings(csr_array(activations.astype(np.float32)), *(x.astype(np.int32) for x in ids))


def _first(firings: Firings, n_windows: int) -> Firings:
    """The firings on the first windows."""
    of = firings.window < n_windows
    ids = (firings.token, firings.document, firings.window, firings.position)
    return Firings(csr_array(firings.matrix[of]), *(each[of] for each in ids))


def oracle(module: PlantedNetwork, text: Text, seed: int) -> Dictionary:
    """One latent for each variable: firings missed, spurious ones, noise of the strength and of the direction."""
    train, heldout = (dense_firings(side, _noisy(module, side, seed, name)) for side, name in _sides(text))
    return Dictionary.of(train, heldout, text.n_matched, _near(module.directions, seed), module.kinds)


def altered(module: PlantedNetwork, text: Text, seed: int) -> Dictionary:
    """The features alone, and altered: a quarter split by a rule, one by chance, one merged, one absorbed.

    The rule of a split is on which side of its median over the feature's firings a random projection of the site's
    vector lies. A merged latent is the sum of two features, each feature in two of them; an absorbed one lacks its
    firings at the token where it fires most often.
    """
    features = [i for i, kind in enumerate(module.kinds) if kind == "feature"]
    by_rule, by_chance, merged, absorbed = (features[i::4] for i in range(4))
    train = _noisy(module, text.train, seed, "train")
    rng = np.random.default_rng(derive_seed(seed, "rule"))
    projection = rng.standard_normal((module.directions.shape[1], len(by_rule)))
    seen = _vectors(module, text.train) @ projection
    middle = [np.median(seen[train[:, i] > 0, j]) for j, i in enumerate(by_rule)]
    most = [_most_often(text.train, train[:, i]) for i in absorbed]

    def latents(side: Windows, name: str) -> Float[np.ndarray, "token latent"]:
        z = train if name == "train" else _noisy(module, side, seed, name)
        above = _vectors(module, side) @ projection > middle
        chance = np.random.default_rng(derive_seed(seed, "chance", name)).random((len(z), len(by_chance))) < 0.5
        elsewhere = side.tokens[~side.special][:, None] != np.array(most)[None]
        halves = [z[:, by_rule] * above, z[:, by_rule] * ~above, z[:, by_chance] * chance, z[:, by_chance] * ~chance]
        return np.concatenate([*halves, z[:, merged] + z[:, _next(merged)], z[:, absorbed] * elsewhere], axis=1)

    train_firings, heldout = (dense_firings(side, latents(side, name)) for side, name in _sides(text))
    both = module.directions[merged] + module.directions[_next(merged)]
    halves = module.directions[[*by_rule, *by_rule, *by_chance, *by_chance]]
    written = torch.cat([halves, torch.nn.functional.normalize(both, dim=1), module.directions[absorbed]])
    halved: list[Kind] = [*_times("split_by_rule", 2 * len(by_rule)), *_times("split_by_chance", 2 * len(by_chance))]
    kinds = (*halved, *_times("merged", len(merged)), *_times("absorbed", len(absorbed)))
    return Dictionary.of(train_firings, heldout, text.n_matched, _near(written, seed), kinds)


def random_writes(trained: Dictionary, vectors: Float[Tensor, "sample d"], seed: int) -> Dictionary:
    """A dictionary with each write direction replaced by a draw from N(0, Cov) of the vectors, of the same norm."""
    centred = vectors.float() - vectors.float().mean(0)
    g = make_generator(seed, "random writes")
    n = len(trained.directions)
    drawn = torch.randn(n, len(centred), generator=g, dtype=torch.float32) @ centred
    norms = trained.directions.norm(dim=1, keepdim=True)
    directions = torch.nn.functional.normalize(drawn, dim=1) * norms
    return replace(trained, directions=directions, kinds=("artefact",) * n)


def _noisy(module: PlantedNetwork, windows: Windows, seed: int, side: str) -> Float[np.ndarray, "token variable"]:
    """The variables, each with error rates of its own: firings missed, spurious firings, noise of the strength."""
    z = truth(module, windows)
    rates = np.random.default_rng(derive_seed(seed, "rates"))
    missed, spurious, noise = (rates.uniform(0, most, z.shape[1]) for most in (0.1, 0.002, 0.3))
    rng = np.random.default_rng(derive_seed(seed, "noise", side))
    noisy = z * (rng.random(z.shape) >= missed) * np.exp(noise * rng.standard_normal(z.shape))
    return np.where((rng.random(z.shape) < spurious) & (z == 0), rng.uniform(0.2, 1, z.shape), noisy)


def _near(directions: Float[Tensor, "latent d"], seed: int) -> Float[Tensor, "latent d"]:
    g = make_generator(seed, "directions")
    noise = torch.randn(directions.shape, generator=g, dtype=torch.float32) / directions.shape[1] ** 0.5
    return torch.nn.functional.normalize(directions + NOISE * noise, dim=1)


def _vectors(module: PlantedNetwork, windows: Windows) -> Float[np.ndarray, "token d"]:
    background = module.background.numpy()[windows.tokens[~windows.special]]
    return truth(module, windows) @ module.directions.numpy() + background


def _most_often(windows: Windows, activations: Float[np.ndarray, " token"]) -> int:
    """The token where a latent fires most often."""
    return int(np.bincount(windows.tokens[~windows.special][activations > 0]).argmax())


def _sides(text: Text) -> list[tuple[Windows, str]]:
    return [(text.train, "train"), (text.heldout, "heldout")]


def _times(kind: Kind, n: int) -> list[Kind]:
    return [kind] * n


def _next(some: Sequence[int]) -> list[int]:
    return [*some[1:], *some[:1]]


def _tokens(windows: Windows) -> Tensor:
    return torch.from_numpy(windows.tokens.astype(np.int64))
