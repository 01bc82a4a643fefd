"""A network whose features are known, on which verdicts are calibrated.

Sparse variables, each driven by the token and mostly by the one before it too, are written along known directions at
one site; some of them are read out and move the prediction. Text is sampled from the network's own predictions, so
that what it predicts is right and every variable that is read out matters to the loss.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyseme.core.seeds import make_generator
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows

Kind = Literal["feature", "hidden", "bystander", "input"]
KINDS: tuple[Kind, ...] = ("feature", "hidden", "bystander", "input")
NON_FEATURES: tuple[Kind, ...] = ("hidden", "bystander", "input")
SITE = Site(path="site")
BOS = 0


@dataclass(frozen=True)
class Counts:
    """How many variables of each kind are planted.

    Attributes:
        feature: planted features: this network's own, and read out.
        hidden: this network's own, written where nothing reads: they have no effect at all.
        bystander: this network's own, not read out, written along a random direction, so that removing one disturbs
            others about as much as removing any direction does.
        input: read out, but a mere statistic of the input (one set of tokens), and in the control network as well.
    """

    feature: int = 40
    hidden: int = 16
    bystander: int = 24
    input: int = 24

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of each variable, in order."""
        return tuple(kind for kind in KINDS for _ in range(getattr(self, kind)))


class PlantedNetwork(nn.Module):
    """logits_t = b + Σ_k relu(f_k · x_t − θ) w_k over the k read out, x_t = Σ_k z_k(t) f_k + background(token_t).

    z_k(t) = relu(A[token_t, k] + B[token_{t−1}, k] − 1): variable k is on when the token is in one random set and,
    but for `input` variables, the one before it in another; how strong depends on the token.

    Args:
        counts: number of variables of each kind.
        d: width of the site.
        vocabulary: number of tokens; id 0 opens every window.
        seed: seed of all random draws, except for what `shared` gives.
        shared: a network whose `input` variables this one has too, as a control keeps the input.
    """

    def __init__(self, counts: Counts, *, d: int, vocabulary: int, seed: int, shared: "PlantedNetwork | None" = None):
        super().__init__()
        g = make_generator(seed, "planted network")
        self.kinds = counts.kinds
        n, kind = len(self.kinds), np.array(self.kinds)
        of = {k: torch.from_numpy(kind == k) for k in KINDS}
        # Sets of about 20% × 20% of the tokens, or 5% for a variable of the token alone: equally sparse.
        here = torch.where(of["input"], 0.05, 0.2)
        in_set = torch.rand(vocabulary, n, generator=g, dtype=torch.float32) < here
        strength = 0.5 + torch.rand(vocabulary, n, generator=g, dtype=torch.float32)
        before = (torch.rand(vocabulary, n, generator=g, dtype=torch.float32) < 0.2) | of["input"]
        directions = nn.functional.normalize(torch.randn(n, d, generator=g, dtype=torch.float32), dim=1)
        unseen = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float32)).Q[:, : d // 4]
        # Everything read lies outside a quarter of the space; hidden variables are written inside it.
        outside = directions - directions @ unseen @ unseen.T
        inside = directions @ unseen @ unseen.T
        directions = torch.where((of["feature"] | of["input"])[:, None], outside, directions)
        directions = torch.where(of["hidden"][:, None], inside, directions)
        self.now = nn.Parameter(in_set * strength)
        self.previous = nn.Parameter(before.float())
        self.directions = nn.Parameter(nn.functional.normalize(directions, dim=1))
        self.background = nn.Parameter(0.3 * torch.randn(vocabulary, d, generator=g, dtype=torch.float32) / d**0.5)
        self.site = nn.Identity()
        self.read = (of["feature"] | of["input"]).nonzero()[:, 0]
        likes = torch.rand(len(self.read), vocabulary, generator=g, dtype=torch.float32) < 0.1
        self.effect = nn.Parameter(likes * (1 + 4 * torch.rand(len(self.read), 1, generator=g, dtype=torch.float32)))
        self.bias = nn.Parameter(0.5 * torch.randn(vocabulary, generator=g, dtype=torch.float32))
        if shared is not None:
            with torch.no_grad():
                self.now[:, of["input"]] = shared.now[:, of["input"]]
        with torch.no_grad():
            self.bias[BOS] = -30  # never sampled
        self.requires_grad_(False)

    def variables(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position variable"]:
        """The truth: z of every variable at every token."""
        previous = torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)
        return torch.relu(self.now[tokens] + self.previous[previous] - 1) * (tokens != BOS)[..., None]

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        x = self.site(self.variables(tokens) @ self.directions + self.background[tokens])
        return torch.relu(x @ self.directions[self.read].T - 0.2) @ self.effect + self.bias

    def sample(self, *, n_documents: int, windows_each: int, context: int, topic: float, seed: int) -> Windows:
        """Text from the network's own predictions, where each document prefers some tokens unknown to it.

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
            logits = self(tokens[:, max(0, t - 2) : t])[:, -1] + preference
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
