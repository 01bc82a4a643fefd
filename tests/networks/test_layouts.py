"""Vectors of tensors whose last axis is not the width: convolutions, and positions before the batch."""

import torch
from torch import Tensor, nn

from polyseme.networks import load_network, zero_ablate
from tests.networks.architectures import made


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + x)


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 3), Block(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


X = torch.randn(2, 3, 10, 7, generator=torch.Generator().manual_seed(0))


def test_a_convolutions_vectors_are_its_channels_at_each_place() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_network(Pictures().eval(), example_inputs=X[:1])
    for name in ("stem", "block", "block.conv", "block.act", "block.conv.in"):
        site, seen = network.site(name), []
        part = network.module.get_submodule(site.path)
        handle = part.register_forward_hook(lambda _m, a, o, s=seen, p=site.port: s.append(o if p == "out" else a[0]))
        read = network.read(X, [name])[site]
        handle.remove()
        assert torch.equal(read, seen[-1].flatten(2).mT)
        assert network.width(name) == 6
        same = network.run(X, edits={name: lambda v: v}).logits
        assert torch.equal(same, network.logits(X))

    def one_channel(v: Tensor) -> Tensor:
        v[..., 2] = 0
        return v

    edited = network.run(X, edits={"stem": one_channel}).logits
    stem = network.module.stem(X)
    stem[:, 2] = 0
    with torch.no_grad():
        torch.testing.assert_close(edited, network.module.head(network.module.block(stem).mean((2, 3))))


def test_positions_before_the_batch_are_put_behind_it() -> None:
    network = load_network(made("xlnet"))
    tokens = torch.arange(3, 12).reshape(3, 3)  # as many rows as positions
    site = network.site("transformer.layer.0")
    read = network.read(tokens, [site])[site]
    for row in range(3):
        torch.testing.assert_close(read[row : row + 1], network.read(tokens[row : row + 1], [site])[site])
    assert not torch.equal(network.run(tokens, edits={site: zero_ablate()}).logits, network.logits(tokens))
