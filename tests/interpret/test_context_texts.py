"""Contexts read as the text they were cut from, whatever tokenizer cut it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.corpora import load_windows
from polyseme.corpora.spelling import TokenTexts
from polyseme.studies.stages.tokens import first_windows
from tests.corpora.test_loading import Memory
from tests.corpora.tokenizers import KINDS, MARKERS, TEXTS, byte_bpe, wordpiece

LOADED = {name: make() for name, make in KINDS.items()}
WORDS = ["the", "river's", "stone,", "(1999)", "lamp", "x[0]", "tower.\n", "quick", "3.14", "a", "  yes?"]


def read(kind: str, text: str, **more) -> str:
    options = {"split": "train", "heldout_fraction": 0.0, "context": 512, **more}
    windows = first_windows(load_windows(Memory([text]), LOADED[kind], **options), 10**6)
    row = (windows.document[0] >= 0) & ~windows.special[0]
    spaced = None if windows.spaced is None else windows.spaced[0][row].tolist()
    return "".join(TokenTexts(LOADED[kind]).context(windows.tokens[0][row].tolist(), spaced))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "words"])
@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join))
def test_a_context_reads_as_the_text(kind, text):
    shown, exact = read(kind, text), text.replace("\n", "↵")
    if kind in ("byte_bpe", "characters"):
        assert shown == exact
    elif kind == "wordpiece":  # white space of any kind and length is one space
        assert shown.lstrip(" ") == " ".join(text.split())
    else:  # SentencePiece puts a space in front
        assert shown.lstrip(" ") == exact.lstrip(" ")


def test_whole_words_stand_apart():
    assert read("words", "the river stone") == "the river stone"


def test_a_marker_in_a_context_is_shown_as_it_is_spelt():
    tokenizer = wordpiece()
    windows = load_windows(
        Memory([f"the river{MARKERS[0]}stone {MARKERS[1]} lamp"]),
        tokenizer,
        split="train",
        heldout_fraction=0.0,
        context=32,
    )
    row = windows.document[0] >= 0
    assert windows.spaced is not None
    shown = TokenTexts(tokenizer).context(windows.tokens[0][row].tolist(), windows.spaced[0][row].tolist())
    assert "".join(shown) == f"[CLS]the river{MARKERS[0]}stone {MARKERS[1]} lamp[SEP]"


def test_token_ids_without_their_text_are_written_out_as_they_are_decoded():
    tokenizer = wordpiece()
    ids = tokenizer("the river under windows", add_special_tokens=False)["input_ids"]
    assert "".join(TokenTexts(tokenizer).context(ids)) == "the river under windows"


def test_a_word_in_a_special_role_is_shown_as_the_word():
    tokenizer = byte_bpe(bos_token="<|endoftext|>")
    token = next(t for t in tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]+", t))
    tokenizer.pad_token = token
    assert TokenTexts(tokenizer)[tokenizer.pad_token_id] == token.replace("Ġ", " ")


def test_white_space_is_saved_with_the_windows(tmp_path):
    from polyseme.corpora import load_saved_windows, save_windows

    windows = load_windows(Memory(TEXTS), wordpiece(), split="train", heldout_fraction=0.0, context=16)
    assert windows.spaced is not None
    assert windows.spaced.any()
    save_windows(tmp_path, windows)
    back = load_saved_windows(tmp_path)
    assert back.fingerprint == windows.fingerprint
    assert back.spaced is not None
    assert (back.spaced == windows.spaced).all()
