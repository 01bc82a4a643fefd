"""The engine on a GPU against the engine on the processor; skipped where there is none."""

import pytest
import torch

from tests.dictionaries.reference import SMALL, make_batch, scramble

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_a_step_on_cuda_is_the_step_on_cpu(architecture):
    config = SMALL[architecture](96, 5)
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
    dead = torch.arange(96) % 3 == 0
    steps = []
    for device in ("cpu", "cuda"):
        dictionary = config.build(24, None, seed=0, device=device)
        scramble(dictionary, 3)
        batch = make_batch(x.to(device))
        dictionary.initialise(batch)
        stats = dictionary.accumulate(batch, progress=0.0, dead=dead.to(device), coefficient=0.4)
        gradients = {name: p.grad.cpu() for name, p in dictionary.parameters().items()}
        steps.append((stats.loss.cpu(), stats.fired.cpu(), gradients, dictionary.encode(x.to(device)).dense().cpu()))
    (loss, fired, gradients, codes), (loss_gpu, fired_gpu, gradients_gpu, codes_gpu) = steps
    torch.testing.assert_close(loss_gpu, loss, rtol=1e-5, atol=0)
    assert torch.equal(fired_gpu, fired)
    torch.testing.assert_close(codes_gpu, codes, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(gradients_gpu[name], gradient, rtol=1e-4, atol=1e-5 * size, msg=name)
