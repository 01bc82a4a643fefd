"""From documents to windows: the split, the sample, special tokens, and every way there can be too little."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from polyseme.core.errors import InputError
from polyseme.core.progress import Silent
from polyseme.corpora import Document, TextCorpusConfig, content_key, load_windows, split_of
from polyseme.corpora.records import LeftOut
from tests.tiny import BOS, tiny_tokenizer


@dataclass
class Memory:
    """A corpus in memory that counts how often it is read."""

    texts: list[str]
    fingerprint: str = "memory"
    passes: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    def documents(self) -> Iterator[Document]:
        self.passes += 1
        return (Document(f"d{i}", content_key(t), t) for i, t in enumerate(self.texts))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [f"document {i}: " + " ".join(map(str, rng.integers(0, 999, rng.integers(3, 60)))) for i in range(80)]


def test_both_sides_hold_every_document_once_in_order(tokenizer, texts):
    sides = {
        s: load_windows(Memory(texts), tokenizer, split=s, context=32, heldout_fraction=0.3)
        for s in ("train", "heldout")
    }
    names = {s: [f"d{i}" for i, t in enumerate(texts) if split_of(content_key(t), 0.3) == s] for s in sides}
    assert {s: list(w.names) for s, w in sides.items()} == names
    for windows in sides.values():
        for i, name in enumerate(windows.names):
            ids = windows.tokens[(windows.document == i) & ~windows.special]
            assert tokenizer.decode(ids) == texts[int(name[1:])]
            assert windows.n_bytes[i] == len(texts[int(name[1:])].encode())
        assert (windows.tokens[:, 0] == tokenizer.bos_token_id).all()


def test_a_split_does_not_depend_on_the_rest_of_the_corpus(tokenizer, texts):
    few = load_windows(Memory(texts[:40]), tokenizer, split="heldout", context=32, heldout_fraction=0.3)
    every = load_windows(Memory(texts), tokenizer, split="heldout", context=32, heldout_fraction=0.3)
    assert every.names[: len(few.names)] == few.names


def test_copies_fall_on_the_same_side(tokenizer, texts):
    doubled = [*texts, *texts]
    for side in ("train", "heldout"):
        windows = load_windows(Memory(doubled), tokenizer, split=side, context=32, heldout_fraction=0.3)
        kept = [doubled[int(name[1:])] for name in windows.names]
        assert all(kept.count(text) == 2 for text in kept)


def test_a_sample_covers_the_corpus_and_grows_by_its_end(tokenizer, texts):
    def sample(n: int, seed: int = 0):
        return load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=n, seed=seed)

    small, large = sample(800), sample(2400)
    assert 800 <= small.n_tokens < 800 + 32
    assert large.names[: len(small.names)] == small.names
    order = [int(name[1:]) for name in small.names]
    assert max(order) > 40  # not the corpus's first documents
    assert order != sorted(order)
    assert sample(800).fingerprint == small.fingerprint
    assert sample(800, seed=1).names != small.names


def test_a_sample_does_not_depend_on_how_much_text_was_held(tokenizer, monkeypatch):
    texts = [f"{i}" + "    def __init__(self):\n" * (i % 7 + 1) for i in range(80)]
    wanted = load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=600)
    monkeypatch.setattr("polyseme.corpora.loading._CHARS_A_TOKEN", 1)
    corpus = Memory(texts)
    tight = load_windows(corpus, tokenizer, split="train", context=32, max_tokens=600)
    assert corpus.passes >= 2  # it had to go back for more
    assert tight.fingerprint == wanted.fingerprint


def test_no_more_text_is_held_than_a_sample_needs(tokenizer, texts):
    from polyseme.corpora.loading import _Selection

    selection = _Selection(Memory(texts), "train", 0.0, 0, budget=1000, document_tokens=None)
    kept = list(selection.documents())
    assert 1000 <= sum(len(d.text) for d in kept) < 1000 + max(map(len, texts))
    assert selection.turned_away == len(texts) - len(kept)
    assert selection.seen == len(texts)


def test_special_tokens_written_in_a_document_stay_text_where_that_is_asked_for(tokenizer):
    text = f"before {BOS} after {BOS}"
    options = {"split": "train", "context": 64, "heldout_fraction": 0}
    windows = load_windows(Memory([text]), tokenizer, **options, special_tokens="text")
    counted = windows.tokens[~windows.special]
    assert tokenizer.bos_token_id not in counted
    assert tokenizer.decode(counted) == text


def wordpiece():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "[", "]", "sep", "cls"]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_an_encoders_windows_open_with_cls_and_close_with_sep():
    options = {"split": "train", "context": 8, "heldout_fraction": 0}
    windows = load_windows(Memory(["a b c a b [SEP] zzz"]), wordpiece(), **options, special_tokens="text")
    assert windows.tokens.tolist() == [[2, 4, 5, 6, 4, 5, 7, 3], [2, 9, 8, 1, 3, 0, 0, 0]]
    assert windows.special.tolist() == [[True, *[False] * 6, True], [True, *[False] * 3, *[True] * 4]]
    assert windows.document.tolist() == [[0] * 8, [0] * 5 + [-1] * 3]


def test_a_vocabulary_that_holds_its_special_tokens_as_words_runs_them_uncounted():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    windows = load_windows(Memory(["a <s> b c"]), fast, split="train", context=8, heldout_fraction=0)
    assert windows.tokens[~windows.special].tolist() == [2, 3, 1]
    assert windows.tokens.tolist()[0][:5] == [0, 2, 0, 3, 1]  # in its place, though it counts in nothing


def test_a_tokenizer_without_special_tokens_gets_no_prefix():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend)
    windows = load_windows(Memory(["a b", "b a"]), fast, split="train", context=4, heldout_fraction=0)
    assert windows.tokens.tolist() == [[0, 1, 1, 0]]
    assert not windows.special.any()


@pytest.mark.parametrize("texts", [[], ["first", "second"]])
def test_an_empty_corpus_and_an_empty_side(tokenizer, texts):
    message = "the corpus is empty" if not texts else "all 2 documents fall on the other side"
    with pytest.raises(InputError, match=message):
        load_windows(Memory(texts), tokenizer, split="heldout", context=16, heldout_fraction=0)


def test_a_folder_of_blank_files_is_an_empty_corpus(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match="the corpus is empty"):
        load_windows(TextCorpusConfig(paths=(tmp_path,)).build(), tokenizer, split="train", context=16)


def test_a_corpus_smaller_than_asked_for_names_both_figures(tokenizer, texts):
    n = load_windows(Memory(texts), tokenizer, split="train", context=32).n_tokens
    with pytest.raises(InputError, match=rf"{n:,} of 1,000,000 tokens.*ask for at most {n:,}"):
        load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=1_000_000)
    assert load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=n).n_tokens == n


def test_figures_out_of_range_are_refused(tokenizer, texts):
    with pytest.raises(InputError, match="max_tokens is 0"):
        load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=0)
    with pytest.raises(InputError, match=r"fraction of 1\.5"):
        load_windows(Memory(texts), tokenizer, split="train", context=32, heldout_fraction=1.5)


def test_what_was_left_out_is_said(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    said: list[str] = []

    class Listener:
        def task(self, name, total, unit=""):
            return self

        def update(self, done, total=None, note=""):
            return None

        def message(self, text):
            said.append(text)

    corpus = TextCorpusConfig(paths=(tmp_path,), errors="skip").build()
    load_windows(corpus, tokenizer, split="train", context=8, heldout_fraction=0, reporter=Listener())
    assert len(said) == 1
    assert "left out 1" in said[0]
    assert "b.txt" in said[0]


def test_a_stretch_of_each_document_is_taken_at_a_place_only_text_and_seed_decide() -> None:
    from polyseme.corpora.loading import _stretch

    ids = list(range(1000))
    stretch = _stretch(ids, 50, "text", 0)
    assert stretch == list(range(stretch[0], stretch[0] + 50))
    assert stretch == _stretch(ids, 50, "text", 0)
    starts = {_stretch(ids, 50, f"text {i}", 0)[0] for i in range(200)}
    assert len(starts) > 150
    assert max(starts) > 800
    assert min(starts) < 150
    assert _stretch(ids, 1000, "text", 0) == ids


def test_stretches_are_whole_tokens_of_many_documents_with_their_share_of_bytes(tokenizer, texts):
    def sample(**more):
        return load_windows(Memory(texts), tokenizer, split="train", context=32, max_tokens=600, **more)

    whole, cut = sample(), sample(document_tokens=20)
    assert len(cut.names) > 2 * len(whole.names)
    for i, name in enumerate(cut.names[:-1]):
        ids = cut.tokens[(cut.document == i) & ~cut.special]
        text = texts[int(name[1:])]
        n = len(tokenizer(text)["input_ids"])
        assert len(ids) == min(20, n)
        assert tokenizer.decode(ids) in text
        assert cut.n_bytes[i] == pytest.approx(len(text) * len(ids) / n, abs=0.51)


def test_fewer_tokens_than_asked_for_are_taken_only_when_allowed() -> None:
    class Told(Silent):
        lines: ClassVar[list[str]] = []

        def message(self, text: str) -> None:
            self.lines.append(text)

    options = {"split": "train", "context": 16, "max_tokens": 10**6, "heldout_fraction": 0.0}
    with pytest.raises(InputError, match="the corpus is too small"):
        load_windows(Memory(["some words"]), tiny_tokenizer(), **options)
    windows = load_windows(Memory(["some words"]), tiny_tokenizer(), **options, allow_fewer=True, reporter=Told())
    assert 0 < windows.n_tokens < 10**6
    assert any("1,000,000" in line for line in Told.lines)
