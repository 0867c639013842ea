"""The network form of the goodness-of-fit test: toys that have no events."""

from __future__ import annotations

import numpy as np
import pytest

from nuinfer import Events, Features
from nuinfer.anomaly.goodness import NetworkFit, goodness_of_fit
from nuinfer.anomaly.goodness.fitting import _network_test
from nuinfer.anomaly.goodness.rows import Pseudo

SPEC = NetworkFit(steps=100, bound=0.5)


def reference() -> Events:
    """400 events, of which three are expected."""
    return Events({"x": np.random.default_rng(1).normal(size=400)}, weight=np.full(400, 3 / 400))


@pytest.mark.parametrize("rate", [True, False])
def test_statistic_of_no_events(rate: bool) -> None:
    """2 sum_ref w, that of the rate alone, or 0; and the other experiments of a batch are what they are alone."""
    rng = np.random.default_rng(2)
    test = _network_test(SPEC, Features(["x"]), reference(), {}, rate, rng)
    some = rng.poisson(0.05, (1, len(test.rows))).astype(float)
    both = np.concatenate([some, np.zeros_like(some)])
    t = [test(Pseudo(test.rows.weight[None], counts, (), np.zeros((len(counts), 0))), np.random.default_rng(3)).t
         for counts in (both, some)]  # fmt: skip
    assert t[0][1] == pytest.approx(6.0 if rate else 0.0, rel=1e-12)
    assert t[0][0] == pytest.approx(t[1][0], rel=1e-5)
    assert t[1][0] > 0.01


def test_toys_of_no_events() -> None:
    """One in twenty of three expected events."""
    data = Events({"x": np.random.default_rng(4).normal(size=4)})
    found = goodness_of_fit(data, reference(), ["x"], method=SPEC, rate=False, toys=60, seed=1, progress=False)
    assert len(found.toys) == 60
    assert (found.toys == 0).sum() in range(1, 11)
