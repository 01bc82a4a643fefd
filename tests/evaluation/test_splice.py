"""Known answers and invariances of patched and ablated passes."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.records import MetricRecord
from polyseme.corpora.pack import Windows
from polyseme.evaluation.splice import splice, splice_sums
from polyseme.networks import load_network
from tests.evaluation.fakes import (
    AT_FIRST,
    AT_SECOND,
    FIRST,
    SECOND,
    VOCABULARY,
    WIDTH,
    Constant,
    FakeNetwork,
    Identity,
    Linear,
    counted,
    fluent_windows,
    make_windows,
)
from tests.tiny import tiny_gpt2

MEANS = {site: counted(FakeNetwork(), fluent_windows(), site).mean(0) for site in (FIRST, SECOND)}
Key = tuple[str, str]


def measure(chosen, windows=None, network=None, means=None, **options) -> dict[Key, MetricRecord]:
    """(metric with its ablation, where) to record."""
    found = splice(
        network or FakeNetwork(), windows or fluent_windows(), {"s": chosen}, means or MEANS, n_resamples=100, **options
    )
    return {
        (" ".join(filter(None, [r.name, str(r.scope.get("ablation", ""))])), str(r.scope["site"])): r
        for r in found["s"]
    }


def value(found: dict[Key, MetricRecord], name: str, site: str = "joint") -> float:
    return found[name, site].value


def test_the_identity_patches_bit_for_bit():
    found = measure({AT_FIRST: Identity(), AT_SECOND: Identity()})
    for site in ("first.out", "second.out", "joint"):
        assert value(found, "ce_patched", site) == value(found, "ce_clean", site)
        assert value(found, "kl", site) == 0
        assert value(found, "ce_increase", site) == 0
        assert value(found, "ce_recovered zero", site) == 1
        assert value(found, "ce_recovered mean", site) == 1
    assert value(found, "ce_interaction") == 0


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_dictionary_that_says_nothing_is_the_ablation(ablation: str):
    constants = {site: torch.zeros(WIDTH) if ablation == "zero" else mean for site, mean in MEANS.items()}
    found = measure({Binding.at(site): Constant(vector) for site, vector in constants.items()})
    for site in ("first.out", "second.out", "joint"):
        assert value(found, "ce_patched", site) == value(found, f"ce_{ablation}", site)
        assert value(found, f"ce_recovered {ablation}", site) == 0
    assert value(found, "kl") > 0


def by_hand(network: FakeNetwork, windows: Windows, edits) -> tuple[float, np.ndarray, Tensor]:
    """CE at every target that counts, one loop over tokens."""
    logits = network.run(torch.from_numpy(windows.tokens).long(), edits=edits).logits
    losses, documents, rows = [], [], []
    for w in range(len(windows)):
        for p in range(windows.tokens.shape[1] - 1):
            if not windows.special[w, p + 1]:
                losses.append(float(cross_entropy(logits[w, p], torch.tensor(int(windows.tokens[w, p + 1])))))
                documents.append(int(windows.document[w, p + 1]))
                rows.append(logits[w, p].log_softmax(-1))
    return float(np.mean(losses)), np.array(documents), torch.stack(rows)


@pytest.mark.parametrize("prefix", [0, None])
def test_every_ce_is_the_one_computed_token_by_token(prefix: int | None):
    network, windows, dictionary = FakeNetwork(), fluent_windows(prefix=prefix), Linear()
    special = torch.from_numpy(windows.special)

    def patch(x: Tensor) -> Tensor:
        return torch.where(
            special[..., None], x, dictionary.decode(dictionary.encode(x.reshape(-1, 6))).reshape(x.shape)
        )

    found = measure({AT_FIRST: dictionary}, windows, network)
    clean, documents, clean_rows = by_hand(network, windows, {})
    patched, _, patched_rows = by_hand(network, windows, {FIRST: patch})
    zero, _, _ = by_hand(network, windows, {FIRST: lambda x: torch.where(special[..., None], x, 0.0)})
    assert value(found, "ce_clean") == pytest.approx(clean, rel=1e-6)
    assert value(found, "ce_patched") == pytest.approx(patched, rel=1e-6)
    assert value(found, "ce_zero") == pytest.approx(zero, rel=1e-6)
    assert value(found, "ce_recovered zero") == pytest.approx((zero - patched) / (zero - clean), rel=1e-5)
    kl = (clean_rows.exp() * (clean_rows - patched_rows)).sum(-1).mean()
    assert value(found, "kl") == pytest.approx(float(kl), rel=1e-5)
    assert found["kl", "joint"].n == len(documents)
    if prefix is None:  # nothing stands before the first token of a window; with BOS every token is a target
        assert len(documents) == windows.n_tokens - len(windows)
    else:
        assert len(documents) == windows.n_tokens


def test_the_sums_belong_to_the_targets_document():
    network, windows = FakeNetwork(), make_windows()
    _, documents, _ = by_hand(network, windows, {})
    entry = splice_sums(network, windows, {"s": {AT_FIRST: Linear()}}, MEANS)["s"][0]
    assert entry.sums[:, 0].tolist() == [int((documents == d).sum()) for d in entry.documents]


def test_every_ce_travels_with_a_ce_recovered():
    record = measure({AT_FIRST: Linear()})["ce_recovered zero", "joint"]
    parts = record.details
    assert record.value == pytest.approx(
        (parts["ce_zero"] - parts["ce_patched"]) / (parts["ce_zero"] - parts["ce_clean"])
    )
    assert "special tokens" in parts["edited"]


def test_one_site_alone_is_its_own_joint():
    network = FakeNetwork()
    found = measure({AT_FIRST: Linear()}, network=network, batch_windows=1)
    assert value(found, "ce_interaction") == 0
    for name, site in found:
        if site == "joint" and name != "ce_interaction":
            assert value(found, name) == value(found, name, "first.out")
    assert network.passes == 4 * len(fluent_windows())  # clean, zero, mean, patched: joint costs no pass of its own


def test_the_interaction_is_what_the_single_patches_do_not_explain():
    found = measure({AT_FIRST: Linear(), AT_SECOND: Linear(seed=1)})
    single = value(found, "ce_increase", "first.out") + value(found, "ce_increase", "second.out")
    assert value(found, "ce_interaction") == pytest.approx(value(found, "ce_increase") - single, rel=1e-9)
    assert found["ce_interaction", "joint"].interval.low < found["ce_interaction", "joint"].interval.high
    assert value(found, "ce_increase") != pytest.approx(single)


def test_two_seeds_share_the_clean_and_ablated_passes():
    network, windows = FakeNetwork(), fluent_windows(3)
    sets = {
        "seed 0": {AT_FIRST: Linear(), AT_SECOND: Linear(seed=1)},
        "seed 1": {AT_FIRST: Linear(seed=2), AT_SECOND: Linear(seed=3)},
    }
    found = splice(network, windows, sets, MEANS, batch_windows=1, n_resamples=10)
    assert network.passes == len(windows) * (1 + 2 * 3 + 2 * 3)
    alone = splice(FakeNetwork(), windows, {"seed 1": sets["seed 1"]}, MEANS, n_resamples=10)
    assert [r.value for r in found["seed 1"]] == pytest.approx([r.value for r in alone["seed 1"]], rel=1e-6)


def test_the_split_into_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    chosen = {AT_FIRST: Linear(), AT_SECOND: Linear(seed=1)}
    few, many = measure(chosen, batch_windows=3), measure(chosen, batch_windows=100)
    monkeypatch.setattr(import_module("polyseme.evaluation.passes"), "LOGITS_BYTES", 1)
    tight = measure(chosen, batch_windows=100)
    for key in few:
        assert [few[key].value, tight[key].value] == pytest.approx([many[key].value] * 2, rel=1e-6)


def test_rotating_the_first_site_and_its_dictionary_changes_nothing():
    """Patches act on what the site holds, not on its basis."""
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5)))[0]

    class Rotated(Linear):
        def encode(self, x):
            return super().encode(x @ rotation.T)

        def decode(self, z):
            return super().decode(z) @ rotation

    def outside(edit):
        return lambda x: edit(x @ rotation) @ rotation.T

    class RotatedNetwork(FakeNetwork):
        def _forward(self, tokens, edits):
            return super()._forward(tokens, {site: outside(edit) for site, edit in edits.items()})

    plain = measure({AT_FIRST: Linear()})
    rotated = measure({AT_FIRST: Rotated()}, network=RotatedNetwork(), means={FIRST: MEANS[FIRST] @ rotation})
    for key in plain:
        assert rotated[key].value == pytest.approx(plain[key].value, rel=1e-4, abs=1e-6)


def test_blocks_run_once_for_all_passes_give_the_ces_of_whole_passes_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    network = load_network(tiny_gpt2())
    windows = make_windows()
    sites = [network.site(name) for name in ("blocks.0.resid_post", "blocks.1.mlp_out", "blocks.1.resid_post")]
    sets = {
        f"seed {i}": {Binding.at(site): Linear(seed=9 * i + j, d=16) for j, site in enumerate(sites)} for i in range(2)
    }
    means = {site: torch.randn(16, generator=torch.Generator().manual_seed(i)) for i, site in enumerate(sites)}

    def measured() -> dict[str, list[np.ndarray]]:
        found = splice_sums(network, windows, sets, means, batch_windows=3)
        return {name: [entry.sums for entry in entries] for name, entries in found.items()}

    assert [network.width(site) for site in sites] == [16] * 3  # measured by passes of their own
    assert network.predicts_tokens  # measured too
    started: list[int] = []
    network.module.transformer.h[0].ln_1.register_forward_hook(lambda *_: started.append(0))
    begun = measured()
    n_begun = len(started)
    monkeypatch.setattr(type(network), "prefix", lambda *_: None)
    whole = measured()
    assert len(started) - n_begun == n_begun * (1 + 2 * 4 + 2 * 4)  # clean, two ablations, two seeds; joint counts
    assert begun.keys() == whole.keys()
    for name in begun:
        for one, other in zip(begun[name], whole[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_encoder_has_no_ce():
    found = measure({AT_FIRST: Linear()}, network=FakeNetwork(predicts_tokens=False))
    for record in found.values():
        assert math.isnan(record.value)
        assert "not measured" in record.details["note"]


def test_bad_input_is_told_before_any_pass():
    network = FakeNetwork()
    with pytest.raises(InputError, match=r"width 5.*width 6.*first\.out"):
        measure({AT_FIRST: Identity(5)}, network=network)
    with pytest.raises(InputError, match=r"no mean.*second\.out"):
        measure({AT_SECOND: Identity()}, network=network, means={FIRST: MEANS[FIRST]})
    with pytest.raises(InputError, match=r"shape \(5,\).*width 6"):
        measure({AT_FIRST: Identity()}, network=network, means={FIRST: torch.zeros(5)})
    assert network.passes == 0


def test_a_network_that_predicts_no_better_than_a_uniform_guess_has_no_loss_to_recover():
    """Its clean CE is 5.71 nats where ln 20 is 3.00: every ablation helps, and the ratio of two gains says nothing."""
    found = measure({AT_FIRST: Linear()}, make_windows())
    for ablation in ("zero", "mean"):
        record = found[f"ce_recovered {ablation}", "joint"]
        assert math.isnan(record.value)
        assert record.interval is not None
        assert math.isnan(record.interval.low)
        note = record.details["note"]
        assert note.startswith("not measured: the network's own loss of 5.71 [")
        assert note.endswith("is no better than a uniform guess (ln V = 3.00 nats), so there is no loss to recover")
        assert record.details["ce_clean"] == found["ce_clean", "joint"].value
    assert found["ce_clean", "joint"].value > math.log(VOCABULARY)


def test_an_ablation_that_costs_nothing_leaves_nothing_to_recover():
    """A site that always holds its mean, and that nobody reads."""

    class Still(FakeNetwork):
        def _forward(self, tokens, edits):
            found = super()._forward(tokens, {site: edit for site, edit in edits.items() if site == SECOND})
            still = torch.ones_like(found[FIRST])
            return {**found, FIRST: edits[FIRST](still) if FIRST in edits else still}  # nobody reads it

    found = measure({AT_FIRST: Identity()}, network=Still(), means={FIRST: torch.ones(WIDTH)})
    note = found["ce_recovered mean", "joint"].details["note"]
    assert note == "not measured: the ablation costs 0.00 [0.00, 0.00] nats/token, so there is no loss to recover"
