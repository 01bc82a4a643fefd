"""Text, clean and patched: the same dice, the same prompts, parting only where predictions part."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from polyseme.core.errors import InputError
from polyseme.corpora import load_windows
from polyseme.evaluation.continuation import ContinuationConfig, continue_text
from tests.corpora.test_loading import Memory
from tests.corpora.tokenizers import MARKERS, byte_bpe
from tests.evaluation.fakes import (
    AT_FIRST,
    AT_SECOND,
    WIDTH,
    Constant,
    FakeNetwork,
    Identity,
    Linear,
    make_windows,
)


class Letters:
    """Token 0 is special, the others are letters."""

    all_special_ids = (0,)

    def decode(self, ids: list[int]) -> str:
        return "".join("#" if i == 0 else chr(96 + i) for i in ids)


WINDOWS = make_windows(20)
SHORT = ContinuationConfig(n_prompts=3, prompt_tokens=5, new_tokens=8)


def write(dictionaries, config: ContinuationConfig = SHORT, network: FakeNetwork | None = None):
    return continue_text(network or FakeNetwork(), WINDOWS, dictionaries, tokenizer=Letters(), config=config)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_identity_writes_the_same_text(temperature: float):
    config = SHORT.model_copy(update={"temperature": temperature})
    for one in write({AT_FIRST: Identity(), AT_SECOND: Identity()}, config):
        assert one.patched == one.clean
        assert one.diverges_at is None
        assert one.agreement == 1


def test_greedy_text_is_the_argmax_token_by_token():
    network = FakeNetwork()
    for one in write({AT_FIRST: Linear()}, network=network):
        index = WINDOWS.names.index(one.document)
        rows = [r for r in range(len(WINDOWS)) if WINDOWS.document[r, 4] == index]
        tokens = next(
            row
            for row in (WINDOWS.tokens[r, :5].tolist() for r in rows)
            if Letters().decode([t for t in row if t]) == one.prompt
        )
        expected: list[int] = []
        for _ in range(8):
            logits = network.run(torch.tensor([tokens])).logits[0, -1]
            expected.append(int(logits.argmax()))
            tokens = [*tokens, expected[-1]]
            if expected[-1] == 0:
                break
        assert one.clean == Letters().decode([t for t in expected if t])


def test_the_first_divergence_is_marked():
    different = [one for one in write({AT_FIRST: Constant(torch.ones(WIDTH))}) if one.diverges_at is not None]
    assert different
    for one in different:
        at = one.diverges_at
        assert one.clean_tokens[:at] == one.patched_tokens[:at]
        assert one.clean_tokens[at : at + 1] != one.patched_tokens[at : at + 1]
        assert 0 <= one.agreement < 1


def test_sampling_follows_the_softmax_and_its_seed():
    config = SHORT.model_copy(update={"temperature": 5.0})
    assert write({AT_FIRST: Linear()}, config) == write({AT_FIRST: Linear()}, config)
    other = config.model_copy(update={"seed": 1})
    assert write({AT_FIRST: Linear()}, config) != write({AT_FIRST: Linear()}, other)
    greedy = write({}, SHORT)
    cold = write({}, SHORT.model_copy(update={"temperature": 1e-4}))
    assert [one.clean for one in greedy] == [one.clean for one in cold]


def test_every_token_written_is_told():
    told: list[int] = []
    reporter = SimpleNamespace(task=lambda *_: SimpleNamespace(update=told.append), message=print)
    continue_text(FakeNetwork(), WINDOWS, {}, tokenizer=Letters(), config=SHORT, reporter=reporter)
    assert told == list(range(1, 17))


def test_it_is_plain_json_and_the_true_text_is_there():
    for one in write({AT_FIRST: Linear()}):
        assert json.loads(json.dumps(asdict(one)))["prompt"] == one.prompt
        assert "#" not in one.prompt + one.clean + one.patched + one.true
        assert one.true


def test_bad_input():
    with pytest.raises(InputError, match="next token"):
        write({}, network=FakeNetwork(predicts_tokens=False))
    with pytest.raises(InputError, match="tokenizer"):
        continue_text(FakeNetwork(), WINDOWS, {}, config=SHORT)
    with pytest.raises(InputError, match="context, 16"):
        write({}, SHORT.model_copy(update={"new_tokens": 12}))
    with pytest.raises(InputError, match="does not fit windows of 10"):
        write({}, SHORT.model_copy(update={"prompt_tokens": 11, "new_tokens": 1}))
    with pytest.raises(InputError, match=r"width 5.*width 6"):
        write({AT_FIRST: Identity(5)})


class _Writing(FakeNetwork):
    """Writes the same text after any prompt."""

    def __init__(self, ids: list[int], n_prompt: int):
        super().__init__()
        self._ids, self._n_prompt = ids, n_prompt

    def run(self, inputs, **more):
        logits = torch.zeros(len(inputs), 400)
        logits[:, self._ids[inputs.shape[1] - self._n_prompt]] = 1
        return SimpleNamespace(logits=logits)


def test_a_word_that_serves_for_padding_ends_no_text_and_a_control_token_does():
    tokenizer = byte_bpe()
    tokenizer.pad_token = "."
    text = f"a. the river. a stone. yes. and more. so it goes. {MARKERS[0]}user. done"
    windows = load_windows(Memory([text]), tokenizer, split="train", heldout_fraction=0.0, context=96)
    written = tokenizer(f". no. it. ends.{MARKERS[1]} not here . . . . . . . . . . .")["input_ids"]
    config = ContinuationConfig(n_prompts=1, prompt_tokens=5, new_tokens=min(len(written), 60))
    network = _Writing(written, 5)
    network.context = None
    (one,) = continue_text(network, windows, {}, tokenizer=tokenizer, config=config)
    assert one.clean == f". no. it. ends.{MARKERS[1]}"
    assert text.startswith(one.prompt)
    assert one.prompt + one.true == text[: text.index(MARKERS[0])] + MARKERS[0]
