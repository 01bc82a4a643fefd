"""Text into a network: token ids as a study's windows have them, and what was read beside the tokens it was read at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.corpora.document import Document
from polyseme.corpora.encoding import Encoder
from polyseme.corpora.records import LeftOut
from polyseme.corpora.special import Tokenizer
from polyseme.corpora.spelling import TokenTexts

Text = str | Sequence[str]
Ids = Sequence[int] | Sequence[Sequence[int]] | Int[np.ndarray, "..."]
_SHOWN = 12
"""Tokens of a text that a repr shows."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts as a network reads them, one a row.

    Attributes:
        ids: token ids; a row is padded at its end.
        counted: True where a token is the text's own: neither special nor padding.
        present: True where there is a token at all.
        tokenizer: None where there is none.
    """

    ids: Int[Tensor, "text position"]
    counted: Bool[Tensor, "text position"]
    present: Bool[Tensor, "text position"]
    tokenizer: Any | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """What each token stands for, with everything that cannot be seen made visible; none for padding."""
        shown = TokenTexts(self.tokenizer)
        return tuple(shown.many(row[there].tolist()) for row, there in zip(self.ids, self.present, strict=True))

    def __repr__(self) -> str:
        rows = [" ".join(map(repr, row[:_SHOWN])) + (" …" if len(row) > _SHOWN else "") for row in self.texts[:8]]
        more = [f"… and {len(self) - 8:,} more"] if len(self) > 8 else []
        return "\n  ".join([f"Tokens: {len(self):,} × {self.ids.shape[1]:,}", *rows, *more])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, one row a token: text, position, id, token, counted."""
        from pandas import DataFrame

        text, position = (index.tolist() for index in self.present.nonzero(as_tuple=True))
        columns = {"id": self.ids[self.present].tolist(), "token": [t for row in self.texts for t in row]}
        counted = self.counted[self.present].tolist()
        return DataFrame({"text": text, "position": position, **columns, "counted": counted})


@final
class Reads(Mapping[Any, Tensor]):
    """Each site's vectors, under the name that was given for it; its `Site` and its other names find them too.

    Args:
        asked: names and sites, as they were given.
        values: by site.
        find: the site of a name.
        tokens: what was read; None for inputs that are no tokens.
    """

    def __init__(
        self,
        asked: Sequence[str | Site],
        values: Mapping[Site, Tensor],
        find: Callable[[str | Site], Site],
        tokens: Callable[[], Tokens] | None = None,
    ):
        self._asked = {name: values[find(name)] for name in asked}
        self._values, self._find, self._tokens = values, find, tokens

    def __getitem__(self, name: str | Site) -> Tensor:
        if name in self._asked:
            return self._asked[name]
        site = self._find(name)
        if site not in self._values:
            asked = ", ".join(map(str, self._asked)) or "nothing"
            raise InputError(f"the site {name} was not read", where="reads", fix=f"ask for it; what was read: {asked}")
        return self._values[site]

    def __contains__(self, name: object) -> bool:
        return name in self._asked or name in self._values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def tokens(self) -> Tokens:
        """The tokens that the vectors belong to.

        Raises:
            InputError: the network read something else.
        """
        if self._tokens is None:
            raise InputError("these vectors were not read at tokens", fix="read a text, or token ids")
        return self._tokens()

    def __repr__(self) -> str:
        rows = [f"{name}: {str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for name, x in self._asked.items()]
        return "\n  ".join([f"Reads of {len(self)} {'site' if len(self) == 1 else 'sites'}", *rows])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of the tokens, with a column for each site: the norm of its vector there."""
        frame, present = self.tokens.to_pandas(), self.tokens.present
        for name, x in self._asked.items():
            if x.shape[:2] == present.shape:
                frame[str(name)] = x[present.to(x.device)].float().flatten(1).norm(dim=1).tolist()
        return frame


@dataclass(frozen=True)
class Output:
    """What one forward pass gives.

    Attributes:
        logits: `[batch, position, vocab]`; `[selected, vocab]` under `logits_at`; for a network without a head, its
            first output.
        reads: each site's vectors before its own edits, as ordinary tensors the caller owns.
    """

    logits: Tensor
    reads: Reads


def known_tokenizer(tokenizer: Any | None, where: str) -> Tokenizer:
    """The tokenizer, where text can be read with it; `where` names the network in the error.

    Raises:
        InputError: there is none, or it is no tokenizer of transformers.
    """
    if tokenizer is None:
        fix = "pass tokenizer= to load_network, or give token ids [batch, position]"
        raise InputError("the network came without a tokenizer, so it cannot read text", where=where, fix=fix)
    if not isinstance(tokenizer, Tokenizer):
        fix = "tokenize the text yourself, and give token ids [batch, position]"
        raise InputError(f"a {type(tokenizer).__name__} is no tokenizer of transformers", where=where, fix=fix)
    return tokenizer


@final
class Texts:
    """Turns text into the tokens of one network.

    Args:
        tokenizer: of the network; None where it has none.
        where: what the network is called in an error.
    """

    def __init__(self, tokenizer: Any | None, where: str):
        self._tokenizer, self._where = tokenizer, where

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(known_tokenizer(self._tokenizer, self._where))

    def tokens(self, given: Text | Ids | Tensor) -> Tokens:
        """A text, several, or their token ids; texts open and close as documents do in a study's windows.

        Raises:
            InputError: a text without a token, ids that form no rows, or a network without a tokenizer.
        """
        several = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
        texts = [text for text in several if isinstance(text, str)]
        if texts and len(texts) == len(several):
            return self._of_texts(texts)
        try:
            ids = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            ids = torch.empty(0, dtype=torch.float32)
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2 or ids.numel() == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
            fix = "give a text, a list of texts, or token ids in rows of one length"
            what = f"what was given (a {type(given).__name__}) is neither text nor token ids"
            raise InputError(what, where="tokens", fix=fix)
        return self.of_ids(ids.long())

    def of_ids(self, ids: Int[Tensor, "text position"]) -> Tokens:
        """Token ids as they are; control tokens among them do not count."""
        counted = torch.ones_like(ids, dtype=torch.bool)
        if isinstance(self._tokenizer, Tokenizer):
            special = [*self._encoder.control.spelling, *self._encoder.frame.opening, *self._encoder.frame.closing]
            counted = ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))
        return Tokens(ids, counted, torch.ones_like(counted), self._tokenizer)

    def _of_texts(self, texts: Sequence[str]) -> Tokens:
        encoder = self._encoder
        documents = [Document(f"text {i}", "", text) for i, text in enumerate(texts)]
        rows: list[tuple[list[int], list[bool]]] = []
        for document, encoded in encoder.encode(documents, LeftOut()):
            if not len(encoded.ids):
                what = "the text is empty" if not document.text else "the text holds no token"
                raise InputError(what, where=document.name, fix="give a text with a word in it")
            opening, closing = encoder.frame.opening, encoder.frame.closing
            ids = [*opening, *encoded.ids.tolist(), *closing]
            own = [False] * len(opening) + (~encoded.special).tolist() + [False] * len(closing)
            rows.append((ids, own))
        shape = len(rows), max(len(ids) for ids, _ in rows)
        pads = (encoder.tokenizer.pad_token_id, encoder.tokenizer.eos_token_id, 0)
        tokens = torch.full(shape, next(pad for pad in pads if pad is not None), dtype=torch.int64)
        counted, present = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
        for row, (ids, own) in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            counted[row, : len(ids)] = torch.tensor(own, dtype=torch.bool)
            present[row, : len(ids)] = True
        return Tokens(tokens, counted, present, self._tokenizer)


def reads_of(
    asked: Sequence[str | Site],
    values: Mapping[Site, Tensor],
    find: Callable[[str | Site], Site],
    given: Tokens | Tensor | Mapping[str, Any],
    texts: Texts,
) -> Reads:
    """What a pass over `given` read; where a row of text was padded, NaN: what a network makes of that is nothing."""
    if isinstance(given, Tokens):
        for x in values.values():
            if x.shape[:2] == given.present.shape and x.is_floating_point():
                x[~given.present.to(x.device)] = torch.nan
        return Reads(asked, values, find, lambda: given)
    ids = given.get("input_ids") if isinstance(given, Mapping) else given
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        return Reads(asked, values, find)
    return Reads(asked, values, find, lambda: texts.of_ids(ids))
