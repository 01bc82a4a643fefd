"""The words and axes of a profile as a report names them, and what each axis asks in one study."""

from collections.abc import Sequence

from polyseme.core.numbers import count, plain
from polyseme.core.records import Answer, Axis, Status
from polyseme.report.schema import Judging
from polyseme.verdicts.words import CHAIN

STATUS_NAMES: dict[Status, str] = {
    "network_feature": "network feature",
    "token_level": "token-level",
    "use_not_shown": "use not shown",
    "not_beyond_nulls": "not shown beyond nulls",
    "not_recurrent": "not shown recurrent",
    "undecided": "undecided",
}
STATUS_HEADS: dict[Status, str] = {
    "network_feature": "network\nfeature",
    "token_level": "token\nlevel",
    "use_not_shown": "use not\nshown",
    "not_beyond_nulls": "not shown\nbeyond\nnulls",
    "not_recurrent": "not shown\nrecurrent",
    "undecided": "undecided",
}
"""The same in lines, for the heads of columns."""
STATUS_SIGNS: dict[Status, str] = {
    "network_feature": "●",
    "token_level": "◆",
    "use_not_shown": "◐",
    "not_beyond_nulls": "□",
    "not_recurrent": "○",
    "undecided": "◌",
}
STATUS_MEANINGS: dict[Status, str] = {
    "network_feature": (
        "Every axis says yes, also when the four are corrected together: it recurs in the dictionaries of other "
        "seeds, it is predicted from them better than from dictionaries of null networks and better than from tables "
        "of tokens, and removing it has the effect that the text leads one to expect, more than removing null "
        "directions has."
    ),
    "token_level": (
        "It recurs, other seeds predict it better than null networks do, and it is used; but it is not shown to be "
        "more than a function of the current and the previous token and the position."
    ),
    "use_not_shown": (
        "It recurs, and other seeds predict it better than null networks do; but removing it is not shown to have the "
        "effect that the text leads one to expect, more than removing null directions has."
    ),
    "not_beyond_nulls": (
        "It recurs; but it is not shown to be predicted better from other seeds' dictionaries than from dictionaries "
        "that were trained on null networks."
    ),
    "not_recurrent": (
        "It is not shown that the dictionaries of other seeds have a latent like it: nothing else was asked for its "
        "word."
    ),
    "undecided": (
        "An axis that its word needs has no answer: too few documents, no null to compare it with, or a null so close "
        "to the largest possible value that nothing could exceed it by enough; or each axis says yes by itself, and "
        "all of them together do not pass the correction. This is no evidence against it."
    ),
}
STATUS_LINES: dict[Status, str] = {
    "network_feature": "recurrent, the network's, beyond tokens and used",
    "token_level": "recurrent, the network's and used, and not shown to be beyond tokens",
    "use_not_shown": "recurrent and the network's, and not shown to be used",
    "not_beyond_nulls": "recurrent, and not shown to be more than null networks give",
    "not_recurrent": "not shown to be found in the dictionaries of other seeds",
    "undecided": "an axis that its word needs has no answer, or its answers do not pass together",
}
"""The same in a line, for the card of a latent."""
ANSWER_SIGNS: dict[Answer, str] = {"yes": "✓", "no": "✗", "unknown": "–"}
ANSWER_NAMES: dict[Answer, str] = {"yes": "yes", "no": "not shown", "unknown": "no answer"}
AXIS_NAMES: dict[Axis, str] = {
    "recurrent": "recurrent",
    "network": "the network's",
    "beyond_tokens": "beyond tokens",
    "used": "used",
}
AXIS_VALUES: dict[Axis, str] = {
    "recurrent": "correlation with the best match in other seeds",
    "network": "correlation of the best linear prediction from other seeds",
    "beyond_tokens": "correlation of the best linear prediction from other seeds",
    "used": "expected effect",
}
"""What the latent's own figure is."""
SIZE_NAMES = {
    "given_token": "Expected effect beyond the same tokens",
    "kl": "KL(clean ‖ ablated) at the token, nats",
    "loss": "CE(ablated) − CE(clean) at the token, nats",
    "kl_later": "KL(clean ‖ ablated) after the token, nats",
    "loss_later": "CE(ablated) − CE(clean) after the token, nats",
}
RULE_AXES: tuple[Axis, ...] = tuple(axis for axis, _ in CHAIN)
"""The axes in the order in which they decide the word."""
RULE_LINES: tuple[tuple[tuple[str, ...], Status], ...] = (
    *(
        (("yes",) * i + (ANSWER_NAMES["no"],) + ("any",) * (len(CHAIN) - 1 - i), status)
        for i, (_, status) in enumerate(CHAIN)
    ),
    (("yes",) * len(CHAIN), "network_feature"),
)
"""The table from profile to word: the answers on `RULE_AXES`, and the word."""


def asked(axis: Axis, judging: Judging) -> str:
    """What an axis says of a latent where it says yes, in a sentence about "it", with what this study tested it on."""
    match axis:
        case "recurrent":
            return (
                f"its correlation with its best match in {_partners(judging)}, chosen on train text and measured on "
                f"held-out text, is more than {plain(judging.recurrence)} and more than that of 95% of random "
                f"directions that fire as often, and the match alone explains more than {plain(100 * judging.in_one)}% "
                "of the variance of it that all latents of such a dictionary explain together"
            )
        case "network":
            return f"{_predicted(judging)} than {_drawn(judging) or 'dictionaries of null networks'}"
        case "beyond_tokens":
            tables = f"a table of {_any(judging.tables)}" if judging.tables else "tables of tokens"
            return f"{_predicted(judging)} than {tables} does"
        case "used":
            firings = f" at up to {count(judging.n_samples)} of its firings" if judging.n_samples else ""
            classes = (
                f" ({count(judging.n_directions)} each: {', '.join(judging.directions)})" if judging.directions else ""
            )
            return (
                f"removing it{firings} moves the predictions the way the text that follows it leads one to expect, "
                f"more than removing null directions of equal norm does{classes}"
            )


def correction(judging: Judging) -> str:
    """What holds for every `yes`."""
    return (
        "Every yes holds against the hardest null, after Benjamini–Hochberg correction over the latents of all sites: "
        f"at most {plain(100 * judging.alpha)}% of the yes of an axis are expected to be false."
    )


def _partners(judging: Judging) -> str:
    n = len(judging.partners)
    return f"the dictionar{'y' if n == 1 else 'ies'} of {count(n)} other seed{'' if n == 1 else 's'}"


def _predicted(judging: Judging) -> str:
    return (
        f"the best linear prediction of it from {_partners(judging)} correlates with it better, by more than "
        f"{plain(judging.margin)},"
    )


def _drawn(judging: Judging) -> str:
    """The best prediction from the dictionaries of the nulls of the weights; nothing where there is none."""
    nulls = [null for null in judging.nulls if null.targets == "weights"]
    if not nulls:
        return ""
    draws = {null.draws for null in nulls}
    names = [null.name if len(draws) == 1 else f"{null.name} ({_draws(null.draws)})" for null in nulls]
    each = f", {_draws(draws.pop())}{' each' if len(nulls) > 1 else ''}" if len(draws) == 1 else ""
    return f"that from the dictionaries of {_any(names)}{each}"


def _draws(n: int) -> str:
    return f"{count(n)} draw{'' if n == 1 else 's'}"


def _any(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
