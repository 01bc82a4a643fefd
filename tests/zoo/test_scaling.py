"""Positive scaling: the exact null, a hand-made counterexample, and failing paths."""

import pytest
import torch
from pydantic import ValidationError

from polyseme.core.progress import Silent
from polyseme.core.site import Site
from polyseme.zoo.scaling.toy import SITES, Classifier, ScalingToy, clusters, flips, scaled, train
from polyseme.zoo.tools.stack import Draws, OptimiserConfig

SHORT = OptimiserConfig(steps=3, lr=5e-3)


def random_network(*, biases: float) -> Classifier:
    generator, module = torch.Generator().manual_seed(0), Classifier(4, 16, 5).double()
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            tensor.normal_(generator=generator).mul_(biases if name.endswith("bias") else 1.0)
    return module


@pytest.mark.parametrize("site", [None, *SITES])
@pytest.mark.parametrize("factor", [0.01, 0.3, 7.0])
def test_without_biases_no_answer_changes_and_with_them_some_do(site: Site | None, factor: float):
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert flips(random_network(biases=0.0), x, factor, site) == 0
    assert flips(random_network(biases=2.0), x, factor, site) > 0
    assert flips(random_network(biases=2.0), x, 1.0, site) == 0


def test_biases_of_a_bias_free_network_stay_zero():
    config = ScalingToy(seeds=(0,), batch=16, optimiser=SHORT)
    stack = train(config, Silent())
    for i in range(3):
        bias = stack.parameters[f"layers.{i}.bias"]
        assert not bias[0].any()
        assert bias[1].any()
    # Nothing but the biases sets the two apart.
    torch.testing.assert_close(stack.centres[0], stack.centres[1])


def test_rows_lie_around_their_centre():
    config = ScalingToy(noise=0.1)
    centres = torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(0))
    x, label = clusters(config, centres, Draws([0]), 5_000)
    assert float((x - centres[0][label]).std()) == pytest.approx(0.1, rel=0.05)
    assert label[0].bincount(minlength=10).min() > 350


def test_an_instance_does_not_depend_on_its_stack():
    config = ScalingToy(seeds=(0, 1), batch=16, optimiser=SHORT)
    alone = train(config.model_copy(update={"seeds": (1,), "biases": (True,)}), Silent())
    torch.testing.assert_close(
        train(config, Silent()).parameters["layers.1.weight"][3], alone.parameters["layers.1.weight"][0]
    )


def test_untrained_networks_are_not_measured():
    checks = scaled(ScalingToy(seeds=(0,), batch=16, optimiser=SHORT), Silent())
    assert {c.outcome for c in checks} == {"not_measured"}


@pytest.mark.parametrize("bad", [{"n_classes": 1}, {"seeds": ()}, {"noise": 0.0}])
def test_bad_config_is_an_error(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        ScalingToy.model_validate(bad)
