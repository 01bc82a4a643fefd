"""What a hostile reviewer would try on the embedded network: minutes each, run by `make check-slow`.

Finished stages are kept in `.attacks`, or in the folder that `POLYSEME_ATTACKS` names, so that a killed run goes on.
"""

import pytest

from polyseme.core.records import AXES
from tests.attacks import attacks

pytestmark = pytest.mark.long


@pytest.mark.parametrize("what", attacks.NOTHING_LEARNED)
def test_where_nothing_was_learned_no_latent_is_a_network_feature(what: str) -> None:
    table = attacks.study(what).latents()
    assert attacks.shares(table)["network_feature"] <= 0.01
    assert attacks.answered(table)["used"] <= 0.05
    assert (table["used"] != "unknown").mean() > 0.4, "it must have been asked"


def test_random_write_directions_are_not_used() -> None:
    for own, replaced in attacks.random_write_directions().values():
        assert own > 50, "there must be something to lose"
        assert replaced <= 0.05 * own


@pytest.mark.parametrize("pair", attacks.PAIRS)
def test_another_draw_of_everything_keeps_the_answers(pair: str) -> None:
    """Each answer is kept; a set of few latents that are cut out of many is not the same (docs/verdicts.md)."""
    found = attacks.redrawn(pair)
    for axis in AXES:
        # The aim is 0.9, and the error of a share of 1,800 latents 0.007: found 0.8997 to 0.950.
        assert attacks.one(found, axis, "kept") >= 0.88, axis
    assert attacks.one(found, "network_feature", "stable, kept") >= 0.7
    assert attacks.one(found, "network_feature", "Jaccard") >= 0.5


@pytest.mark.parametrize("less", attacks.LESS)
def test_half_of_what_is_measured_with_moves_no_share_by_five_points(less: str) -> None:
    whole, half = (attacks.shares(attacks.study(which).latents()) for which in ("as it is", less))
    for status, share in whole.items():
        assert abs(share - half[status]) < 0.05, status


def test_nulls_of_the_text_are_no_veto() -> None:
    """What their dictionaries predict is shown, and no answer rests on it."""
    without, with_text = attacks.study("as it is").latents(), attacks.study("text nulls").latents()
    assert list(with_text["status"]) == list(without["status"])
