"""The loss of tied networks with its gradient by hand, against autograd's, whole and in blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.zoo.tools import tied
from polyseme.zoo.tools.tied import tied_loss


@settings(max_examples=60, deadline=None)
@given(
    instances=st.integers(1, 4),
    rows=st.integers(1, 9),
    features=st.integers(1, 6),
    hidden=st.integers(1, 3),
    of_row=st.booleans(),
    of_feature=st.booleans(),
    privileged=st.booleans(),
    block=st.sampled_from([8, 200, 2**19]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradient_are_autograds(
    instances, rows, features, hidden, of_row, of_feature, privileged, block, seed
):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    W, b = normal(instances, hidden, features).requires_grad_(), normal(instances, features).requires_grad_()
    x, weights = normal(instances, rows, features), normal(instances, rows) if of_row else 0.3
    importance = normal(instances, features) if of_feature else None

    h = x @ W.mT
    out = torch.relu((torch.relu(h) if privileged else h) @ W + b[:, None])
    each = (x - out).square() * (1.0 if importance is None else importance[:, None])
    expected = (each * (weights[..., None] if isinstance(weights, torch.Tensor) else weights)).sum((1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tied, "BLOCK_BYTES", block)
        found = tied_loss(W, b, x, of_row=weights, of_feature=importance, privileged=privileged)
    torch.testing.assert_close(found, expected)
    scale = normal(instances)
    for one, other in zip(
        torch.autograd.grad((found * scale).sum(), (W, b)),
        torch.autograd.grad((expected * scale).sum(), (W, b)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("block", [100, 4000, 2**19])
def test_an_instance_does_not_depend_on_its_stack(block, monkeypatch):
    monkeypatch.setattr(tied, "BLOCK_BYTES", block)
    g = torch.Generator().manual_seed(0)
    W, b, x = torch.randn(7, 3, 9, generator=g), torch.randn(7, 9, generator=g), torch.rand(7, 40, 9, generator=g)
    W.requires_grad_(), b.requires_grad_()
    whole = torch.autograd.grad(tied_loss(W, b, x, of_row=1 / 40).sum(), (W, b))
    alone = torch.autograd.grad(tied_loss(W[4:5], b[4:5], x[4:5], of_row=1 / 40).sum(), (W, b))
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one[4], other[4], rtol=1e-6, atol=1e-7)


def test_evaluation_alone_needs_no_gradient():
    W, b, x = torch.randn(2, 1, 3), torch.randn(2, 3), torch.rand(2, 5, 3)
    assert tied_loss(W, b, x, of_row=1.0).shape == (2,)
