"""A network whose variables are known, on which verdicts are calibrated.

Sparse variables are written along known directions at one site, and some of them are read out and move the
prediction. Text is sampled from what the network predicts but for the interference of what it does not read, so that
every variable that is read out matters to the loss, and text says nothing of where the others are written.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from polyseme.core.config import Config
from polyseme.core.seeds import make_generator
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows

Variable = Literal["feature", "token", "bigram", "rare", "unread", "bystander", "built_in", "built_in_unread"]
SITE = Site(path="site")
BOS = 0
NEAREST, FARTHEST = 2, 8
"""How far back, in tokens, distant context lies."""
_GATE, _THRESHOLD = 0.25, 0.2
_DENSE = 1.0
"""Standard deviation, in nats, of what U makes of a vector of norm 1."""
_NEVER = -30.0


@dataclass(frozen=True)
class Recipe:
    """How the variables of one kind are computed, written and read.

    Attributes:
        now: share of the text's tokens that are in a variable's set.
        previous: the same of the tokens that must come before; 0 where any may.
        earlier: the same of the tokens one of which must be in the distant context; 0 where none need be.
        rare: whether the set has only tokens of the rarer half.
        read: whether it is read out.
        hidden: whether it is written where nothing reads.
        built_in: whether it is computed and written by what is no parameter, so that a network of random weights has
            it too.
    """

    now: float
    previous: float = 0.0
    earlier: float = 0.0
    rare: bool = False
    read: bool = False
    hidden: bool = False
    built_in: bool = False


RECIPES: dict[Variable, Recipe] = {
    "feature": Recipe(0.12, earlier=0.06, read=True),
    "token": Recipe(0.05, read=True),
    "bigram": Recipe(0.15, previous=0.25, read=True),
    "rare": Recipe(0.08, previous=0.4, rare=True, read=True),
    "unread": Recipe(0.12, earlier=0.06, hidden=True),
    "bystander": Recipe(0.12, earlier=0.06),
    "built_in": Recipe(0.12, earlier=0.06, read=True, built_in=True),
    "built_in_unread": Recipe(0.12, earlier=0.06, built_in=True),
}
"""Bystanders are written along random directions, which overlap those that are read."""


class Planting(Config):
    """How many variables of each kind a network has, and its size."""

    feature: int = Field(default=24, ge=1, le=2**12)
    """Variables of the current token and of distant context, which are read out: the network's features."""
    token: int = Field(default=8, ge=0, le=2**12)
    """Functions of the current token, which are read out."""
    bigram: int = Field(default=8, ge=0, le=2**12)
    """Functions of the current token and the one before, which are read out."""
    rare: int = Field(default=6, ge=0, le=2**12)
    """The same of rare tokens, of whose pairs a table has seen few."""
    unread: int = Field(default=8, ge=0, le=2**12)
    """Computed like features, and written where nothing reads: they have no effect at all."""
    bystander: int = Field(default=10, ge=0, le=2**12)
    """Computed like features, not read out, and written along random directions that overlap those that are read."""
    built_in: int = Field(default=8, ge=0, le=2**12)
    """Computed like features and read out, by structure that is no parameter: networks of random weights have them."""
    built_in_unread: int = Field(default=4, ge=0, le=2**12)
    """The same, not read out."""
    d: int = Field(default=64, ge=8, le=2**14)
    """Width of the site."""
    vocabulary: int = Field(default=384, ge=16, le=2**16)
    """Number of tokens; the first opens every window."""
    zipf: float = Field(default=0.6, ge=0, le=3)
    """Tokens are about as frequent as rank^−zipf."""

    @property
    def kinds(self) -> tuple[Variable, ...]:
        """The kind of each variable, in order; those that are built in come last."""
        return tuple(kind for kind in RECIPES for _ in range(getattr(self, kind)))


class PlantedNetwork(nn.Module):
    """logits_t = b + U x_t + Σ_k relu(f_k · x_t − 0.2) w_k over the k read out, x_t = Σ_k z_k(t) f_k + g(token_t).

    z_k(t) = relu(A_k[token_t] − ¼) · B_k[token_{t−1}] · max over 2 ≤ j ≤ 8 of C_k[token_{t−j}]: A is 0 outside of a set
    of tokens, and B and C are 0 or 1; a variable without a condition on the token before, or on distant context, lacks
    that factor. U, which stands for all else that a network reads, and the f_k that are read leave a quarter of the
    space alone, where hidden variables are written. Variables that are built in have their tables and write directions
    in buffers, which nulls of the weights leave alone.

    Args:
        planting: its variables and its size.
        seed: seed of all random draws.
    """

    now_built_in: Tensor
    earlier_built_in: Tensor
    written_built_in: Tensor

    def __init__(self, planting: Planting, *, seed: int):
        super().__init__()
        g = make_generator(seed, "planted network")
        self.kinds = planting.kinds
        recipes = [RECIPES[kind] for kind in self.kinds]
        vocabulary, d, n = planting.vocabulary, planting.d, len(recipes)
        rank = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(vocabulary - 1, generator=g)])
        share = rank.double().clamp(min=1).pow(-planting.zipf) * (rank > 0)
        share = share / share.sum()
        rarer = rank > vocabulary // 2

        def sets(shares: list[float], rare: list[bool]) -> Bool[Tensor, "vocab variable"]:
            pools = [rarer if only else rank > 0 for only in rare]
            drawn = [_set(share, pool, size, g) for pool, size in zip(pools, shares, strict=True)]
            return torch.stack(drawn, dim=1) if drawn else torch.zeros(vocabulary, 0, dtype=torch.bool)

        own = sum(not recipe.built_in for recipe in recipes)
        now = sets([recipe.now for recipe in recipes], [recipe.rare for recipe in recipes])
        now = now * (0.75 + 0.75 * torch.rand(vocabulary, n, generator=g, dtype=torch.float32))
        self.near = [i for i, recipe in enumerate(recipes) if recipe.previous]
        self.far = [i for i, recipe in enumerate(recipes) if recipe.earlier]
        previous = sets([recipes[i].previous for i in self.near], [False] * len(self.near)).float()
        earlier = sets([recipes[i].earlier for i in self.far], [False] * len(self.far)).float()
        far_own = sum(i < own for i in self.far)

        directions = nn.functional.normalize(torch.randn(n, d, generator=g, dtype=torch.float32), dim=1)
        unseen = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float32)).Q[:, : d // 4]
        # Everything read lies outside a quarter of the space; what nothing reads is written inside it.
        inside = directions @ unseen @ unseen.T
        read = torch.tensor([recipe.read for recipe in recipes], dtype=torch.bool)
        hidden = torch.tensor([recipe.hidden for recipe in recipes], dtype=torch.bool)
        directions = torch.where(read[:, None], directions - inside, directions)
        directions = nn.functional.normalize(torch.where(hidden[:, None], inside, directions), dim=1)

        self.now, self.earlier = nn.Parameter(now[:, :own]), nn.Parameter(earlier[:, :far_own])
        self.previous = nn.Parameter(previous)
        self.written = nn.Parameter(directions[:own])
        self.register_buffer("now_built_in", now[:, own:])
        self.register_buffer("earlier_built_in", earlier[:, far_own:])
        self.register_buffer("written_built_in", directions[own:])
        self.background = nn.Parameter(0.3 * torch.randn(vocabulary, d, generator=g, dtype=torch.float32) / d**0.5)
        self.site = nn.Identity()
        self.readers = nn.Parameter(directions[read])
        likes = torch.rand(int(read.sum()), vocabulary, generator=g, dtype=torch.float32) < 0.1
        strength = 1 + 4 * torch.rand(len(likes), 1, generator=g, dtype=torch.float32)
        self.effect = nn.Parameter(likes * strength)
        dense = torch.randn(d, vocabulary, generator=g, dtype=torch.float32)
        self.dense = nn.Parameter(_DENSE * (dense - unseen @ (unseen.T @ dense)))
        self.read = read
        bias = share.clamp(min=1e-12).log().float()
        bias[BOS] = _NEVER
        self.bias = nn.Parameter(bias)
        self.requires_grad_(False)

    @property
    def directions(self) -> Float[Tensor, "variable d"]:
        """The direction that each variable is written along."""
        return torch.cat([self.written, self.written_built_in])

    def variables(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position variable"]:
        """The truth: z of every variable at every token."""
        z = torch.relu(torch.cat([self.now, self.now_built_in], dim=1)[tokens] - _GATE)
        z[..., self.near] *= torch.relu(self.previous[_back(tokens, 1)])
        seen = torch.cat([self.earlier, self.earlier_built_in], dim=1)[_back(tokens, NEAREST)]
        far = nn.functional.pad(seen.transpose(1, 2), (FARTHEST - NEAREST, 0))
        far = nn.functional.max_pool1d(far, FARTHEST - NEAREST + 1, stride=1).transpose(1, 2)
        z[..., self.far] *= torch.relu(far)
        return z * (tokens != BOS)[..., None]

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        x = self.site(self.variables(tokens) @ self.directions + self.background[tokens])
        return x @ self.dense + torch.relu(x @ self.readers.T - _THRESHOLD) @ self.effect + self.bias

    def undisturbed(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """The logits of which text is sampled: of the variables that are read out, each reader seeing its own alone."""
        return self._undisturbed(self.variables(tokens), tokens)

    def _undisturbed(
        self, variables: Float[Tensor, "batch position variable"], tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position vocab"]:
        z = variables[..., self.read]
        x = z @ self.directions[self.read] + self.background[tokens]
        return x @ self.dense + torch.relu(z - _THRESHOLD) @ self.effect + self.bias

    def sample(self, *, n_documents: int, windows_each: int, context: int, topic: float, seed: int) -> Windows:
        """Text from what the network predicts when undisturbed, where each document prefers some tokens unknown to it.

        Args:
            n_documents: number of documents.
            windows_each: number of windows in each.
            context: number of tokens in a window, the opening one included.
            topic: standard deviation of a document's preferences, in nats.
            seed: seed of the text.
        """
        g = make_generator(seed, "planted text")
        document = torch.arange(n_documents).repeat_interleave(windows_each)
        preference = topic * torch.randn(n_documents, len(self.bias), generator=g, dtype=torch.float32)[document]
        tokens = torch.full((len(document), context), BOS, dtype=torch.int64)
        for t in range(1, context):
            seen = tokens[:, max(0, t - FARTHEST - 1) : t]
            logits = self._undisturbed(self.variables(seen)[:, -1:], seen[:, -1:])[:, 0] + preference
            tokens[:, t] = torch.multinomial(logits.softmax(-1), 1, generator=g)[:, 0]
        special = np.zeros(tokens.shape, dtype=bool)
        special[:, 0] = True
        return Windows(
            tokens=tokens.numpy().astype(np.int32),
            document=document.numpy()[:, None].repeat(context, axis=1).astype(np.int32),
            special=special,
            names=tuple(f"planted {i}" for i in range(n_documents)),
            n_bytes=np.full(n_documents, windows_each * context, dtype=np.int64),
        )


def _set(
    share: Float[Tensor, " vocab"], pool: Bool[Tensor, " vocab"], size: float, g: torch.Generator
) -> Bool[Tensor, " vocab"]:
    """Random tokens of a pool that are together about this share of the text, at least two of them.

    A token of more than half of that share is in none: it would be all of the set.
    """
    drawn = [token for token in torch.randperm(len(share), generator=g).tolist() if pool[token]]
    drawn = [token for token in drawn if share[token] <= size / 2]
    members = torch.zeros(len(share), dtype=torch.bool)
    for n, token in enumerate(drawn):
        if n >= 2 and share[members].sum() + share[token] / 2 > size:
            break
        members[token] = True
    return members


def _back(tokens: Int[Tensor, "batch position"], n: int) -> Int[Tensor, "batch position"]:
    """The token n places before each; the opening one before the window's start."""
    opening = torch.full_like(tokens[:, :n], BOS)
    return torch.cat([opening, tokens[:, : max(0, tokens.shape[1] - n)]], dim=1)[:, : tokens.shape[1]]
