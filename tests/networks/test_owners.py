"""A module that was handed over is its owner's: passes leave it as it was, and no two of them are in it at once."""

import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polyseme.networks import Network, load_network
from polyseme.networks.edits import add, zero_ablate
from polyseme.networks.passes import exclusive
from tests import tiny

TOKENS = torch.arange(12).reshape(2, 6)
SITE = "blocks.1.resid_post"


class Training(nn.Module):
    """What eval mode changes: dropout, and a norm that keeps statistics; one norm is frozen by its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)
        self.modes: list[bool] = []
        self.train()
        self.frozen.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.modes += [part.training for part in self.modules()]
        return self.last(self.frozen(self.dropout(self.norm(self.first(x)))))


def state(module: nn.Module) -> list[Any]:
    tensors = [(name, value.clone(), value.requires_grad) for name, value in module.named_parameters()]
    tensors += [(name, value.clone(), value.requires_grad) for name, value in module.named_buffers()]
    modes = [(name, part.training) for name, part in module.named_modules()]
    return [modes, *tensors]


def same(before: list[Any], after: list[Any]) -> bool:
    return before[0] == after[0] and all(
        (a[0], a[2]) == (b[0], b[2]) and torch.equal(a[1], b[1]) for a, b in zip(before[1:], after[1:], strict=True)
    )


def failing(_: Tensor) -> Tensor:
    raise RuntimeError("mine")


def fails(network: Network, x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        network.run(x, edits={"norm": failing})


PASSES = {
    "run": lambda network, x: network.run(x, edits={"norm": zero_ablate()}),
    "read": lambda network, x: network.read(x, ["first", "dropout"]),
    "survey": lambda network, x: network.survey(["norm.out"]),
    "module_widths": lambda network, x: network.module_widths(),
    "prefix": lambda network, x: network.prefix(x, ["last"]),
    "changed": lambda network, x: network.changed(lambda module, names: None, {"by": "nothing"}).logits(x),
    "an edit that fails": fails,
}


@pytest.mark.parametrize("kind", PASSES)
def test_a_pass_is_in_eval_mode_and_leaves_the_module_as_it_was(kind: str) -> None:
    module, x = Training(), torch.randn(5, 4)
    before = state(module)
    network = load_network(module, example_inputs=x)
    PASSES[kind](network, x)
    assert not any(module.modes)
    assert kind in ("prefix", "changed") or module.modes
    assert same(before, state(module))


def test_passes_between_the_steps_of_its_owners_training_change_nothing_of_it() -> None:
    def trained(looked_at: bool) -> list[Any]:
        torch.manual_seed(0)
        module = Training()
        network = load_network(module, example_inputs=torch.ones(2, 4))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(4):
            x = torch.randn(6, 4)
            if looked_at:
                assert torch.equal(network.logits(x), network.logits(x))  # no dropout
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        return state(module)

    assert same(trained(False), trained(True))


def test_a_fused_copy_leaves_the_gradients_of_the_weights_it_shares() -> None:
    module = tiny.tiny_gpt2().requires_grad_(True)
    load_network(module, linear="fused").logits(TOKENS)
    assert all(parameter.requires_grad for parameter in module.parameters())


class Alone(nn.Module):
    """Counts how many threads are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.inside = self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            time.sleep(0.002)
            return self.body(x)
        finally:
            self.inside -= 1


def in_threads(*works: Any) -> list[Any]:
    results: list[Any] = [None] * len(works)

    def do(i: int) -> None:
        results[i] = works[i]()

    threads = [threading.Thread(target=do, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_thread_at_a_time_passes_through_a_module_whichever_network_it_is_of() -> None:
    module, x = Alone(), torch.ones(2, 4)
    networks = [load_network(module, example_inputs=x) for _ in range(2)]
    works = [lambda n=n: [n.run(x, reads=["body"]) and n.read(x, ["body"]) for _ in range(10)] for n in networks]
    in_threads(*works)
    assert module.most == 1
    assert module.inside == 0


def test_reads_edits_and_prefixes_of_two_threads_do_not_meet() -> None:
    network = load_network(tiny.tiny_gpt2().train())
    site = network.site(SITE)
    clean = network.run(TOKENS, reads=[SITE])
    vector = torch.ones(16)
    edited = network.run(TOKENS, edits={"blocks.0.resid_post": add(vector)}, reads=[SITE])
    prefix = network.prefix(TOKENS, [SITE])
    started = network.run(TOKENS, edits={SITE: add(vector)}, prefix=prefix)
    alike: list[bool] = []

    def reading() -> None:
        alike.extend(torch.equal(network.read(TOKENS, [SITE])[site], clean.reads[site]) for _ in range(40))

    def editing() -> None:
        for _ in range(40):
            got = network.run(TOKENS, edits={"blocks.0.resid_post": add(vector)}, reads=[SITE])
            alike.append(torch.equal(got.logits, edited.logits) and torch.equal(got.reads[site], edited.reads[site]))

    def starting() -> None:
        for _ in range(40):
            got = network.run(TOKENS, edits={SITE: add(vector)}, prefix=prefix)
            alike.append(torch.equal(got.logits, started.logits))

    in_threads(reading, editing, starting)
    assert len(alike) == 120
    assert all(alike)
    assert network.module.training


def test_modes_are_put_back_by_the_last_to_leave() -> None:
    module = Training()
    before = state(module)
    with exclusive(module):
        with exclusive(module):
            assert not any(part.training for part in module.modules())
        assert not any(part.training for part in module.modules())
    assert same(before, state(module))
