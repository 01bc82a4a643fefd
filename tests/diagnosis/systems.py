"""Small networks whose answer is known by construction."""

import math

import torch
from torch import Tensor, nn

from polyseme.networks import Network, load_network


class Tied(nn.Module):
    """ReLU(WᵀWx + b); `hidden` is Wx."""

    def __init__(self, W: Tensor):
        super().__init__()
        self.W, self.hidden = nn.Parameter(W), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.hidden(x @ self.W.T) @ self.W)


class Layer(nn.Module):
    """hidden = f(x), then a fixed linear read-out."""

    def __init__(self, f, read: Tensor):
        super().__init__()
        self.f, self.hidden, self.read = f, nn.Identity(), nn.Parameter(read)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(self.f(x)) @ self.read


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tied(W: Tensor) -> Network:
    return load_network(Tied(W), example_inputs=torch.zeros(2, W.shape[1]))


def layer(f, read: Tensor, n: int) -> Network:
    return load_network(Layer(f, read), example_inputs=torch.zeros(2, n))


def sparse(n: int, seed: int, p: float = 0.1, rows: int = 1024) -> Tensor:
    u = torch.rand(rows, n, generator=generator(seed))
    return torch.where(u < p, u / p, 0.0)


def orthogonal(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed)))[0]


def polygon(n: int) -> Tensor:
    angle = torch.arange(n) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()])


def pairs(seed: int, together: float, rows: int = 1024) -> Tensor:
    """Six features; each two share a mask with probability `together`, and are independent otherwise."""
    g = generator(seed)
    own, shared = (
        torch.rand(rows, 6, generator=g) < 0.2,
        (torch.rand(rows, 3, generator=g) < 0.2).repeat_interleave(2, 1),
    )
    same = (torch.rand(rows, 3, generator=g) < together).repeat_interleave(2, 1)
    return torch.rand(rows, 6, generator=g) * torch.where(same, shared, own)


def collided(seed: int, n: int = 12, m: int = 24, n_pairs: int = 3) -> Tensor:
    """W of n features on neurons of their own, but for some pairs that share one with opposite signs."""
    g = generator(seed)
    neurons, order = torch.randperm(m, generator=g), torch.randperm(n, generator=g)
    W = torch.zeros(m, n)
    for place, feature in enumerate(order):
        first = place < 2 * n_pairs and place % 2 == 1
        W[neurons[place - 1 if first else place], feature] = -1.0 if first else 1.0
    return W
