"""What is read of a latent, as data: contexts, tokens, neighbours, a histogram, and all of it beside the verdict.

Text that comes from a corpus or a tokenizer passes through `polyseme.core.text.visible` before it gets here.
"""

from typing import Literal

from polyseme.core.config import Record
from polyseme.core.records import Interval, Number, Verdict

Stratum = Literal["top", "quantile", "random", "near_miss", "silent"]
STRATA: tuple[Stratum, ...] = ("top", "quantile", "random", "near_miss", "silent")


class Histogram(Record):
    """Counts between edges."""

    edges: tuple[Number, ...]
    """One more than there are counts, ascending, in the units of `label`."""
    counts: tuple[Number, ...]
    """How many fall in each bin."""
    label: str = ""
    """What is counted along the axis: `activation`, `log10 density`."""


class Context(Record):
    """A stretch of text around one token, with one latent's activation at each token."""

    stratum: Stratum
    """How the token was chosen: `near_miss` is where the latent is silent though its favourite token stands there;
    `silent` a random token where it is silent."""
    document: str
    """Name of the document."""
    position: int
    """Column of the focus token in its window."""
    focus: int
    """Index of the focus token in `tokens`."""
    tokens: tuple[str, ...]
    """Text of each token with invisible characters made visible."""
    activations: tuple[Number, ...]
    """The latent's activation at each token, 0 where silent; NaN at special tokens, which are not read."""
    loss_effects: tuple[Number, ...] = ()
    """Exact effect of ablating the latent there on the next token's loss, nats; NaN at tokens where it was not
    measured, empty when at none."""
    kl_effects: tuple[Number, ...] = ()
    """KL(clean ‖ ablated there) of the next token's prediction, nats, where verdicts rest on it; NaN, empty alike."""


class TokenWeight(Record):
    """A token with a number beside it: a mean activation or a direct logit effect."""

    token: str
    value: Number
    n: int = 0
    """How often the token occurred, where that matters."""


class Neighbour(Record):
    """Another latent, of the same or another dictionary, and how alike it is."""

    dictionary: str
    """Where it lives: `same`, `seed 1`, `control spectrum`."""
    latent: int
    value: Number
    """Correlation, cosine or co-firing share, by `measure`."""
    measure: Literal["correlation", "write cosine", "co-firing"] = "correlation"


class LatentReport(Record):
    """One latent with the evidence beside it."""

    site: str
    """Name of its dictionary, as in `DictionaryReport.name`."""
    latent: int
    verdict: Verdict
    why: str = ""
    """Why it is shown: its place in the ranking of its verdict."""
    density: Number
    n_tokens: int
    """Held-out tokens at which it fires."""
    n_documents: int
    """Held-out documents in which it fires."""
    mean_activation: Number
    """Mean over the tokens where it fires."""
    max_activation: Number
    token_share: Number = float("nan")
    token_share_interval: Interval | None = None
    recurrence: Number = float("nan")
    """Best correlation with a latent of another seed on the same network."""
    read_norm: Number = float("nan")
    write_norm: Number = float("nan")
    read_write_cosine: Number = float("nan")
    nearest: tuple[Neighbour, ...] = ()
    """Best match in each other seed and each control, by correlation over the same held-out tokens."""
    neighbours: tuple[Neighbour, ...] = ()
    """Nearest latents of the same dictionary, by write cosine and by co-firing."""
    histogram: Histogram | None = None
    """Of its non-zero activations."""
    top_tokens: tuple[TokenWeight, ...] = ()
    """The first tokens by mean activation."""
    n_listed: int = 0
    """How many tokens could be listed: it fires on them, and they occur often enough."""
    top_logits: tuple[TokenWeight, ...] = ()
    """Highest direct logit effects of its write direction (nothing in between, no final norm)."""
    bottom_logits: tuple[TokenWeight, ...] = ()
    contexts: tuple[Context, ...] = ()
