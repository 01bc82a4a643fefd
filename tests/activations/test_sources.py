"""Every source keeps one contract: each token once an epoch, in an order that no starting point changes."""

import weakref
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from threading import Event, Timer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.activations.config import HarvestConfig
from polyseme.activations.disk import harvest_to_disk
from polyseme.activations.firings import encode_windows
from polyseme.activations.live import LiveSource
from polyseme.activations.memory import TensorSource
from polyseme.activations.schedule import Schedule
from polyseme.activations.source import ActivationSource
from polyseme.activations.statistics import site_statistics
from polyseme.core.binding import Binding
from polyseme.core.errors import InputError
from polyseme.core.site import Site
from polyseme.evaluation.lookup import learn_lookup
from tests.activations.fakes import NAMES, SITES, WIDTHS, FakeNetwork, make_windows, same

CONFIG = HarvestConfig(block_tokens=48, batch_windows=2, prefetch=False, seed=5)  # three groups of two windows a block
WINDOWS = make_windows(n_documents=14)


def in_memory() -> TensorSource:
    live = LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG)
    everything = next(live.batches(live.n_tokens))
    return TensorSource(
        everything.acts,
        token=everything.token,
        document=everything.document,
        position=everything.position,
        seed=3,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, ActivationSource]:
    live = LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG)
    return {
        "live": live,
        "ahead": LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG.model_copy(update={"prefetch": True})),
        "disk": harvest_to_disk(FakeNetwork(), WINDOWS, NAMES, CONFIG, tmp_path_factory.mktemp("shards")),
        "memory": in_memory(),
    }


KINDS = ("live", "ahead", "disk", "memory")
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_a_source_says_what_it_gives(sources, kind):
    source = sources[kind]
    assert isinstance(source, ActivationSource)
    assert source.sites == ("shallow", "deep")
    assert source.widths == {"shallow": 4, "deep": 6}
    assert source.n_tokens == WINDOWS.n_tokens
    assert len(source.fingerprint) == 64


@kinds
def test_an_epoch_gives_every_counted_token_once_and_no_special_one(sources, kind):
    source = sources[kind]
    counted = ~WINDOWS.special
    expected = Counter(zip(WINDOWS.tokens[counted].tolist(), WINDOWS.document[counted].tolist(), strict=True))
    rows = list(source.batches(1, stop=2 * source.n_tokens))
    for epoch in (rows[: source.n_tokens], rows[source.n_tokens :]):
        assert Counter((int(b.token), int(b.document)) for b in epoch) == expected
    first, second = ([int(b.token) for b in rows[i : i + source.n_tokens]] for i in (0, source.n_tokens))
    assert first != second


@kinds
def test_vectors_and_ids_belong_together_at_every_site(sources, kind):
    network = FakeNetwork()
    by_place = {}
    for row in range(len(WINDOWS)):
        for column in np.flatnonzero(~WINDOWS.special[row]):
            key = (WINDOWS.tokens[row, column], WINDOWS.document[row, column], column)
            vectors = tuple(network.vector(site, WINDOWS.tokens[row], int(column)) for site in NAMES.values())
            by_place.setdefault(key, []).append(vectors)
    for batch in sources[kind].batches(17, stop=12):
        assert len(batch) == 17
        for i in range(17):
            key = (int(batch.token[i]), int(batch.document[i]), int(batch.position[i]))
            # All sites at once: a row whose sites came from different tokens would match no place.
            assert any(
                all(torch.equal(batch.acts[name][i], v) for name, v in zip(NAMES, vectors, strict=True))
                for vectors in by_place[key]
            )


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    batch_size=st.integers(1, 70),
    start=st.integers(0, 12),
    length=st.integers(1, 4),
)
def test_batches_do_not_depend_on_the_start(sources, kind, batch_size, start, length):
    source = sources[kind]
    whole = list(islice(source.batches(batch_size, stop=start + length), start, None))
    resumed = list(source.batches(batch_size, start=start, stop=start + length))
    endless = list(islice(source.batches(batch_size, start=start), length))
    assert len(whole) == len(resumed) == length
    assert all(len(batch) == batch_size for batch in whole)
    assert all(same(a, b) and same(a, c) for a, b, c in zip(whole, resumed, endless, strict=True))


@pytest.mark.parametrize("other", ["ahead", "disk"])
def test_disk_and_prefetch_give_the_bits_of_the_live_source(sources, other):
    n = 3 * WINDOWS.n_tokens // 19 + 1  # over three epochs
    pairs = zip(sources["live"].batches(19, stop=n), sources[other].batches(19, stop=n), strict=True)
    assert all(same(a, b) for a, b in pairs)
    assert sources[other].fingerprint == sources["live"].fingerprint


@kinds
def test_batches_are_float32_copies_the_consumer_may_change(sources, kind):
    batches = sources[kind].batches(8, stop=2)
    first = next(batches)
    assert all(acts.dtype == torch.float32 for acts in first.acts.values())
    for acts in first.acts.values():
        acts.fill_(torch.nan)
    assert all(acts.isfinite().all() for batch in batches for acts in batch.acts.values())
    assert not same(next(sources[kind].batches(8)), first)


@kinds
def test_nothing_is_asked_for_and_nothing_comes(sources, kind):
    assert list(sources[kind].batches(4, start=3, stop=3)) == []
    with pytest.raises(InputError, match="batch of 0 rows"):
        next(sources[kind].batches(0))


def test_a_batch_mixes_documents_and_windows():
    windows = make_windows(n_documents=60, longest=40)
    config = HarvestConfig(block_tokens=8 * 64, batch_windows=4, prefetch=False)
    batch = next(LiveSource(FakeNetwork(), windows, NAMES, config).batches(64))
    assert len(batch.document.unique()) > 15


def test_seed_and_sizes_change_the_order_and_the_fingerprint():
    def source(**change) -> LiveSource:
        return LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG.model_copy(update=change))

    base = source()
    for change in ({"seed": 6}, {"block_tokens": 16}, {"batch_windows": 5}):
        other = source(**change)
        assert other.fingerprint != base.fingerprint
        assert not same(next(other.batches(30)), next(base.batches(30)))
    assert source(prefetch=True).fingerprint == base.fingerprint
    assert source(shard_dtype="float16").fingerprint == base.fingerprint  # it writes no shard
    fewer = LiveSource(FakeNetwork(), WINDOWS, {"shallow": SITES[0]}, CONFIG)
    assert fewer.fingerprint != base.fingerprint


@pytest.mark.parametrize(
    ("row_bytes", "device", "windows"),
    [
        (4 * 896, "cpu", 8),
        (4 * 1536, "cpu", 8),
        (4 * 3072, "cpu", 4),
        (4 * 64, "cpu", 8),
        (2**24, "cpu", 1),
        (4 * 1536, "meta", 64),
        (4 * 16_384, "meta", 16),
    ],
)
def test_a_pass_is_as_large_as_its_widest_tensor_allows(row_bytes, device, windows):
    network = FakeNetwork()
    network.row_bytes, network.device = row_bytes, torch.device(device)
    rows = make_windows(context=256)
    chosen = LiveSource(network, rows, NAMES, HarvestConfig())
    assert chosen.batch_windows == windows
    assert chosen.fingerprint == LiveSource(network, rows, NAMES, HarvestConfig(batch_windows=windows)).fingerprint
    assert chosen.fingerprint != LiveSource(network, rows, NAMES, HarvestConfig(batch_windows=3)).fingerprint


@pytest.mark.parametrize(
    "read",
    [
        lambda network, rows: site_statistics(network, rows, NAMES),
        lambda network, rows: list(encode_windows(network, rows, {}, sites=SITES)),
        lambda network, rows: learn_lookup(network, rows, rows, [Binding.at(site) for site in SITES]),
    ],
    ids=["statistics", "held-out vectors", "look-up"],
)
def test_every_pass_over_windows_is_as_small_as_a_wide_network_needs(read):
    network, rows = FakeNetwork(), make_windows(n_documents=20)
    network.row_bytes = 2**24
    assert len(rows) > 16
    read(network, rows)
    assert [len(tokens) for tokens in network.inputs] == [1] * len(rows)


def test_a_pass_is_no_larger_than_a_block():
    assert LiveSource(FakeNetwork(), WINDOWS, NAMES, HarvestConfig(block_tokens=40)).batch_windows == 4
    assert LiveSource(FakeNetwork(), WINDOWS, NAMES, HarvestConfig(block_tokens=3)).batch_windows == 1


def test_all_sites_come_from_one_pass_a_group():
    network = FakeNetwork()
    source = LiveSource(network, WINDOWS, NAMES, CONFIG)
    list(source.batches(source.n_tokens, stop=1))
    assert network.passes == -(-len(WINDOWS) // 2)
    assert network.windows_read == len(WINDOWS)


def test_starting_late_runs_only_the_block_it_starts_in():
    network = FakeNetwork()
    source = LiveSource(network, WINDOWS, NAMES, CONFIG)
    next(source.batches(10, start=7 * source.n_tokens // 10))
    assert network.windows_read <= 2 * 6  # two blocks of six windows at the most


class Watched(FakeNetwork):
    """Counts the rows it gave out that are still alive."""

    alive = most = 0

    def read(self, inputs, sites):
        read = super().read(inputs, sites)
        rows = inputs.numel()
        self.alive += rows
        self.most = max(self.most, self.alive)
        weakref.finalize(read[sites[0]], self._gone, rows)
        return read

    def _gone(self, rows: int) -> None:
        self.alive -= rows


def test_no_more_than_a_block_and_a_batch_is_held():
    windows = make_windows(n_documents=300)
    network = Watched()
    source = LiveSource(network, windows, NAMES, CONFIG)
    rooms = []
    room = source.room
    source.room = lambda: rooms.append(room()) or rooms[-1]
    for _ in source.batches(50, stop=40):
        pass
    assert network.most <= 2 * 2 * 8  # a pass of two windows, and the one before while it is replaced
    assert len(rooms) == 1
    assert all(len(rows) <= CONFIG.block_tokens for rows in rooms[0].acts.values())
    assert source.schedule.n_blocks > 30  # of a corpus many times larger


def test_prefetching_holds_two_blocks_and_ends_its_thread():
    import threading

    source = LiveSource(FakeNetwork(), WINDOWS, NAMES, CONFIG.model_copy(update={"prefetch": True}))
    rooms = []
    room = source.room
    source.room = lambda: rooms.append(room()) or rooms[-1]
    batches = source.batches(7)
    for _ in range(20):
        next(batches)
    assert len(rooms) == 2
    batches.close()
    assert not any("polyseme-prefetch" in thread.name for thread in threading.enumerate())


class Failing(FakeNetwork):
    def read(self, inputs, sites):
        if self.passes == 4:
            raise InputError("the network broke")
        return super().read(inputs, sites)


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_failing_pass_reaches_the_consumer(prefetch):
    source = LiveSource(Failing(), WINDOWS, NAMES, CONFIG.model_copy(update={"prefetch": prefetch}))
    with pytest.raises(InputError, match="the network broke"):
        list(source.batches(10, stop=50))


def test_vectors_that_are_not_finite_or_not_per_token_are_refused():
    network = FakeNetwork()
    network.tables[SITES[1]][7, 2] = torch.inf
    with pytest.raises(InputError, match=r"not finite.*layers\.1"):
        list(LiveSource(network, WINDOWS, NAMES, CONFIG).batches(10, stop=30))

    for table in network.tables.values():
        table.fill_(1e38)  # any three of these vectors' numbers have a sum that is not
    assert len(list(LiveSource(network, WINDOWS, NAMES, CONFIG).batches(10, stop=3))) == 3

    class Pooled(FakeNetwork):
        def read(self, inputs, sites):
            return {site: vectors[:, 0] for site, vectors in super().read(inputs, sites).items()}

    with pytest.raises(InputError, match="not one vector a token"):
        next(LiveSource(Pooled(), WINDOWS, NAMES, CONFIG).batches(10))


def test_a_network_that_looks_ahead_never_sees_padding():
    class Ahead(FakeNetwork):
        causal = False

        def read(self, inputs, sites):
            self.seen = [*getattr(self, "seen", []), tuple(inputs.shape)]
            read = super().read(inputs, sites)
            return {site: vectors + inputs.sum(1)[:, None, None] for site, vectors in read.items()}

    windows = make_windows(n_documents=5, seed=3)
    lengths = (windows.document >= 0).sum(1)
    assert lengths[-1] < 8
    network = Ahead()
    source = LiveSource(network, windows, NAMES, CONFIG)
    batch = next(source.batches(source.n_tokens))
    assert (2, 8) in network.seen
    assert (1, int(lengths[-1])) in network.seen
    plain = FakeNetwork()
    expected = [
        float(plain.vector(SITES[0], windows.tokens[r], int(c))[0] + windows.tokens[r, : lengths[r]].sum())
        for r, c in zip(*np.nonzero(~windows.special), strict=True)
    ]
    assert sorted(batch.acts["shallow"][:, 0].tolist()) == pytest.approx(sorted(expected), abs=1e-4)


def test_no_site_and_no_token_are_refused():
    with pytest.raises(InputError, match="no site"):
        LiveSource(FakeNetwork(), WINDOWS, {}, CONFIG)
    empty = make_windows(n_documents=2)
    empty.special[:] = True
    with pytest.raises(InputError, match="no token that counts"):
        LiveSource(FakeNetwork(), empty, NAMES, CONFIG)
    with pytest.raises(InputError, match="x 3, token 3, document 2"):
        TensorSource({"x": torch.zeros(3, 2)}, document=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="needs rows"):
        TensorSource({})


def test_the_config_builds_what_it_says(tmp_path):
    stream = CONFIG.build(FakeNetwork(), WINDOWS, NAMES)
    disk = CONFIG.model_copy(update={"cache": "disk"}).build(FakeNetwork(), WINDOWS, NAMES, folder=tmp_path)
    assert same(next(stream.batches(20)), next(disk.batches(20)))
    assert (tmp_path / "harvest.json").exists()
    assert not isinstance(disk, LiveSource)
    with pytest.raises(InputError, match="needs a folder"):
        CONFIG.model_copy(update={"cache": "disk"}).build(FakeNetwork(), WINDOWS, NAMES)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    per_block=st.integers(1, 8),
    span=st.tuples(st.integers(0, 150), st.integers(1, 80)),
)
def test_a_walk_covers_exactly_the_rows_asked_for(rows, per_block, span):
    schedule = Schedule(np.array(rows), per_block, seed=1)

    def rows_of(blocks) -> Iterator[tuple[int, int, int]]:
        for block in blocks:
            order = schedule.permutation(block).tolist()
            assert sorted(order) == list(range(block.n_rows))
            assert block.n_rows == sum(rows[g] for g in block.groups) <= schedule.capacity
            assert len(block.groups) <= per_block
            yield from ((block.epoch, block.index, row) for row in order[block.skip :])

    start, length = span
    stop = start + length
    everything = list(islice(rows_of(schedule.walk(0, stop)), start, stop))
    assert list(islice(rows_of(schedule.walk(start, stop)), length)) == everything
    assert len(everything) == length
    for epoch in range(2):
        groups = [g for block in schedule.blocks(epoch) for g in block.groups]
        assert sorted(groups) == list(range(len(rows)))


def test_widths_come_from_the_network():
    source = LiveSource(FakeNetwork(), WINDOWS, {"only": Site(path="layers.1")}, CONFIG)
    assert source.widths == {"only": WIDTHS[SITES[1]]}


def test_a_block_nobody_waits_for_is_given_up_after_a_pass():
    class Watched(FakeNetwork):
        def __init__(self):
            super().__init__()
            self.is_second, self.may_go_on = Event(), Event()

        def read(self, inputs, sites):
            if self.passes == n_groups + 1:  # within the second block, which is loaded ahead
                self.is_second.set()
                assert self.may_go_on.wait(60)
            return super().read(inputs, sites)

    network = Watched()
    windows = make_windows(n_documents=40)
    config = CONFIG.model_copy(update={"block_tokens": 400, "prefetch": True})
    source = LiveSource(network, windows, NAMES, config)
    n_groups = source.schedule.groups_per_block
    assert n_groups > 20
    batches = source.batches(4)
    next(batches)
    assert network.is_second.wait(60)
    Timer(0.2, network.may_go_on.set).start()  # while the source is being closed
    batches.close()
    assert n_groups < network.passes <= n_groups + 2
