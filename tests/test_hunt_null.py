"""Background alone: p-values of honest hunts are uniform, those of hunts that score what they trained on are not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nuinfer import nets
from nuinfer.anomaly.bump import Exponential
from nuinfer.anomaly.hunting import Hunt, HuntToys, excess_p, hunt
from nuinfer.anomaly.hunting.classifiers import Crossing, Learner, Scorer
from nuinfer.anomaly.hunting.search import Found, Search
from nuinfer.anomaly.regions import Window, sliding_windows
from nuinfer.anomaly.templates import Cathode, Sidebands
from nuinfer.density import NSF
from nuinfer.events import Events
from nuinfer.nets import Network
from nuinfer.train import Training
from nuinfer.trees import Trees

Floats = NDArray[np.float64]

EFFICIENCIES = [1.0, 0.3, 0.1]
WINDOW = Window(signal=(2.0, 3.0), sidebands=((1.0, 2.0), (3.0, 4.0)))
TREES = Trees(iterations=20, leaves=8, min_leaf=20, patience=None)


def background(n: int, seed: int) -> Events:
    """A Poisson number of events, masses falling as exp(-m / 3) from 0 to 5, and two normal features."""
    rng = np.random.default_rng(seed)
    n = int(rng.poisson(n))
    mass = -3 * np.log1p(-rng.random(n) * -np.expm1(-5 / 3))
    return Events({"m": mass, "x": rng.normal(size=n), "y": rng.normal(size=n)}, id=np.arange(n) + 10**6 * seed)


def search(
    network: Network | Trees, *, crossing: Crossing = "crossed", folds: int = 3,
    windows: tuple[Window, ...] = (WINDOW,), training: Training = Training(epochs=8, batch=256),  # noqa: B008
) -> Search:  # fmt: skip
    validation = 0.0 if isinstance(network, Trees) else 0.2
    learner = Learner(network=network, folds=folds, crossing=crossing, validation=validation, training=training)
    return Search.checked(
        "m", ["x", "y"], windows, background=Exponential(1), template=Sidebands(), learner=learner,
        efficiencies=EFFICIENCIES, range=(0, 5), bins=25, fewest=5, allow_resonance=False,
    )  # fmt: skip


def uniform_p(found: list[Found]) -> Floats:
    """Local p-values (T, W, E) with random shares of P(N = n)."""
    o, e, s = (np.stack([f.table(name) for f in found]) for name in ("observed", "expected", "error"))
    return excess_p(o, e, s, ties="random", seed=1)


def searched(chain: Search, n: int, toys: int, together: int = 8) -> list[Found]:
    found = []
    for first in range(0, toys, together):
        samples = [background(n, seed) for seed in range(first, min(first + together, toys))]
        found += chain.run(samples, seed=first, progress=False)
    return found


class TestHonest:
    def test_events_are_scored_by_networks_that_have_not_seen_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Trees with 20 events a leaf learn their training events by heart: scored by their own trees these are an
        excess of many standard deviations, where there is nothing; out of fold there is none."""
        chain = search(TREES)
        honest = searched(chain, 1500, 40)
        own = Scorer.folds_of
        monkeypatch.setattr(Scorer, "folds_of", lambda self, id: (own(self, id) + 1) % self.resample.folds)
        leaky = searched(chain, 1500, 8)
        z, wrong = (np.stack([f.table("z")[0] for f in found]) for found in (honest, leaky))
        assert (np.abs(z.mean(0)) < 4 / np.sqrt(40)).all()
        assert (z.std(0) < 1 + 4 / np.sqrt(80)).all()
        assert min(stats.kstest(p, "uniform").pvalue for p in uniform_p(honest)[:, 0].T) > 0.001
        assert wrong[:, 1:].mean() > 4  # and with all events there is nothing to choose
        assert abs(wrong[:, 0].mean()) < 4 / np.sqrt(8)

    @pytest.mark.slow
    @pytest.mark.parametrize("network", [TREES, nets.MLP(width=16, depth=2)], ids=["trees", "mlp"])
    @pytest.mark.parametrize(("crossing", "folds"), [("crossed", 3), ("sequential", 5)])
    def test_local_p_is_uniform(self, network: Network | Trees, crossing: Crossing, folds: int) -> None:
        """800 samples of 4,000 events.  Crossed folds without their covariance would have a standard deviation of z of
        1.09 to 1.12 at the efficiencies of 0.1 and 0.3."""
        found = searched(search(network, crossing=crossing, folds=folds), 4000, 800)
        z, p = np.stack([f.table("z")[0] for f in found]), uniform_p(found)[:, 0]
        assert (np.abs(z.mean(0)) < 4 / np.sqrt(800)).all()
        assert (np.abs(z.std(0) - 1) < (0.1 if crossing == "crossed" else 0.075)).all()
        assert 3 * min(stats.kstest(column, "uniform").pvalue for column in p.T) > 0.01  # the smallest of three


class TestToys:
    def test_shuffled(self, tmp_path: Path) -> None:
        """Toys are resumed, saved, and their local p-values uniform; that of the data is one of them."""
        events = background(1500, 99)
        options = {
            "resonance": "m", "features": ["x", "y"], "windows": WINDOW, "background": Exponential(1), "range": (0, 5),
            "bins": 25, "network": TREES, "members": 1, "folds": 3, "seed": 1, "progress": False, "fewest": 5,
            "validation": 0.0, "efficiencies": EFFICIENCIES, "toys": 30,
        }  # fmt: skip
        for source in ("shuffle", "spectrum"):
            found, again = (
                hunt(events, **options, toy_source=source, checkpoint=tmp_path / source)  # type: ignore[arg-type]
                for _ in range(2)
            )
            assert (found.toys.p == again.toys.p).all()
            assert len(found.toys) == 30
            assert "hides" in found.toys.words
            assert stats.kstest(found.toys.p[:, 0, 1], "uniform").pvalue > 0.001
            p = found.global_p
            k = int((found.toys.p.min((1, 2)) <= found.p.min()).sum())
            assert (p.method, p.beyond, p.p) == ("toys", k, (k + 1) / 31)
            local = found.local_p_by_toys()
            assert local[0, 2] == (1 + (found.toys.p[:, 0, 2] <= found.p[0, 2]).sum()) / 31
            found.save(tmp_path / f"{source}.safetensors")
            assert (Hunt.load(tmp_path / f"{source}.safetensors").toys.p == found.toys.p).all()
        assert (found.toys.p[:, 0, 0] < 1).all()  # masses that are drawn fluctuate; those that are permuted do not

    def test_through_an_executor(self) -> None:
        """The same toys wherever they run; those of permuted masses do not tell of an efficiency of 1."""
        options = {
            "resonance": "m", "features": ["x"], "windows": WINDOW, "background": Exponential(1), "range": (0, 5),
            "bins": 25, "network": nets.MLP(width=8, depth=1), "members": 1, "folds": 2, "seed": 1, "progress": False,
            "training": Training(epochs=2, batch=256), "fewest": 5, "efficiencies": [1, 0.2], "toys": 9,
            "toy_source": "shuffle",
        }  # fmt: skip
        events = background(1200, 99)
        events = events.with_columns(m=np.where(np.arange(len(events)) < 120, 2.5, events["m"]))  # a peak without x
        with ThreadPoolExecutor(1) as executor:
            there = hunt(events, **options, executor=executor)  # type: ignore[arg-type]
        here = hunt(events, **options)  # type: ignore[arg-type]
        assert (here.toys.p == there.toys.p).all()
        assert here.toys.tested.tolist() == [[False, True]]
        assert here.best == (0, 0)  # the peak is in the spectrum of all events
        assert here.global_p.efficiency == 0.2
        assert here.sidak().efficiency == 1.0

    def test_of_a_simulation(self) -> None:
        simulation = background(6000, 98).with_weight(0.5)
        found = hunt(
            background(1500, 99), resonance="m", features=["x"], windows=WINDOW, background=Exponential(1), bins=25,
            range=(0, 5), network=TREES, members=1, folds=2, fewest=5, efficiencies=[1, 0.2], seed=1, progress=False,
            toys=20, toy_source="simulation", toy_simulation=simulation,
        )  # fmt: skip
        assert stats.kstest(found.toys.p[:, 0, 0], "uniform").pvalue > 0.001
        with pytest.raises(ValueError, match="toy_simulation: expected none for toys by 'shuffle'"):
            hunt(background(1500, 99), resonance="m", features=["x"], windows=WINDOW, background=Exponential(1),
                 network=TREES, fewest=5, efficiencies=[0.2], seed=1, progress=False, toys=1, toy_source="shuffle",
                 toy_simulation=simulation, members=1, folds=2, range=(0, 5))  # fmt: skip

    @pytest.mark.slow
    def test_of_a_template(self) -> None:
        """Drawn from the flow of the sidebands: features that follow the mass do so in the toys."""
        rng = np.random.default_rng(1)
        events = background(6000, 97)
        short = Training(epochs=5, batch=128)
        moved = events.with_columns(x=events["m"] + rng.normal(size=len(events)))
        found = hunt(
            moved, resonance="m", features=["x"], windows=Window(signal=(2, 3), sidebands=((0.5, 2), (3, 4.5))),
            background=Exponential(1), bins=25, network=TREES, members=1, folds=2, fewest=5, efficiencies=[1, 0.2],
            template=Cathode(shape=Exponential(1), network=NSF(transforms=1, width=16), training=short), seed=1,
            progress=False, toys=5, toy_source="template",
        )  # fmt: skip
        assert len(found.toys) == 5
        assert np.nanmin(found.toys.p) > 1e-4

    def test_a_toy_whose_fit_fails_is_beyond(self) -> None:
        p = np.full((9, 1, 2), 0.5)
        p[3, 0, 1] = np.nan
        toys = HuntToys("shuffle", "", p, p)
        assert toys.smallest[3] == 0.0
        assert toys.failed == 1
        assert toys.smallest.min(initial=1, where=np.arange(9) != 3) == 0.5

    @pytest.mark.slow
    def test_global_p_is_uniform(self, capsys: pytest.CaptureFixture[str]) -> None:
        """200 samples of 20,000 events, three windows, one member, retrained each: their global p-values by 200 toys of
        one more sample are uniform.  The Sidak bound is one.  Prints the table of docs/reference/hunt.md."""
        windows = sliding_windows((0.5, 4.5), width=1, step=0.5, sideband=1)
        network, training = nets.MLP(width=16, depth=2), Training(epochs=8, batch=512, patience=3)
        chain = search(network, windows=windows, training=training, folds=3)
        smallest = np.array([f.table("p").min() for f in searched(chain, 20_000, 200, together=2)])
        found = hunt(
            background(20_000, 999), resonance="m", features=["x", "y"], windows=windows, background=Exponential(1),
            range=(0, 5), bins=25, network=network, training=training, members=1, folds=3, fewest=5, seed=1,
            efficiencies=EFFICIENCIES, progress=False, toys=200, toy_source="spectrum",
        )  # fmt: skip
        null = found.toys.smallest
        p = (np.searchsorted(np.sort(null), smallest, side="right") + 1) / 201
        bound = -np.expm1(9 * np.log1p(-smallest))
        with capsys.disabled():
            print(f"\nKS p of global p-values: {stats.ks_2samp(null, smallest).pvalue:.3f}")
            for level in (0.05, 0.1, 0.2, 0.5):
                print(f"| {level:g} | {(p <= level).mean():.3f} | {(bound <= level).mean():.3f} |")
        assert stats.ks_2samp(null, smallest).pvalue > 0.01
        for level in (0.05, 0.1, 0.2, 0.5):
            assert (bound <= level).mean() < level + 4 * np.sqrt(level * (1 - level) / 200)
