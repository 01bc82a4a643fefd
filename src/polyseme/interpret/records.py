"""What is read of a latent, as data: contexts, tokens, neighbours, a histogram, and all of it beside the verdict.

Text that comes from a corpus or a tokenizer passes through `polyseme.core.text.visible` before it gets here.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator

from polyseme.core import html, numbers
from polyseme.core.config import Record
from polyseme.core.records import AxisResult, Interval, Number, Verdict
from polyseme.core.table import data_frame
from polyseme.core.text import visible

Stratum = Literal["top", "quantile", "random", "near_miss", "silent"]
STRATA: dict[Stratum, str] = {
    "top": "strongest",
    "quantile": "in between",
    "random": "random firings",
    "near_miss": "silent on its own tokens",
    "silent": "random silence",
}
"""How a context was chosen, and what its group is called."""
LEVELS = 6
"""Steps of a token's colour."""
EFFECTS = ("ΔCE", "KL")
"""What ablation does at single tokens, by the name it is shown under."""
SHOWN = 20
"""Records that a notebook shows of many."""
R = TypeVar("R", bound=Record)


class Records(tuple[R, ...]):
    """Records of one kind, which a notebook shows one below the other."""

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row for each and a column for each field.

        Raises:
            InputError: pandas is not installed.
        """
        names = list(type(self[0]).model_fields) if self else []
        return data_frame({name: [getattr(record, name) for record in self] for name in names})

    def __repr__(self) -> str:
        more = [f"… and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([*map(repr, self[:SHOWN]), *more]) or "nothing"

    def _repr_html_(self) -> str:
        more = html.small(html.text(f"{len(self) - SHOWN} more are not shown")) if len(self) > SHOWN else ""
        return html.frame("", *map(_html_of, self[:SHOWN]), more or ("" if self else html.small("nothing")))


def _html_of(record: Any) -> str:
    return record._repr_html_() if hasattr(record, "_repr_html_") else f"<div>{html.text(repr(record))}</div>"


@dataclass(frozen=True)
class Piece:
    """A run of tokens shown alike.

    Attributes:
        text: visible text.
        level: 0 silent, else 1 to `LEVELS` by activation over the latent's greatest.
        title: activation and exact effects of ablation, for the tooltip.
        focus: True for the token the context was chosen for.
    """

    text: str
    level: int
    title: str
    focus: bool


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
    """KL(clean ‖ ablated there) of the next token's prediction, nats; NaN, empty alike."""

    @property
    def activation(self) -> float:
        """The latent's activation at the focus."""
        return self.activations[self.focus]

    @property
    def text(self) -> str:
        """The stretch of text, the focus between « and »."""
        return "".join(f"«{t}»" if i == self.focus else t for i, t in enumerate(self.tokens))

    def pieces(self, greatest: float, *, before: int = 10**9, after: int = 10**9) -> list[Piece]:
        """The tokens, silent neighbours joined; `before` and `after` limit them around the focus."""
        out: list[Piece] = []
        rows = list(zip(self.tokens, self.activations, strict=True))
        start = max(0, self.focus - before)
        for i, (token, activation) in enumerate(rows[start : self.focus + after + 1], start):
            level = _level(activation, greatest)
            focus = i == self.focus
            if not level and not focus and out and not out[-1].level and not out[-1].focus:
                out[-1] = Piece(out[-1].text + visible(token), 0, "", False)
                continue
            title = numbers.short(activation) if level else "silent here" if focus else ""
            effects = [(name, self.effect_at(name, i)) for name in EFFECTS]
            title += "".join(f", {name} {effect}" for name, effect in effects if effect)
            out.append(Piece(visible(token), level, title, focus))
        return out

    def effect_at(self, name: str, token: int) -> str:
        """What ablating the latent at a token did, in nats; nothing where it was not measured."""
        effects = self.loss_effects if name == "ΔCE" else self.kl_effects
        if not effects or math.isnan(effects[token]):
            return ""
        return numbers.signed(effects[token], 2) if name == "ΔCE" else numbers.short(effects[token], 2)

    def line(self, greatest: float) -> str:
        """One line for a notebook, its colours over the latent's greatest activation."""
        marked = "".join(html.marked(p.text, p.level / LEVELS, p.title, focus=p.focus) for p in self.pieces(greatest))
        return html.line(marked, html.number(self.activation), html.text(self.document))

    def _repr_html_(self) -> str:
        return html.frame("", self.line(max((a for a in self.activations if a == a), default=0.0)))

    def __repr__(self) -> str:
        return f"{numbers.short(self.activation):>8}  {visible(self.text)}"

    def __str__(self) -> str:
        return repr(self)


Contexts = Annotated[tuple[Context, ...], AfterValidator(Records[Context])]


def _level(activation: float, greatest: float) -> int:
    if math.isnan(activation) or activation == 0 or not greatest > 0:
        return 0
    return max(1, min(LEVELS, math.ceil(LEVELS * abs(activation) / greatest)))


class TokenWeight(Record):
    """A token with a number beside it: a mean activation or a direct logit effect."""

    token: str
    value: Number
    n: int = 0
    """How often the token occurred, where that matters."""


class Neighbour(Record):
    """Another latent, of the same or another dictionary, and how alike it is."""

    dictionary: str
    """Where it lives: `same`, `seed 1`, `spectrum_reinit`."""
    latent: int | None
    """None where it is the mean over several dictionaries."""
    value: Number
    """Correlation, cosine or co-firing share, by `measure`."""
    measure: Literal["correlation", "write cosine", "co-firing"] = "correlation"


class Size(Record):
    """How much removing a latent changes the predictions; no answer rests on it."""

    name: str
    """`kl`, `loss`, `kl_later`, `loss_later`: KL(clean ‖ ablated) or CE(ablated) − CE(clean) in nats, at the token or
    summed over the predictions after it; `given_token`: the expected effect beyond the same tokens."""
    value: Number
    interval: Interval | None = None
    nulls: tuple[tuple[str, Number], ...] = ()
    """(class of null direction, the same with directions of it in the latent's place)."""


class LatentReport(Record):
    """One latent with the evidence beside it."""

    site: str
    """Name of its dictionary, as in `DictionaryReport.name`."""
    latent: int
    verdict: Verdict
    why: str = ""
    """Why it is shown: its place in the ranking of those with its word."""
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
    """Mean over the other seeds of the correlation with its best match there."""
    sizes: tuple[Size, ...] = ()
    read_norm: Number = float("nan")
    write_norm: Number = float("nan")
    read_write_cosine: Number = float("nan")
    nearest: tuple[Neighbour, ...] = ()
    """Best match in each other seed, and the mean best match in the dictionaries of each kind of null: chosen on train
    text, correlation on the same held-out tokens."""
    neighbours: tuple[Neighbour, ...] = ()
    """Nearest latents of the same dictionary, by write cosine and by co-firing."""
    histogram: Histogram | None = None
    """Histogram of the non-zero activations."""
    top_tokens: tuple[TokenWeight, ...] = ()
    """The first tokens by mean activation."""
    n_listed: int = 0
    """How many tokens could be listed: it fires on them, and they occur often enough."""
    top_logits: tuple[TokenWeight, ...] = ()
    """Highest direct logit effects of its write direction (nothing in between, no final norm)."""
    bottom_logits: tuple[TokenWeight, ...] = ()
    contexts: Contexts = Records()

    @property
    def by_stratum(self) -> list[tuple[str, Records[Context]]]:
        """The contexts by how they were chosen: what a group is called, and its contexts."""
        groups = [(name, Records(c for c in self.contexts if c.stratum == s)) for s, name in STRATA.items()]
        return [(name, contexts) for name, contexts in groups if contexts]

    @property
    def title(self) -> str:
        """Which latent it is, and its word."""
        return f"{self.site} #{self.latent}: {self.verdict.status.replace('_', ' ')}"

    def __repr__(self) -> str:
        lines = [self.title, *(f"  {name} {value}" for name, value in self._facts if value != "")]
        return "\n".join([*map(visible, lines), *map(repr, self.contexts[:SHOWN])])

    def __str__(self) -> str:
        return repr(self)

    @property
    def _facts(self) -> list[tuple[str, object]]:
        words = [f"{w.token!r}" for w in self.top_tokens[:8]]
        answers = [f"{axis.axis.replace('_', ' ')} {axis.answer}" for axis in self.verdict.axes]
        return [
            ("profile:", ", ".join(answers)),
            ("undecided:", self.verdict.missing),
            ("same word expected in", f"{numbers.percent(self.verdict.frequency)} of repetitions"),
            ("fires at", f"{self.n_tokens:,} tokens in {self.n_documents:,} documents"),
            ("density", numbers.percent(self.density)),
            ("mean activation", numbers.short(self.mean_activation)),
            ("greatest", numbers.short(self.max_activation)),
            ("token share", numbers.short(self.token_share)),
            ("recurrence", numbers.short(self.recurrence)),
            ("most active on", ", ".join(words)),
            ("raises", ", ".join(f"{w.token!r}" for w in self.top_logits[:6])),
            ("lowers", ", ".join(f"{w.token!r}" for w in self.bottom_logits[:6])),
        ]

    def _repr_html_(self) -> str:
        parts = [html.facts((name, value) for name, value in self._facts if value != "")]
        if self.verdict.axes:
            parts.append(html.table(_PROFILE, map(_profile, self.verdict.axes)))
        for name, contexts in self.by_stratum:
            lines = "".join(context.line(self.max_activation) for context in contexts)
            parts.append(f'<div style="margin-top:6px">{html.small(html.text(name))}</div>{lines}')
        if not self.contexts:
            parts.append(html.small(html.text("It fires nowhere on the held-out tokens.")))
        return html.frame(self.title, *parts)


_PROFILE = (
    "axis",
    "answer",
    "value",
    "null",
    "low",
    "high",
    "p corrected",
    "yes in",
    "n",
    "hardest null, or what is missing",
)


def _profile(axis: AxisResult) -> tuple[object, ...]:
    """A row of the profile: the comparison with the hardest null, with the interval of the difference."""
    hardest = axis.comparison
    bounds = hardest.interval if hardest else None
    return (
        axis.axis.replace("_", " "),
        axis.answer,
        hardest.value if hardest else math.nan,
        hardest.null_value if hardest else math.nan,
        bounds.low if bounds else math.nan,
        bounds.high if bounds else math.nan,
        axis.p_corrected,
        "" if math.isnan(axis.frequency) else numbers.percent(axis.frequency),
        f"{axis.n:,} {axis.n_unit}" if axis.n else "",
        axis.missing or axis.hardest,
    )
