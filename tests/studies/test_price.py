"""What a study needs is said before it trains, and what cannot fit is refused."""

import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.core.memory import available_memory
from polyseme.core.progress import Silent
from polyseme.studies import price as module
from polyseme.studies.config import StudyConfig
from polyseme.studies.price import check_price, price


def _study(**changes: object) -> StudyConfig:
    dictionary = {"architecture": "topk", "n_latents": 1000, "k": 10}
    return StudyConfig.model_validate({"dictionary": dictionary, "sites": ["a"], "seeds": [0, 1], **changes})


def _check(study: StudyConfig, n_tokens: int = 10**6) -> None:
    known = {"n_documents": 100, "n_tokens": n_tokens, "n_controls": 2}
    check_price(study, {"a": 99}, **known, device=torch.device("cpu"), reporter=Silent())


def test_the_price_in_closed_form() -> None:
    cost = price(_study(), {"a": 99}, n_documents=100, n_tokens=10**6, n_controls=2)
    weights = 4 * (2 * 1000 * 100 + 99)
    assert cost.training == 4 * weights * 2 + 2048 * 8 * 99 * 4 * 2 + 8e7
    assert cost.evaluation == weights * 4 + 100_000 * 10 * 24 * 4 + 100 * 1000 * 8 * 2 * 4
    assert cost.tokens == 10**6


def test_more_latents_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="less than one token a latent"):
        _check(_study(training={"n_tokens": 999}))
    with pytest.raises(InputError, match="less than one token a latent"):
        _check(_study(), n_tokens=999)
    _check(_study(), n_tokens=1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"dictionary": {"architecture": "topk", "n_latents": 10**7}, "training": {"n_tokens": 10**8}},
        {"tokens": {"heldout": 10**12}},
        {"harvest": {"block_tokens": 2**28}},
        {"training": {"batch_size": 2**24}},
    ],
)
def test_what_cannot_fit_is_refused(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 8e9)
    with pytest.raises(InputError, match=r"of memory, and 8[.]00 GB is free") as caught:
        _check(_study(**changes))
    assert caught.value.fix


def test_the_machine_says_how_much_is_free() -> None:
    assert 0 < available_memory() < 1e15
