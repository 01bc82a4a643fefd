"""Every token shows what it holds, whatever the tokenizer spells."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from polyseme.core.text import visible
from polyseme.corpora.spelling import TokenTexts

ALPHABET = pre_tokenizers.ByteLevel.alphabet()


class Fast:
    """The parts of a fast tokenizer that are read."""

    all_special_ids = (0,)

    def __init__(self, vocabulary: list[str], decoder: decoders.Decoder):
        backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token=vocabulary[0]))
        backend.decoder = decoder
        self.backend_tokenizer, self._vocabulary = backend, vocabulary

    def convert_ids_to_tokens(self, token: int) -> str | None:
        return self._vocabulary[token] if token < len(self._vocabulary) else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("a\n\tb", "a↵⇥b"),
        ("\x1b[31m", "␛[31m"),
        ("\u202egnp", "⟨U+202E⟩gnp"),
        ("\u200b\ufeff\x00\x85", "⟨U+200B⟩⟨U+FEFF⟩␀⟨U+0085⟩"),
        ("\u00a0", "⟨U+00A0⟩"),
        (b"\xe2\x82".decode("utf-8", "surrogateescape"), "⟨e2⟩⟨82⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\u0301x", "◌\u0301x"),
        ("日本 ع", "日本 ع"),
        ("", ""),
    ],
)
def test_hidden_characters_are_shown(text: str, expected: str):
    assert visible(text) == expected


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(), max_size=20))
def test_nothing_invisible_is_left_and_showing_twice_changes_nothing(text: str):
    shown = visible(text)
    assert not [
        c for c in shown if c != " " and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    ]
    assert visible(shown) == shown
    shown.encode("utf-8")


def test_long_text_is_cut():
    assert visible("x" * 100, limit=10) == "x" * 9 + "…"
    assert visible("x" * 10, limit=10) == "x" * 10


def test_byte_level_pieces_are_decoded_one_by_one():
    pieces = ["<s>", "Ġdef", "âĤ", "Ċ", "ĠĠ"]  # a space, the first two bytes of €, a newline, two spaces
    texts = TokenTexts(Fast(pieces, decoders.ByteLevel()))
    assert texts.many(range(5)) == ("<s>", " def", "⟨e2⟩⟨82⟩", "↵", "  ")
    assert texts[5] == "⟨5⟩"  # not in the vocabulary


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8))
def test_byte_level_text_comes_back(text: str):
    byte_map = sorted(ALPHABET)
    assert len(byte_map) == 256
    encoded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    piece = "".join(part for part, _ in encoded)
    assert TokenTexts(Fast(["<s>", piece], decoders.ByteLevel()), limit=400)[1] == visible(text)


def test_sentencepiece_and_wordpiece():
    metaspace = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert TokenTexts(Fast(["<s>", "▁the", "<0xE2>", "<0x0A>"], metaspace)).many(range(4)) == (
        "<s>",
        " the",
        "⟨e2⟩",
        "↵",
    )
    assert TokenTexts(Fast(["[CLS]", "##ing"], decoders.WordPiece())).many(range(2)) == ("[CLS]", "##ing")


def test_without_a_tokenizer_ids_are_shown():
    assert TokenTexts(None).many([3, 40]) == ("⟨3⟩", "⟨40⟩")
