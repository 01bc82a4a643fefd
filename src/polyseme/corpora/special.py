"""What a tokenizer puts around a text, and which of its tokens steer the network where a text spells them out.

A token is special where it stands, not by its id: what packing puts in front of a document, between documents or after
them is special, and so is a control token that a text spells out (`<|im_start|>`), where the corpus is read that way.
Every other id that comes out of a text is text, whatever else the tokenizer uses it for.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

SpecialTokens = Literal["parse", "text"]

_BRACKETED = re.compile(r"[<\[{(|＜｜].*\w.*[>\]})|＞｜]", re.DOTALL)
_PROBES = ("a", "the", "0", "A", ".")


@runtime_checkable
class Tokenizer(Protocol):
    """What packing needs of a Hugging Face tokenizer."""

    bos_token_id: int | None
    cls_token_id: int | None
    eos_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: list[str], **options: Any) -> Any:
        """A mapping whose `input_ids` are the texts' token ids."""
        ...

    def __len__(self) -> int:
        """Entries of the vocabulary, with added ones."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> Any:
        """How the vocabulary spells a token; None where there is no such id."""
        ...

    def decode(self, token_ids: Sequence[int]) -> Any:
        """The text of the tokens."""
        ...


@dataclass(frozen=True)
class ControlTokens:
    """A tokenizer's control tokens.

    Attributes:
        spelling: id to how a text spells the token.
        words: ids that the tokenizer flags as special although ordinary text produces them (a full stop used for
            padding): they are text wherever a text holds them.
    """

    spelling: dict[int, str]
    words: frozenset[int]


@dataclass(frozen=True)
class Frame:
    """What is put around documents.

    Attributes:
        opening: ids in front of every document and at the start of every window; none where the network knows none.
        closing: ids at the end of every window.
        note: what a reader should know about it; empty where it is what the tokenizer does by itself.
    """

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    note: str = ""


def ending_ids(tokenizer: Any) -> tuple[set[int], set[int]]:
    """Ids that end a text when a network writes them, and those of them that a reader is not shown.

    A tokenizer without the rest of the protocol (a toy's) ends with its special tokens and shows none.
    """
    if not isinstance(tokenizer, Tokenizer):
        every: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
        return every, every
    around = frame(tokenizer)
    hidden = {*around.opening, *around.closing}
    return {*control_tokens(tokenizer).spelling} | hidden, hidden


def encode_plainly(tokenizer: Tokenizer, texts: list[str], special_tokens: SpecialTokens) -> list[list[int]]:
    """Token ids of whole texts, nothing added and nothing cut off, whatever the tokenizer was saved with."""
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=special_tokens == "text",
        padding=False,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]


def control_tokens(tokenizer: Tokenizer) -> ControlTokens:
    """The tokens that are flagged as special and spelt as no ordinary text is.

    A name in brackets (`<s>`, `[CLS]`, `<|im_end|>`) or with a character for private use is a control token. So is any
    other spelling of letters and signs (`>>TITLE<<`, `eng_Latn`), unless the tokenizer produces its id from plain
    text. Words and punctuation (`.`, `the`) are text: they become padding or the like by a choice of whoever saved
    the tokenizer. The token for unknown text counts as text too, unless it has another role beside that one.
    """
    flagged: dict[int, str] = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in tokenizer.all_special_ids}
    added = cast(dict[int, Any], getattr(tokenizer, "added_tokens_decoder", {}))
    flagged |= {i: str(token) for i, token in added.items() if token.special}
    roles = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    only_unknown = {tokenizer.unk_token_id} - {*roles, tokenizer.pad_token_id}
    spelling: dict[int, str] = {}
    words: set[int] = set()
    for token, spelt in flagged.items():
        if is_marker(spelt):
            marked = True
        elif _from_plain_text(tokenizer, token, spelt):
            words.add(token)
            marked = False
        else:
            marked = any(c.isalnum() for c in spelt) and not all(c.isalnum() or c.isspace() for c in spelt)
        if marked and token not in only_unknown:
            spelling[token] = spelt
    return ControlTokens(spelling, frozenset(words))


def is_marker(spelt: str) -> bool:
    """Whether a token is spelt as only control tokens are: a name in brackets, or with a character for private use."""
    return bool(_BRACKETED.fullmatch(spelt)) or any(unicodedata.category(c) in ("Cc", "Co") for c in spelt)


def spelling_of(tokenizer: Any) -> Literal["bytes", "sentencepiece", "pieces"] | None:
    """How a tokenizer's vocabulary spells text; None for one that cannot be asked, without a `backend_tokenizer`.

    Byte-level BPE and SentencePiece tokens hold the spaces between words. WordPiece and word-level `pieces` do not.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # Only what the decoder undoes says how pieces are spelt; the vocabulary may hold any character by itself.
    decoder = json.dumps(json.loads(backend.to_str()).get("decoder"), ensure_ascii=False)
    if '"ByteLevel"' in decoder:
        return "bytes"
    return "sentencepiece" if "▁" in decoder else "pieces"


def _from_plain_text(tokenizer: Tokenizer, token: int, spelt: str) -> bool:
    """Whether the id comes out of text in which nothing counts as special."""
    texts = (spelt, f"a{spelt}", str(tokenizer.decode([token])))
    return any(token in _plain_ids(tokenizer, text) for text in texts)


def _plain_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which nothing counts as special; none where the tokenizer refuses it."""
    try:
        return encode_plainly(tokenizer, [text], "text")[0]
    except Exception:  # noqa: BLE001 - a tokenizer may refuse a text in any way; another one is tried
        return []


def frame(tokenizer: Tokenizer) -> Frame:
    """What the tokenizer itself puts around one text; else what its names say.

    Without an own rule, documents open with BOS where one is named (in GPT-2 and its kin, whose BOS is their EOS, it
    stands between documents), or with CLS, and windows then close with SEP. An EOS is never used as a BOS: in a chat
    model it closes a turn. Without BOS and CLS windows open with text.
    """
    opening, closing = _own_additions(tokenizer)
    if opening or closing:
        return Frame(opening, closing, "" if opening else _NO_OPENING)
    bos, cls, sep = tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id
    declined = getattr(tokenizer, "init_kwargs", {}).get("add_bos_token") is False
    if bos is not None and bos == tokenizer.eos_token_id:
        return Frame((bos,), ())
    if bos is not None and not declined:
        name = tokenizer.convert_ids_to_tokens(bos)
        return Frame(
            (bos,), (), f"documents open with {name}, which the tokenizer names as BOS and does not add by itself"
        )
    if cls is not None:
        return Frame((cls,), () if sep is None else (sep,))
    return Frame((), (), _NO_OPENING)


_NO_OPENING = (
    "the tokenizer puts no BOS in front of a text, so windows open with text and documents follow each other with "
    "nothing between them"
)


def _own_additions(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer adds before and after one text by itself."""
    for probe in _PROBES:
        try:
            bare = encode_plainly(tokenizer, [probe], "text")[0]
            whole: list[int] = tokenizer([probe], padding=False, truncation=False, verbose=False)["input_ids"][0]
        except Exception:  # noqa: BLE001, S112 - a tokenizer may refuse a text in any way; another one is tried
            continue
        for start in range(len(whole) - len(bare) + 1) if bare else ():
            if whole[start : start + len(bare)] == bare:
                return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    return (), ()
