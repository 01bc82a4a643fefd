"""Site statistics against the plain formulas, and exact under any way of cutting the data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyseme.activations.statistics import SiteStatistics, site_means, site_statistics
from polyseme.core.errors import InputError
from tests.activations.fakes import NAMES, FakeNetwork, make_windows


@pytest.mark.parametrize("batch_windows", [1, 3, 100])
def test_statistics_are_those_of_the_counted_tokens(batch_windows):
    windows, network = make_windows(n_documents=5), FakeNetwork()
    found = site_statistics(network, windows, NAMES, batch_windows=batch_windows)
    for name, site in NAMES.items():
        places = zip(*np.nonzero(~windows.special), strict=True)
        x = torch.stack([network.vector(site, windows.tokens[r], int(c)) for r, c in places]).double()
        s = found[name]
        assert s.n == len(x) == windows.n_tokens
        torch.testing.assert_close(s.mean, x.mean(0), rtol=1e-12, atol=1e-12)
        assert s.total_variance == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-12)
        assert s.mean_squared_norm == pytest.approx(float(x.square().sum(1).mean()), rel=1e-12)
        assert s.max_norm == pytest.approx(float(x.norm(dim=1).max()), rel=1e-12)
    for name, mean in site_means(network, windows, NAMES, batch_windows=batch_windows).items():
        assert torch.equal(mean, found[name].mean.float())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20), st.floats(-1e4, 1e4))
def test_merging_is_the_statistics_of_both(seed, n, m, offset):
    x = torch.randn(n + m, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset
    merged, whole = SiteStatistics.of(x[:n]).merge(SiteStatistics.of(x[n:])), SiteStatistics.of(x)
    assert merged.n == whole.n
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-10, atol=1e-10)
    assert merged.scatter == pytest.approx(whole.scatter, rel=1e-6, abs=1e-9)
    assert merged.squared_norms == pytest.approx(whole.squared_norms, rel=1e-12)
    assert merged.max_norm == whole.max_norm


def test_a_large_mean_does_not_eat_the_variance():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
    shifted = SiteStatistics.of(x[:500] + 1e6).merge(SiteStatistics.of(x[500:] + 1e6))
    assert shifted.total_variance == pytest.approx(SiteStatistics.of(x).total_variance, rel=1e-6)


def test_no_token_is_an_error():
    windows = make_windows(n_documents=2)
    windows.special[:] = True
    with pytest.raises(InputError, match="no token that counts"):
        site_means(FakeNetwork(), windows, NAMES)
