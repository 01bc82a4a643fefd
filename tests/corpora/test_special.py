"""Special is a place: every id that comes out of a text reaches the network, and only control tokens are uncounted."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.corpora import Document, Windows, content_key, load_windows
from polyseme.corpora.special import control_tokens, frame
from tests.corpora.test_loading import Memory
from tests.corpora.tokenizers import KINDS, MARKERS, TEXTS, byte_bpe, characters, wordpiece

LOADED = {name: make() for name, make in KINDS.items()}
FRAMES = {name: frame(tokenizer) for name, tokenizer in LOADED.items()}


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def windows_of(tokenizer, texts, context: int = 16, reporter=None, **more) -> Windows:
    options = {"split": "train", "heldout_fraction": 0.0, "context": context}
    return load_windows(Memory(list(texts)), tokenizer, **options, reporter=reporter, **more)


def read_ids(windows: Windows, around: frozenset[int], document: int = 0) -> tuple[list[int], list[bool]]:
    """What the network reads of a document and what of it counts, without what packing put at windows' ends."""
    here = windows.document == document
    ids, special = windows.tokens[here].tolist(), windows.special[here].tolist()
    kept = [(i, s) for i, s in zip(ids, special, strict=True) if not (s and i in around)]
    return [i for i, _ in kept], [not s for _, s in kept]


pieces = st.sampled_from([*TEXTS, *MARKERS, "\n", " ", "é", "日", "a.b", "<|im_start", "|im_end|>"])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(parts=st.lists(pieces, min_size=1, max_size=8))
def test_a_network_reads_exactly_what_its_tokenizer_makes_of_the_text(kind, parts):
    tokenizer, around = LOADED[kind], frozenset((*FRAMES[kind].opening, *FRAMES[kind].closing))
    text = "x" + "".join(parts)
    for mode, split in (("parse", False), ("text", True)):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]
        markers = {i for i, s in control_tokens(tokenizer).spelling.items() if s in MARKERS}
        found, counted = read_ids(windows_of(tokenizer, [text], context=2048, special_tokens=mode), around)
        assert found == ids
        assert counted == [mode == "text" or i not in markers for i in ids]


@pytest.mark.parametrize("kind", ["byte_bpe", "characters"])
@settings(deadline=None, max_examples=60)
@given(text=st.text(st.sampled_from(sorted(set("".join(TEXTS)))), min_size=1, max_size=80))
def test_every_character_comes_back(kind, text):
    if not text.strip():
        return
    windows = windows_of(LOADED[kind], [text])
    assert LOADED[kind].decode(windows.tokens[~windows.special]) == text


@pytest.mark.parametrize("role", ["pad_token", "eos_token", "unk_token", "sep_token", "mask_token"])
@pytest.mark.parametrize("word", [".", "the", "Ġthe", "!", "a"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_word_in_a_special_role_is_still_a_word(tmp_path, role, word, saved):
    plain = byte_bpe(bos_token="<|endoftext|>")
    changed = byte_bpe(bos_token="<|endoftext|>")
    if word not in changed.get_vocab():
        pytest.skip("not in this small vocabulary")
    setattr(changed, role, word)
    if saved:
        changed.save_pretrained(tmp_path)
        changed = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f"{text} the . end! a.the" for text in TEXTS]
    a, b = windows_of(plain, texts), windows_of(changed, texts)
    np.testing.assert_array_equal(a.special, b.special)
    np.testing.assert_array_equal(a.tokens[~a.special], b.tokens[~b.special])
    marked = [windows_of(t, [f"x {MARKERS[0]}{texts[0]}"]) for t in (plain, changed)]
    np.testing.assert_array_equal(*(w.tokens[w.document >= 0] for w in marked))
    np.testing.assert_array_equal(*(w.special for w in marked))


@pytest.mark.parametrize(
    ("kind", "opening", "closing"),
    [
        ("byte_bpe", "<|endoftext|>", ""),
        ("sentencepiece_bpe", "<s>", ""),
        ("unigram", "", "</s>"),
        ("wordpiece", "[CLS]", "[SEP]"),
        ("words", "", ""),
        ("characters", "<bos>", ""),
    ],
)
def test_windows_open_and_close_as_the_tokenizer_does_it(kind, opening, closing):
    tokenizer = LOADED[kind]
    told = Told()
    windows = windows_of(tokenizer, TEXTS, reporter=told)
    spelt = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in windows.tokens]
    special = windows.special
    if opening:
        assert all(row[0] == opening for row in spelt)
        assert special[:, 0].all()
    else:
        assert not special[:, 0].any()
        assert any("no BOS" in line for line in told.lines)
    if closing:
        at = [row.index(closing) for row in spelt]  # before the last place where only an opening would have fitted
        assert all(i >= len(row) - 2 for i, row in zip(at[:-1], spelt[:-1], strict=True))
        assert all(s[i:].all() for i, s in zip(at, special, strict=True))


def named(**names) -> PreTrainedTokenizerFast:
    return byte_bpe(**names)


@pytest.mark.parametrize(
    ("names", "opening"),
    [
        ({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ()),  # an EOS that closes turns opens nothing
        ({"eos_token": "<|endoftext|>"}, ()),
        ({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "add_bos_token": False}, (0,)),
        ({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": False}, ()),
        ({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": True}, (0,)),
        ({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}, (0,)),
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_nothing_is_made_up_in_front_of_a_text(names, opening, side):
    tokenizer = named(**names)
    tokenizer.padding_side = side
    told = Told()
    windows = windows_of(tokenizer, TEXTS, reporter=told)
    assert frame(tokenizer).opening == opening
    assert tuple(windows.tokens[0, : len(opening)]) == opening
    assert not windows.special[0, len(opening) :].any()
    assert any("no BOS" in line for line in told.lines) == (not opening)
    assert windows.special[-1, -1]  # padding is on the right, whatever the tokenizer prefers
    assert not windows.special[:-1, -1].any()


def test_an_opening_of_several_tokens_is_put_whole():
    tokenizer = byte_bpe(bos_token="<|im_start|>")
    from tokenizers import processors

    template = processors.TemplateProcessing(
        single="<|im_start|> <|im_end|> $A", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    tokenizer.backend_tokenizer.post_processor = template
    windows = windows_of(tokenizer, TEXTS)
    assert (windows.tokens[:, :2] == (1, 2)).all()
    assert windows.special[:, :2].all()
    starts = [np.flatnonzero(windows.document.ravel() == i)[0] for i in range(len(TEXTS))]
    assert all(windows.tokens.ravel()[s : s + 2].tolist() == [1, 2] for s in starts)


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe", "wordpiece"])
def test_an_opening_that_a_text_brings_along_is_not_doubled(kind):
    tokenizer = LOADED[kind]
    (bos,) = FRAMES[kind].opening
    name = tokenizer.convert_ids_to_tokens(bos)
    windows = windows_of(tokenizer, [f"{name}river stone", f"{name}{name}paper"], context=64)
    document = windows.document[0]
    assert (windows.tokens[0][document >= 0] == bos).sum() == 2
    assert [int(windows.tokens[0][document == i][0]) for i in (0, 1)] == [bos, bos]


def test_what_was_found_and_done_is_said_once_a_side():
    texts = [f"{MARKERS[0]}user\nriver{MARKERS[1]}\n" * 2, "plain stone", f"{MARKERS[1]}"]
    for mode, done in (("parse", "as such"), ("text", "as plain text")):
        told = Told()
        windows_of(byte_bpe(), texts, reporter=told, special_tokens=mode)
        assert len(told.lines) == 1
        assert "5 control tokens spelt out in 2 documents" in told.lines[0]
        assert "<|im_end|> 3 times, <|im_start|> 2 times" in told.lines[0]
        assert done in told.lines[0]
    told = Told()
    windows_of(byte_bpe(), ["plain stone"], reporter=told)
    assert not told.lines


def test_markers_take_no_share_of_the_bytes():
    windows = windows_of(byte_bpe(), [f"{MARKERS[0]}river{MARKERS[1]} stone"], context=64)
    assert windows.n_bytes.tolist() == [len("river stone")]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([MARKERS[0] * 40, MARKERS[1] * 7, "river ", "<|endoftext|>" * 9]), min_size=1, max_size=6)
)
def test_every_window_holds_a_token_that_counts_whatever_markers_a_text_holds(parts):
    tokenizer = LOADED["byte_bpe"]
    windows = windows_of(tokenizer, ["x", "".join(parts), "stone"], context=8)
    assert (~windows.special).any(1).all()
    counted = "".join(part for part in ["x", *parts, "stone"] if "<" not in part)
    assert tokenizer.decode(windows.tokens[~windows.special]) == counted


def test_added_words_are_text():
    tokenizer = byte_bpe()
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("riverbank", special=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["Paris"]}, replace_extra_special_tokens=False)
    text = "a riverbank in Paris <tool>x</tool>"
    windows = windows_of(tokenizer, [text], context=64)
    ids = windows.tokens[~windows.special]
    assert tokenizer.decode(ids) == text
    assert {"riverbank", "<tool>"} <= set(tokenizer.convert_ids_to_tokens(ids.tolist()))


@pytest.mark.parametrize(
    ("spelt", "control"),
    [
        *((spelt, True) for spelt in ("<s>", "[INST]", "</s>", "<｜begin▁of▁sentence｜>", ">>TITLE<<", "eng_Latn")),
        *((spelt, True) for spelt in ("\ue000", "|||IP|||")),
        *((spelt, False) for spelt in ("river", "...", "PAD")),
    ],
)
def test_control_tokens_are_spelt_as_no_ordinary_text_is(spelt, control):
    tokenizer = byte_bpe()
    tokenizer.add_special_tokens({"additional_special_tokens": [spelt]})
    windows = windows_of(tokenizer, [f"x {spelt} y"], context=64)
    assert bool(windows.special[0, 1:6].any()) == control
    assert tokenizer.convert_tokens_to_ids(spelt) in windows.tokens or not control


def test_unknown_text_counts_and_is_said_even_where_its_token_has_another_role():
    vocabulary = {w: i for i, w in enumerate(["</s>", "river", "stone"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="</s>", eos_token="</s>")
    told = Told()
    windows = windows_of(tokenizer, ["river Oxus stone zzz", "river </s> stone"], reporter=told)
    assert windows.tokens[~windows.special].tolist() == [1, 0, 2, 0, 1, 2]
    assert any("33.3% of the tokens are </s>" in line for line in told.lines)


def test_a_few_unknown_words_are_not_worth_a_message():
    told = Told()
    windows_of(wordpiece(), [" ".join(["river stone"] * 200) + " Ж"], reporter=told)
    assert not told.lines


def test_characters_that_a_tokenizer_drops_are_said():
    told = Told()
    windows = windows_of(characters(), ["river Ж stone ЖЖЖ"], reporter=told, context=64)
    assert "Ж" not in characters().decode(windows.tokens[~windows.special])
    assert any("28.6% of the characters" in line for line in told.lines)


def test_a_text_that_the_tokenizer_fails_on_is_named():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1}))  # without a token for unknown words
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(InputError, match=r"tokenizer fails on this document.*d1.*Fix"):
        windows_of(tokenizer, ["a b", "a c b"])
    assert windows_of(tokenizer, ["a b"]).tokens[0, :2].tolist() == [0, 1]


def test_a_tokenizer_saved_with_truncation_and_padding_cuts_nothing(tmp_path):
    tokenizer = byte_bpe()
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    windows = windows_of(loaded, TEXTS[:1], context=64)
    assert loaded.decode(windows.tokens[~windows.special]) == TEXTS[0]


def test_documents_are_encoded_some_characters_at_a_time(monkeypatch):
    monkeypatch.setattr("polyseme.corpora.encoding._BATCH_CHARS", 100)
    from polyseme.corpora.encoding import _batches

    documents = [Document(f"d{i}", content_key(t), t) for i, t in enumerate(["x" * 60] * 5 + ["y"] * 200)]
    batches = list(_batches(documents))
    assert [d for batch in batches for d in batch] == documents
    assert max(sum(len(d.text) for d in batch) for batch in batches) <= 100 + 60
    assert max(map(len, batches)) <= 64
