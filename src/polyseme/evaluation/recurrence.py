"""What other dictionaries make of every latent: those of other seeds, those on null networks, and tables of tokens."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, TypeAdapter

from polyseme.core.config import Config
from polyseme.core.contrast import Contrast, combined, moderated
from polyseme.core.errors import InputError
from polyseme.core.progress import Progress, Silent
from polyseme.core.seeds import derive_seed
from polyseme.corpora import Windows
from polyseme.evaluation.finishes import jackknife_error
from polyseme.evaluation.matches import Cells, Correlations, Judged, Other, Sides
from polyseme.evaluation.tables import table_keys, tables
from polyseme.store import Artifact, save_array, save_json

NEIGHBOURS = 100
"""Random latents of like density that a latent's floor is the 95th percentile of."""
_NAMES = "recurrence.json"
_EVERYWHERE = "all"


class RecurrenceConfig(Config):
    """How latents are matched and predicted."""

    ridge: float = Field(default=0.003, gt=0, le=1e6)
    """Penalty on the weights of a prediction, whose latents are centred and of norm 1 over the train tokens."""
    n_groups: int = Field(default=20, ge=2, le=1000)
    """Groups of held-out documents, each of which is left out once for the errors (jackknife)."""
    chunk_bytes: int = Field(default=100 * 2**20, ge=1, le=2**40)
    """About the largest size, in bytes, of the predictions held in memory at once."""


@dataclass(frozen=True)
class Recurrence:
    """What other dictionaries make of every latent of one dictionary.

    Matches, predictions and tables are learned on train text and measured on held-out text. Tables and dictionaries are
    compared at the tokens that the table knows (`polyseme.evaluation.tables` says why).

    Attributes:
        match: with the single best match in each partner, a dictionary of another seed on the same network and text.
        matched: which latent of the partner that is; −1 where none is known.
        predicted: with the best linear prediction from all latents of each partner.
        nulls: by kind of null, the best linear prediction from all latents of each draw's dictionary.
        null_match: by kind of null, the single best match in each draw's dictionary; shown, and nothing rests on it.
        tables: by name (`token`, `previous token`, `bigram`, `position`), the prediction of a table, at the tokens that
            it knows.
        known: by name of the table, the best linear prediction from each partner at these tokens.
        floor: 95th percentile of `match` for random directions of the site's covariance that fire as often.
        n_documents: held-out documents that each latent fires in.
        of_text: the kinds of null that are of the text; the others are of the network.
    """

    match: Correlations
    matched: Int[np.ndarray, "partner latent"]
    predicted: Correlations
    nulls: Mapping[str, Correlations]
    null_match: Mapping[str, Float[np.ndarray, "draw latent"]]
    tables: Mapping[str, Correlations]
    known: Mapping[str, Correlations]
    floor: Float[np.ndarray, " latent"]
    n_documents: Int[np.ndarray, " latent"]
    of_text: tuple[str, ...] = ()

    def recurrent(self, least: float, in_one: float) -> dict[str, Contrast]:
        """Axis `recurrent`: the mean match over these partners against the larger of `least` and the floor, and against
        that share of what all latents of a partner predict which leaves `in_one` of the variance to the match: r_match
        against √`in_one` r_all. A sum of two features that a partner has apart, or a part of one that it has whole,
        may match above `least`, and falls short of the second.

        Most latents recur in nearly all seeds or in nearly none, and some in about half of them: two partners cannot
        tell how often other seeds would have such a latent, and the mean over seeds at large would need many of them
        to be shown. So the claim is about the partners that there are, and how often others would bear it out is the
        frequency of the answer.
        """
        floor, share = np.maximum(self.floor, least).astype(np.float64), np.sqrt(in_one)
        together = _mean(self.predicted) * share
        apart = Correlations(
            self.match.value - share * self.predicted.value, self.match.without - share * self.predicted.without
        )
        return {
            "random directions": _against_figure(self.match, floor, self.match),
            "several latents together": _against_figure(self.match, together, apart),
        }

    def network(self) -> dict[str, Contrast]:
        """Axis `network`: how much better other seeds predict it than the dictionaries of each kind of null network."""
        of_network = {kind: null for kind, null in self.nulls.items() if kind not in self.of_text}
        return {kind: _against_draws(self.predicted, null) for kind, null in of_network.items()}

    def beyond_tokens(self) -> dict[str, Contrast]:
        """Axis `beyond_tokens`: how much better other seeds predict it than each table does.

        No null of the text is among them. A network computes on shuffled text what it computes on any, so that a
        dictionary trained there predicts latents of distant context nearly as well as another seed's does: on planted
        networks no feature passed it then (`docs/verdicts.md`). What such dictionaries predict is shown.
        """
        return {f"{name} table": _against_table(self.known[name], table) for name, table in self.tables.items()}

    def save(self, folder: Path) -> None:
        """Write `recurrence.json` and an `.npy` file for each array into `folder`."""
        for name, array in {**self._plain(), **self._of_correlations()}.items():
            save_array(folder / f"{name}.npy", array)
        save_json(folder / _NAMES, {"nulls": list(self.nulls), "tables": list(self.tables), "of_text": self.of_text})

    @classmethod
    def load(cls, artifact: Artifact) -> "Recurrence":
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: a file is missing, or not what `save` writes.
        """
        names = artifact.parsed(_NAMES, TypeAdapter(dict[str, list[str]]).validate_python)

        def array(name: str) -> np.ndarray:
            return artifact.array(f"{name}.npy")

        def correlations(name: str) -> Correlations:
            return Correlations(array(f"{name}.value"), array(f"{name}.without"))

        return cls(
            match=correlations("match"),
            matched=array("matched"),
            predicted=correlations("predicted"),
            nulls={kind: correlations(f"null{i}") for i, kind in enumerate(names["nulls"])},
            null_match={kind: array(f"null{i}.match") for i, kind in enumerate(names["nulls"])},
            tables={name: correlations(f"table{i}") for i, name in enumerate(names["tables"])},
            known={name: correlations(f"known{i}") for i, name in enumerate(names["tables"])},
            floor=array("floor"),
            n_documents=array("n_documents"),
            of_text=tuple(names["of_text"]),
        )

    def _plain(self) -> dict[str, np.ndarray]:
        plain = {"matched": self.matched, "floor": self.floor, "n_documents": self.n_documents}
        return plain | {f"null{i}.match": match for i, match in enumerate(self.null_match.values())}

    def _of_correlations(self) -> dict[str, np.ndarray]:
        several = {"null": self.nulls, "table": self.tables, "known": self.known}
        parts = {f"{what}{i}": each for what, named in several.items() for i, each in enumerate(named.values())}
        parts |= {"match": self.match, "predicted": self.predicted}
        return {f"{name}.{of}": getattr(each, of) for name, each in parts.items() for of in ("value", "without")}


def recurrence(
    judged: Sides,
    partners: Iterable[Sides],
    nulls: Mapping[str, Iterable[Sides]],
    random: Sides,
    windows: tuple[Windows, Windows],
    *,
    of_text: Collection[str] = (),
    config: RecurrenceConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Recurrence:
    """What dictionaries of other seeds, dictionaries on nulls, and tables make of every latent of one dictionary.

    A dictionary is held in memory while it is compared: partners and nulls may be read from disk one by one.

    Args:
        judged: the dictionary that is judged.
        partners: dictionaries trained in the same way from other seeds on the same network and text.
        nulls: by kind, the dictionaries trained on each draw of a null network or of a null text.
        random: random latents of all densities (`nulls.random_latents`).
        windows: the train tokens that are learned from, and the held-out tokens.
        of_text: the kinds of null that are of the text.
        config: how they are matched and predicted.
        seed: of the groups of documents.
        progress: receives how many latents are done, each once for every other dictionary and for the tables.

    Raises:
        InputError: the firings do not lie on the same tokens, there are fewer than two held-out documents, or there is
            no partner.
    """
    config = config or RecurrenceConfig()
    _check_same(judged, random, "the random latents")
    keys = table_keys(judged.learn, judged.heldout, windows)
    everywhere = np.ones(judged.heldout.n_tokens, dtype=bool)
    sets = {_EVERYWHERE: everywhere} | {name: of.known for name, of in keys.items()}
    cells = Cells.of(judged.heldout, sets, config.n_groups, derive_seed(seed, "groups of documents"))
    own = Judged(judged, cells, config.chunk_bytes)
    chance = Judged(random, cells, config.chunk_bytes)
    n, progress, done = own.n_latents, progress or Silent(), 0

    def step() -> None:
        nonlocal done
        done += n
        progress.update(done)

    found = dict(tables(own, keys))
    step()
    partnered = _Found()
    by_chance: list[Float[np.ndarray, " random"]] = []
    for given in partners:
        _check_same(judged, given, "a partner")
        other = Other(given, config.chunk_bytes)
        partnered.add(other, own, config.ridge)
        by_chance.append(other.match(chance, other.correlations(chance))[0].value[0])
        step()
    if not by_chance:
        raise InputError("there is no dictionary of another seed", fix="train two seeds or more")
    drawn: dict[str, _Found] = {}
    for kind, draws in nulls.items():
        drawn[kind] = _Found()
        for given in draws:
            _check_same(judged, given, kind)
            drawn[kind].add(Other(given, config.chunk_bytes), own, config.ridge)
            step()
    return Recurrence(
        match=Correlations.joined(partnered.match),
        matched=np.stack(partnered.matched),
        predicted=partnered.predicted(_EVERYWHERE),
        nulls={kind: of_kind.predicted(_EVERYWHERE) for kind, of_kind in drawn.items()},
        null_match={kind: np.concatenate([match.value for match in of_kind.match]) for kind, of_kind in drawn.items()},
        tables=found,
        known={name: partnered.predicted(name) for name in found},
        floor=_floor(judged.learn.densities, random.learn.densities, np.mean(by_chance, axis=0)),
        n_documents=judged.heldout.document_counts,
        of_text=tuple(kind for kind in nulls if kind in of_text),
    )


class _Found:
    """What was found of the judged latents in several dictionaries."""

    def __init__(self) -> None:
        self.match: list[Correlations] = []
        self.matched: list[Int[np.ndarray, " latent"]] = []
        self._predicted: list[dict[str, Correlations]] = []

    def add(self, other: Other, judged: Judged, ridge: float) -> None:
        learn = other.correlations(judged)
        match, matched = other.match(judged, learn)
        self.match.append(match)
        self.matched.append(matched)
        self._predicted.append(other.predict(judged, learn, ridge))

    def predicted(self, name: str) -> Correlations:
        """Predictions at a set of tokens."""
        return Correlations.joined([by_set[name] for by_set in self._predicted])


def _check_same(judged: Sides, given: Sides, name: str) -> None:
    for one, other in ((judged.learn, given.learn), (judged.heldout, given.heldout)):
        if not (np.array_equal(one.window, other.window) and np.array_equal(one.position, other.position)):
            raise InputError(
                "activations can only be correlated over the same tokens",
                where=f"the firings of {name}",
                fix="collect all firings over the same windows",
            )


def _floor(
    densities: Float[np.ndarray, " latent"],
    random: Float[np.ndarray, " random"],
    match: Float[np.ndarray, " random"],
) -> Float[np.ndarray, " latent"]:
    """95th percentile of the matches of the `NEIGHBOURS` random latents of the nearest densities, by rank."""
    known = np.flatnonzero(np.isfinite(match))
    if not len(known):
        return np.full(len(densities), np.nan)
    known = known[np.argsort(random[known], kind="stable")]
    n = min(NEIGHBOURS, len(known))
    high = np.quantile(np.lib.stride_tricks.sliding_window_view(match[known], n), 0.95, axis=1)
    place = np.searchsorted(random[known], densities) - n // 2
    return np.where(densities > 0, high[np.clip(place, 0, len(high) - 1)], np.nan)


def _against_figure(value: Correlations, null: Float[np.ndarray, " latent"], varies: Correlations) -> Contrast:
    """The claim is about these partners, so that held-out documents alone make its error. Other partners may differ:
    the spread over them is in what a repetition gives. Both errors are those of `varies`, the difference but for what
    is the same in all partners."""
    documents = _over_documents(varies.without.mean(axis=0))
    redrawn, _ = combined(_over_dictionaries(varies), documents)
    return Contrast(_mean(value), null, np.sqrt(documents[0]), documents[1], redrawn, reach=1.0)


def _against_table(value: Correlations, table: Correlations) -> Contrast:
    return _contrast(value, table.value[0], value.without.mean(axis=0) - table.without[0], ())


def _against_draws(value: Correlations, null: Correlations) -> Contrast:
    without = value.without.mean(axis=0) - null.without.mean(axis=0)
    return _contrast(value, null.value.mean(axis=0), without, (_over_dictionaries(null),))


def _contrast(
    value: Correlations,
    null: Float[np.ndarray, " latent"],
    without: Float[np.ndarray, "group latent"],
    of_null: tuple[tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]], ...],
) -> Contrast:
    """The mean over dictionaries against a figure of a null.

    The squared error is that of the mean over dictionaries, with that of the null's own mean, and that over held-out
    documents by jackknife: partners, draws and documents are independent of each other.

    Args:
        value: of the partners.
        null: the figure.
        without: the difference with each group of documents left out.
        of_null: squared error of the figure and its freedom, where it is a mean over draws.
    """
    error, freedom = combined(_over_dictionaries(value), *of_null, _over_documents(without))
    return Contrast(_mean(value), null.astype(np.float64), error, freedom, redrawn=error, reach=1.0)


def _mean(found: Correlations) -> Float[np.ndarray, " latent"]:
    """Mean over dictionaries."""
    return found.value.mean(axis=0, dtype=np.float64)


def _over_documents(
    without: Float[np.ndarray, "group latent"],
) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """(squared error over held-out documents by jackknife, its degrees of freedom)."""
    return jackknife_error(without.astype(np.float64)) ** 2, np.full(without.shape[1], len(without) - 1.0)


def _over_dictionaries(found: Correlations) -> tuple[Float[np.ndarray, " latent"], Float[np.ndarray, " latent"]]:
    """(squared error of the mean over dictionaries, its degrees of freedom)."""
    spread = moderated(found.value.astype(np.float64))
    return spread.variance / len(found.value), spread.freedom
