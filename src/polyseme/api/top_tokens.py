"""The tokens of a text at which a latent is most active."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from polyseme.activations.firings import collect_firings
from polyseme.api.given import check_dictionary, check_network
from polyseme.api.windows import CorpusLike, windows_of
from polyseme.core.batch import check_latent
from polyseme.core.binding import Binding
from polyseme.core.progress import Reporter
from polyseme.core.site import Site
from polyseme.core.table import Table
from polyseme.core.validation import check_count
from polyseme.corpora import Windows
from polyseme.corpora.spelling import TokenTexts
from polyseme.dictionaries import LatentEncoder
from polyseme.kernels.shield import shielded
from polyseme.networks import Network
from polyseme.screen.progress import reporting

BEFORE, AFTER = 8, 4
"""Tokens of context."""


@dataclass(frozen=True, repr=False)
class TopTokens(Table):
    """Firings of a latent, strongest first.

    Attributes:
        columns: activation, token, the context before and after it, the name of the document, and the position.
        latent: its index.
        n_firings, n_tokens: on how many of how many tokens it is active.
    """

    row: ClassVar[str] = "Firing"
    latent: int
    n_firings: int
    n_tokens: int

    @property
    def title(self) -> str:
        return f"Latent {self.latent}: active on {self.n_firings:,} of {self.n_tokens:,} tokens"


@shielded
def top_tokens(
    network: Network,
    text: CorpusLike,
    site: str | Site,
    dictionary: LatentEncoder,
    latent: int,
    *,
    n: int = 10,
    reporter: Reporter | None = None,
) -> TopTokens:
    """The tokens at which a latent is most active.

    >>> network = polyseme.load_network("pylm")
    >>> dictionary = polyseme.TopKConfig(n_latents=64, k=4).build(224, seed=0)
    >>> polyseme.top_tokens(network, "for i in range(10):\\n    print(i)\\n", "blocks.2.resid_post", dictionary, 17)
    Latent 17: active on 1 of 13 tokens
    activation  before              token  after  document  position
    4.78        (10):↵    print(i)  ↵             text 0    13
    1 of 1 rows shown

    Args:
        network: what reads the text.
        text: a text, texts, a corpus, its config, or windows; special tokens do not count.
        site: what the dictionary reads.
        dictionary: whose latent it is.
        latent: its index.
        n: how many tokens at most.
        reporter: receives the number of tokens read; by default a bar in a notebook and on a terminal.

    Raises:
        InputError: no such site or latent, an empty text, or a dictionary of another width than the site.
    """
    check_network(network)
    check_dictionary(dictionary)
    latent = check_latent(latent, dictionary.n_latents)
    check_count(n, "n")
    place = network.site(site)
    with reporting(reporter) as told:
        windows = windows_of(network, text, reporter=told)
        found = collect_firings(network, windows, {"": (Binding.at(place), dictionary)}, reporter=told)[""]
    column = found.columns[:, [latent]]
    rows, values = column.indices, column.data.astype(np.float64)
    best = np.argsort(-values, kind="stable")[:n]
    texts = TokenTexts(network.tokenizer)
    contexts = [_context(windows, texts, int(found.window[row]), int(found.position[row])) for row in rows[best]]
    columns = {
        "activation": values[best],
        **{name: [context[i] for context in contexts] for i, name in enumerate(("before", "token", "after"))},
        "document": [windows.names[found.document[row]] for row in rows[best]],
        "position": found.position[rows[best]],
    }
    return TopTokens({k: np.asarray(v) for k, v in columns.items()}, latent, len(rows), found.n_tokens)


def _context(windows: Windows, texts: TokenTexts, window: int, position: int) -> tuple[str, str, str]:
    """What stands before a token of a window in its document, the token, and what comes after it."""
    near = np.arange(max(0, position - BEFORE), min(windows.tokens.shape[1], position + AFTER + 1))
    near = near[windows.document[window, near] == windows.document[window, position]]
    spaced = None if windows.spaced is None else windows.spaced[window, near].tolist()
    shown, focus = texts.context(windows.tokens[window, near].tolist(), spaced), int((near < position).sum())
    return "".join(shown[:focus]), shown[focus], "".join(shown[focus + 1 :])
