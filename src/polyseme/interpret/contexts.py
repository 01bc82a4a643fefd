"""Where a latent fires, and where it might have and does not: text around tokens, with activations."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field

from polyseme.activations.firings import Firings
from polyseme.core.config import Config, Seed
from polyseme.core.seeds import derive_seed
from polyseme.core.text import visible
from polyseme.corpora.pack import Windows
from polyseme.corpora.spelling import TokenTexts
from polyseme.interpret.records import Context, Histogram, Stratum, TokenWeight

_Few = Annotated[int, Field(ge=0, le=1000)]


class ContextsConfig(Config):
    """Which contexts are shown for a latent."""

    before: _Few = 12
    """Tokens shown before the focus."""
    after: _Few = 6
    """Tokens shown after it."""
    n_top: _Few = 6
    """Strongest firings."""
    n_quantile: _Few = 3
    """Firings at evenly spaced ranks between the strongest and the weakest."""
    n_random: _Few = 4
    """Firings drawn at random: what the latent is really like, where the top is a selection."""
    n_near_miss: _Few = 3
    """Tokens it usually fires on, where it is silent."""
    n_silent: _Few = 0
    """Tokens drawn at random from where it is silent."""
    per_document: int = Field(default=2, ge=1, le=1000)
    """Most of the strongest firings that may come from one document."""
    min_count: int = Field(default=3, ge=1, le=1000)
    """A token must occur so often to be listed among a latent's tokens."""
    seed: Seed = 0
    """Seed of the random draws."""


class LatentReader:
    """Contexts, tokens and histogram of one dictionary's latents.

    Args:
        firings: the dictionary's latents over the held-out tokens.
        windows: the tokens they were collected from.
        texts: token ids to text.
        config: how many of each.
    """

    def __init__(self, firings: Firings, windows: Windows, texts: TokenTexts, config: ContextsConfig | None = None):
        self.firings, self.windows, self.texts = firings, windows, texts
        self.config = config or ContextsConfig()
        self._row_at = np.full(windows.tokens.shape, -1, dtype=np.int64)
        self._row_at[firings.window, firings.position] = np.arange(firings.n_tokens)
        self._occurrences = np.bincount(firings.token)

    def n_documents(self, latent: int) -> int:
        """Documents in which the latent fires."""
        return int(self.firings.document_counts[latent])

    def histogram(self, latent: int, bins: int = 32) -> Histogram | None:
        """The non-zero activations in equal bins from 0 (or their least) to their greatest; None if it never fires."""
        _, values = self.firings.of(latent)
        if not len(values):
            return None
        counts, edges = np.histogram(values, bins=bins, range=(min(0.0, values.min()), values.max()))
        return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(float, counts)), label="activation")

    def top_tokens(self, latent: int, n: int = 8) -> tuple[TokenWeight, ...]:
        """Tokens by E[f | token], silent occurrences counting 0, among those seen at least `min_count` times."""
        return tuple(
            TokenWeight(token=self.texts[t], value=mean, n=int(self._occurrences[t]))
            for t, mean in self._token_means(latent)[:n]
        )

    def n_listed(self, latent: int) -> int:
        """How many tokens `top_tokens` chooses from."""
        return len(self._token_means(latent))

    def contexts(
        self,
        latent: int,
        loss_effects: Mapping[int, float] | None = None,
        kl_effects: Mapping[int, float] | None = None,
    ) -> tuple[Context, ...]:
        """Contexts of every stratum, strongest first within the top; none when the latent never fires.

        Random firings are drawn from those whose effect was measured, themselves a random sample, where they suffice.

        Args:
            latent: its index.
            loss_effects: row of the firings to the exact effect of ablating the latent there on the loss, nats.
            kl_effects: the same for KL(clean ‖ ablated) of the prediction.
        """
        rows, values = self.firings.of(latent)
        if not len(rows):
            return ()
        c = self.config
        rng = np.random.default_rng(derive_seed(c.seed, "contexts", latent))
        by_strength = rows[np.argsort(-values, kind="stable")]
        top = self._spread(by_strength, c.n_top)
        measured = rows[np.isin(rows, list(loss_effects or {}))]
        drawn_from = measured if len(measured) >= c.n_random else rows
        strata: dict[Stratum, Iterable[int]] = {
            "top": top,
            "quantile": _evenly(by_strength[~np.isin(by_strength, top)], c.n_quantile),
            "random": rng.choice(drawn_from, min(c.n_random, len(drawn_from)), replace=False),
            "near_miss": self._near_misses(latent, rows, rng),
            "silent": self._silent(rows, rng),
        }
        column = dict(zip(rows.tolist(), values.tolist(), strict=True))
        return tuple(
            self._context(stratum, int(row), column, loss_effects or {}, kl_effects or {})
            for stratum, chosen in strata.items()
            for row in chosen
        )

    def _token_means(self, latent: int) -> list[tuple[int, float]]:
        rows, values = self.firings.of(latent)
        tokens, inverse = np.unique(self.firings.token[rows], return_inverse=True)
        means = np.bincount(inverse, weights=values, minlength=len(tokens)) / self._occurrences[tokens]
        keep = self._occurrences[tokens] >= self.config.min_count
        tokens, means = tokens[keep], means[keep]
        order = np.lexsort((tokens, -means))
        return [(int(tokens[i]), float(means[i])) for i in order]

    def _spread(self, rows: Int[np.ndarray, " firing"], n: int) -> list[int]:
        """The first `n` rows that are not another's neighbour, copy or third in one document; then fewer demands."""
        out: list[int] = []
        documents: dict[int, int] = {}
        seen: set[tuple[int, ...]] = set()
        shown: set[tuple[int, int]] = set()
        for row in rows[:4096].tolist():
            if len(out) == n:
                break
            window, start, stop = self._span(row)
            document = int(self.firings.document[row])
            copy = tuple(self.windows.tokens[window, start:stop].tolist())
            place = (window, int(self.firings.position[row]))
            if documents.get(document, 0) >= self.config.per_document or copy in seen or place in shown:
                continue
            out.append(row)
            seen.add(copy)
            shown |= {(window, p) for p in range(start, stop)}
            documents[document] = documents.get(document, 0) + 1
        # A latent that fires in few documents still fills its list.
        out += [r for r in rows[:4096].tolist() if r not in set(out)][: n - len(out)]
        return out

    def _near_misses(
        self, latent: int, rows: Int[np.ndarray, " firing"], rng: np.random.Generator
    ) -> Int[np.ndarray, " chosen"]:
        favourites = [t for t, _ in self._token_means(latent)[:8]]
        here = np.flatnonzero(np.isin(self.firings.token, favourites))
        silent = np.setdiff1d(here, rows, assume_unique=True)
        return rng.choice(silent, min(self.config.n_near_miss, len(silent)), replace=False)

    def _silent(self, rows: Int[np.ndarray, " firing"], rng: np.random.Generator) -> Int[np.ndarray, " chosen"]:
        if not self.config.n_silent:
            return np.empty(0, dtype=np.int64)
        silent = np.setdiff1d(np.arange(self.firings.n_tokens), rows, assume_unique=True)
        return rng.choice(silent, min(self.config.n_silent, len(silent)), replace=False)

    def _span(self, row: int) -> tuple[int, int, int]:
        """Window, first and last-but-one column of the context around a row: never past the document's ends."""
        window, position = int(self.firings.window[row]), int(self.firings.position[row])
        same = self.windows.document[window] == self.firings.document[row]
        start, stop = position, position + 1
        while start > max(0, position - self.config.before) and same[start - 1]:
            start -= 1
        while stop < min(len(same), position + 1 + self.config.after) and same[stop]:
            stop += 1
        return window, start, stop

    def _context(
        self,
        stratum: Stratum,
        row: int,
        column: Mapping[int, float],
        loss_effects: Mapping[int, float],
        kl_effects: Mapping[int, float],
    ) -> Context:
        window, start, stop = self._span(row)
        around = self._row_at[window, start:stop].tolist()
        return Context(
            stratum=stratum,
            document=visible(self.windows.names[int(self.firings.document[row])], limit=160),
            position=int(self.firings.position[row]),
            focus=int(self.firings.position[row]) - start,
            tokens=self.texts.context(
                self.windows.tokens[window, start:stop].tolist(),
                None if self.windows.spaced is None else self.windows.spaced[window, start:stop].tolist(),
            ),
            activations=tuple(float("nan") if r < 0 else column.get(r, 0.0) for r in around),
            loss_effects=_measured_at(around, loss_effects),
            kl_effects=_measured_at(around, kl_effects),
        )


def _measured_at(rows: list[int], effects: Mapping[int, float]) -> tuple[float, ...]:
    """The effect at each row, NaN where there is none; nothing at all where that is so everywhere."""
    return tuple(effects.get(r, math.nan) for r in rows) if any(r in effects for r in rows) else ()


def _evenly(rows: Int[np.ndarray, " firing"], n: int) -> Int[np.ndarray, " chosen"]:
    """`n` of the rows at evenly spaced places between the first and the last, both left out."""
    if not len(rows) or not n:
        return rows[:0]
    return rows[np.unique(np.linspace(0, len(rows) - 1, n + 2).round().astype(int)[1:-1])]
