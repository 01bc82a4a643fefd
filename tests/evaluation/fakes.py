"""A causal network of two sites whose every number can be recomputed by hand, and dictionaries with known answers."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyseme.core.batch import Latents
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.corpora.pack import Windows, pack
from polyseme.networks import Edit, EditFrom

FIRST, SECOND = Site(path="first"), Site(path="second")
AT_FIRST, AT_SECOND = Binding.at(FIRST), Binding.at(SECOND)
VOCABULARY, WIDTH = 20, 6


def _keep(x: Tensor) -> Tensor:
    return x


class FakeNetwork:
    """first = E[token]; second = first + ½ tanh(previous first); logits = second U."""

    fingerprint = "fake"
    context = 16
    device = torch.device("cpu")

    def __init__(self, *, predicts_tokens: bool = True, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(VOCABULARY, WIDTH, generator=generator)
        self.unembedding = torch.randn(WIDTH, VOCABULARY, generator=generator)
        self.causal = self.predicts_tokens = predicts_tokens
        self.passes = 0

    def width(self, site: Site) -> int:
        return WIDTH

    def _forward(self, tokens: Tensor, edits: Mapping[Site, Edit]) -> dict[Site, Tensor]:
        self.passes += 1
        read: dict[Site, Tensor] = {}

        def at(site: Site, x: Tensor) -> Tensor:
            read[site] = x
            edit = edits.get(site, _keep)
            return edit.change(x.clone(), read) if isinstance(edit, EditFrom) else edit(x)

        first = at(FIRST, self.embedding[tokens])
        before = torch.cat([torch.zeros_like(first[:, :1]), first[:, :-1]], 1)
        return {FIRST: first, SECOND: at(SECOND, first + 0.5 * before.tanh())}

    def check_order(self, reads: Sequence[Site], writes: Sequence[Site]) -> None:
        if not self.in_order(reads, writes):
            raise InputError("first depends on second, which comes later")

    def in_order(self, reads: Sequence[Site], writes: Sequence[Site]) -> bool:
        return SECOND not in reads or FIRST not in writes

    def read(self, inputs: Any, sites: Sequence[Site]) -> dict[Site, Tensor]:
        tokens = inputs["input_ids"] if isinstance(inputs, dict) else inputs
        vectors = self._forward(tokens, {})
        return {site: vectors[site] for site in sites}

    def prefix(self, inputs: Any, sites: Sequence[Site]) -> None:
        """Every pass is a whole one."""

    def run(
        self,
        inputs: Any,
        *,
        edits: Mapping[Site, Edit] | None = None,
        logits_at: Tensor | None = None,
        prefix: None = None,
    ) -> SimpleNamespace:
        tokens = inputs["input_ids"] if isinstance(inputs, dict) else inputs
        last = self._forward(tokens, edits or {})[SECOND]
        return SimpleNamespace(logits=(last if logits_at is None else last[logits_at]) @ self.unembedding)


class Constant:
    """Decodes to one vector, whatever it reads; no latent ever fires."""

    n_latents = 3

    def __init__(self, vector: Tensor):
        self.vector = vector
        self.d_in = self.d_out = len(vector)

    def encode(self, x: Tensor) -> Latents:
        return Latents.from_dense(x.new_zeros(len(x), self.n_latents))

    def decode(self, z: Latents) -> Tensor:
        return self.vector.expand(z.n_rows, -1)


class Identity:
    """Reconstructs bit for bit: positive and negative parts of each coordinate are latents."""

    def __init__(self, d: int = WIDTH):
        self.d_in = self.d_out = d
        self.n_latents = 2 * d

    def encode(self, x: Tensor) -> Latents:
        return Latents.from_dense(torch.cat([x.relu(), (-x).relu()], 1))

    def decode(self, z: Latents) -> Tensor:
        positive, negative = z.dense().chunk(2, dim=1)
        return positive - negative


class Linear:
    """ReLU(x Wᵀ + b) V: a plain, imperfect autoencoder."""

    def __init__(self, n_latents: int = 12, d: int = WIDTH, seed: int = 0, bias: float = -0.5):
        generator = torch.Generator().manual_seed(seed)
        self.d_in = self.d_out = d
        self.n_latents = n_latents
        self.W_enc = torch.randn(n_latents, d, generator=generator)
        self.W_dec = self.W_enc / self.W_enc.square().sum(1, keepdim=True) / 2
        self.b_enc = torch.full((n_latents,), bias)

    def encode(self, x: Tensor) -> Latents:
        # Not as a product, which on some processors rounds a row by how many others there are.
        return Latents.from_dense(((x.unsqueeze(-2) * self.W_enc).sum(-1) + self.b_enc).relu())

    def decode(self, z: Latents) -> Tensor:
        return (z.dense().unsqueeze(-1) * self.W_dec).sum(-2)


def make_windows(n_documents: int = 8, context: int = 10, seed: int = 0, prefix: int | None = 0) -> Windows:
    """Random documents of 3 to 25 tokens out of ids 1 to 19; BOS is 0."""
    rng = np.random.default_rng(seed)
    encoded = {f"doc{i}": rng.integers(1, VOCABULARY, rng.integers(3, 26)).tolist() for i in range(n_documents)}
    return pack(
        [(name, name) for name in encoded], lambda texts: [encoded[t] for t in texts], context=context, prefix=prefix
    )


def fluent_windows(n_documents: int = 8, context: int = 10, seed: int = 0, prefix: int | None = 0) -> Windows:
    """Documents as `make_windows` has them, of words the fake network expects: there is a loss to recover."""
    network, rng = FakeNetwork(), np.random.default_rng(seed)
    encoded: dict[str, list[int]] = {}
    for i in range(n_documents):
        words = [0]
        for _ in range(int(rng.integers(3, 26))):
            logits = network.run(torch.tensor([words])).logits[0, -1].double()
            logits[0] = -torch.inf
            words.append(int(rng.choice(VOCABULARY, p=(2 * logits).softmax(-1).numpy())))
        encoded[f"doc{i}"] = words[1:]
    return pack(
        [(name, name) for name in encoded], lambda texts: [encoded[t] for t in texts], context=context, prefix=prefix
    )


def counted(network: FakeNetwork, windows: Windows, site: Site = SECOND) -> Tensor:
    """Every counted vector of a site, in window order."""
    return network.read(torch.from_numpy(windows.tokens).long(), [site])[site][torch.from_numpy(~windows.special)]
