r"""The hunts: blind, with each template, with shifted features, of constituents; and limits.

**Classifiers** are boosted trees, which need few signal events to find a corner of few features (Finke et al., arXiv
2309.13111); constituents take a deep set.  Each event is scored out of fold; see `nuinfer.anomaly.hunting`.

**Blind.** Windows of 0.4 TeV with sidebands as wide, every 0.2 TeV from 2.7 to 6 TeV; after each cut a dijet function
is fitted from 2.5 to 8 TeV with the signal region left out.  The global p-value is Sidak's bound over windows and
efficiencies.

**Templates** are compared in the window from 3.3 to 3.7 TeV, where the function is fitted to the sidebands alone: what
features that follow the mass do to the rest of the spectrum, no simple function describes.  Each template is fitted
once; a hunt takes it, and so does a
classifier of all data of the signal region, which is applied to test events that nothing was trained on.  From these is
the significance improvement :math:`\epsilon_S / \sqrt{\epsilon_B}`.  The exact ratio of the simulation's densities is
the best that any of them can do, `Ideal` what the perfect background gives.

**Limits** by `nuinfer.anomaly.injection_scan`, with everything trained again at each strength.

Sources: Collins, Howe, Nachman, arXiv 1902.02634; Hallin et al., arXiv 2109.00546.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nuinfer as nu
from nuinfer import Training, Trees
from nuinfer.anomaly.bump import Dijet
from nuinfer.anomaly.hunting import Hunt, Ideal, InjectionScan, hunt, injection_scan
from nuinfer.anomaly.regions import Window, sliding_windows
from nuinfer.anomaly.templates import (
    Anode,
    BackgroundTemplate,
    Cathode,
    Decorrelated,
    FittedTemplate,
    Latent,
    Salad,
    Sidebands,
)
from nuinfer.density import MAF
from nuinfer.nets import MLP, DeepSet

from .simulation import (
    BACKGROUND,
    BOUNDS,
    CLOUD,
    ENERGY,
    FEATURES,
    FIELDS,
    MASS,
    RANGE,
    SIGNAL_REGION,
    Constituents,
    Dijets,
    Normal,
    mixed,
    share_of,
)

__all__ = ["Compared", "Improvement", "Settings", "blind_hunt", "compare", "constituent_hunt", "largest_improvement",
           "limit_scan", "templates_of", "test_scores", "window_hunt"]  # fmt: skip

Floats = NDArray[np.float64]

WINDOW = Window(signal=SIGNAL_REGION, sidebands=((2.9, 3.3), (3.7, 4.1)))
SCAN = (2.7, 6.0)  # TeV, of the blind windows with their sidebands
SHIFT = 0.1  # of the shifted variant, per TeV of mass
SHAPE = Dijet(3, energy=ENERGY)
WRONG = Normal(  # the simulation of the background that Salad corrects
    tuple(np.asarray(BACKGROUND.mean) + np.array([0.15, -0.15, 0.2, 0.2])), tuple(1.08 * np.asarray(BACKGROUND.sigma)),
    (0.0,) * 6,
)  # fmt: skip
_FRACTION = 0.2  # of an ensemble's events, to stop early on


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes, and how classifiers and flows are trained.

    Parameters
    ----------
    background:
        Events in the data, from 2.5 to 8 TeV.
    members, folds, efficiencies, fewest:
        Of the hunts.
    flow, epochs, batch:
        Of Cathode and Latent; Anode, whose second flow has the signal region's few events, takes twice the epochs with
        half of the batch.
    tests:
        Background events of the signal region, of which improvements are told; signal: a tenth.
    passing:
        Of these, that have to pass a cut.
    strengths, repeats:
        Of the limits.
    jets, injected:
        Background and signal events of the hunt with constituents.
    seed:
        The same seed gives the same of everything.

    Raises
    ------
    ValueError
        for fewer than 10,000 background events, or 100 events that pass out of fewer.
    """

    background: int = 200_000
    members: int = 2
    folds: int = 5
    efficiencies: tuple[float, ...] = (1.0, 0.1, 0.01)
    fewest: int = 15
    trees: Trees = field(default_factory=Trees)
    flow: MAF = field(default_factory=lambda: MAF(transforms=3, width=32))
    epochs: int = 10
    batch: int = 512
    tests: int = 200_000
    passing: int = 100
    strengths: tuple[float, ...] = (0.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1400.0)
    repeats: int = 3
    jets: int = 30_000
    injected: int = 600
    seed: int = 1

    def __post_init__(self) -> None:
        """Check what is given."""
        if self.background < 10_000:
            raise ValueError(f"background: expected at least 10,000 events, found {self.background:,}; there are too "
                             f"few in windows at high masses")  # fmt: skip
        if not 1 <= self.passing < self.tests:
            raise ValueError(f"passing: expected a number from 1 to below {self.tests:,} test events, found "
                             f"{self.passing:,}")  # fmt: skip

    @property
    def windows(self) -> tuple[Window, ...]:
        """The blind ones."""
        found = sliding_windows(SCAN, width=0.4, step=0.2, sideband=0.4)
        return tuple(
            Window(signal=_rounded(w.signal), sidebands=tuple(_rounded(band) for band in w.sidebands)) for w in found
        )

    @property
    def training(self) -> Training:
        """Of flows."""
        return Training(epochs=self.epochs, batch=self.batch, average=1.0)


def _rounded(region: tuple[float, float]) -> tuple[float, float]:
    return round(region[0], 6), round(region[1], 6)


# -- one hunt after the other ------------------------------------------------------------------------------------------


def blind_hunt(data: nu.Events, settings: Settings, *, toys: int = 0) -> Hunt:
    """In all windows, with the sidebands as they are (CWoLa)."""
    return _hunt(data, settings, settings.windows, Sidebands(), toys=toys)


def window_hunt(data: nu.Events, settings: Settings) -> Hunt:
    """The same in the window of the signal alone, for limits."""
    return _hunt(data, settings, WINDOW, Sidebands())


def _hunt(
    data: nu.Events, settings: Settings, windows: Window | Sequence[Window], template: BackgroundTemplate, *,
    toys: int = 0, importance: int = 0, nearby: bool = False,
) -> Hunt:  # fmt: skip
    """``nearby``: fit the sidebands alone, as features that move with the mass bend the rest of the spectrum."""
    return hunt(
        data, resonance=MASS, features=list(FEATURES), windows=windows, background=SHAPE, template=template,
        network=settings.trees, members=settings.members, folds=settings.folds, efficiencies=settings.efficiencies,
        range=None if nearby else RANGE, bins=24 if nearby else 55, fewest=settings.fewest, toys=toys,
        importance=importance, seed=settings.seed, progress=False,
    )  # fmt: skip


def templates_of(settings: Settings, dijets: Dijets) -> dict[str, BackgroundTemplate]:
    """All of them, and the ideal one, for data of ``dijets``; Salad's simulation has other features than these."""
    cathode = Cathode(network=settings.flow, training=settings.training, bounds=BOUNDS, shape=SHAPE)
    longer = replace(settings.training, epochs=2 * settings.epochs, batch=settings.batch // 2)
    wrong = replace(dijets, background=WRONG, growth=(0.0,) * 4)
    # as many as the flows draw, without those that end up in the data
    known = dijets.draw_background(
        round(4 * share_of(SIGNAL_REGION)[0] * settings.background), settings.seed + 100, region=SIGNAL_REGION
    )
    return {
        "Ideal": Ideal(known),
        "Sidebands": Sidebands(),
        "Cathode": cathode,
        "Latent": Latent(template=cathode),
        "Salad": Salad(
            simulation=wrong.draw_background(2 * settings.background, settings.seed + 200),
            network=MLP(width=32, depth=2), training=Training(epochs=settings.epochs, batch=1024, average=1.0),
        ),
        "Anode": Anode(network=settings.flow, training=longer, bounds=BOUNDS, shape=SHAPE),
        "Decorrelated": Decorrelated(template=Sidebands()),
    }  # fmt: skip


@dataclass(frozen=True)
class _Fitted(BackgroundTemplate):
    """A template that is fitted already, to the same data in the same window."""

    fitted: FittedTemplate

    def fit(
        self, events: nu.Events, resonance: str, features: nu.Features, window: Window, *, seed: int, folds: int = 1,
        device: str = "cpu", checkpoint: str | Path | None = None, progress: bool = True,
    ) -> FittedTemplate:  # fmt: skip
        return self.fitted


@dataclass(frozen=True)
class Improvement:
    """The largest significance improvement, and the efficiencies where it is."""

    value: float
    signal: float
    background: float


@dataclass(frozen=True)
class Compared:
    """One template in one window.

    Attributes
    ----------
    hunt:
        With one window.
    signal, background:
        Scores of test events in the signal region; empty where none were asked for.
    best:
        Of these.
    seconds:
        CPU time of template and hunt.
    words:
        The template's.
    """

    name: str
    hunt: Hunt
    signal: Floats
    background: Floats
    best: Improvement
    seconds: float
    words: str


@dataclass(frozen=True)
class Tests:
    """Events of the signal region that nothing is trained on, and the exact log ratio of each."""

    signal: nu.Events
    background: nu.Events
    exact: tuple[Floats, Floats]

    @classmethod
    def of(cls, settings: Settings, dijets: Dijets) -> Tests:
        """As many as the settings say."""
        events = [dijets.draw_signal(settings.tests // 10, settings.seed + 300, region=SIGNAL_REGION),
                  dijets.draw_background(settings.tests, settings.seed + 400, region=SIGNAL_REGION)]  # fmt: skip
        one, zero = (dijets.log_ratio(part) for part in events)
        return cls(events[0], events[1], (one, zero))


def compare(
    name: str, template: BackgroundTemplate, data: nu.Events, settings: Settings, tests: Tests | None = None, *,
    importance: int = 0,
) -> Compared:  # fmt: skip
    """Fit a template, hunt with it in the window of the signal, and score test events."""
    start = time.process_time()
    features = nu.Features(list(FEATURES))
    fitted = template.fit(data, MASS, features, WINDOW, seed=settings.seed, folds=settings.folds, progress=False)
    found = _hunt(data, settings, WINDOW, _Fitted(fitted), importance=importance, nearby=True)
    seconds = time.process_time() - start
    if tests is None:
        return Compared(name, found, np.empty(0), np.empty(0), Improvement(0, 0, 0), seconds, fitted.words)
    signal, background = test_scores(fitted, data, settings, (tests.signal, tests.background))
    best = largest_improvement(signal, background, settings.passing)
    return Compared(name, found, signal, background, best, seconds, fitted.words)


def test_scores(
    fitted: FittedTemplate, data: nu.Events, settings: Settings, tests: Sequence[nu.Events]
) -> list[Floats]:  # fmt: skip
    """The scores of events that nothing was trained on, by classifiers of all data in the signal region."""
    if fitted.log_ratio is not None:
        return [fitted.log_ratio(events) for events in tests]
    inside = fitted.transform(data.select(WINDOW.in_signal(data[MASS])))
    ratio = nu.fit_ratio(inside, fitted.reference, list(FEATURES), network=settings.trees, validation=_FRACTION,
                         members=settings.members * (settings.folds - 1), seed=settings.seed,
                         progress=False)  # fmt: skip
    return [ratio.log(fitted.transform(events)) for events in tests]


def largest_improvement(signal: Floats, background: Floats, passing: int = 100) -> Improvement:
    """The maximum over cuts that at least so many background events (M,) pass.

    >>> best = largest_improvement(np.ones(100), np.linspace(0, 1.99, 200), 100)
    >>> best.signal, best.background, round(best.value, 3)
    (1.0, 0.5, 1.414)
    """
    falling, rising = np.sort(background)[::-1], np.sort(signal)
    number = np.arange(passing, len(falling) + 1)
    share = 1 - np.searchsorted(rising, falling[number - 1], side="left") / len(rising)
    value = share / np.sqrt(number / len(falling))
    k = int(np.argmax(value))
    return Improvement(float(value[k]), float(share[k]), float(number[k] / len(falling)))


# -- constituents ------------------------------------------------------------------------------------------------------


def constituent_data(settings: Settings) -> nu.Events:
    """Events near the signal with the constituents of both jets."""
    dijets, seed = Dijets(), settings.seed
    parts = dijets.draw_background(settings.jets, seed, region=WINDOW.range), dijets.draw_signal(
        settings.injected, seed, region=WINDOW.range)  # fmt: skip
    return Constituents().of(mixed(parts, seed, keep_truth=True), seed)


def constituent_hunt(settings: Settings, data: nu.Events) -> Hunt:
    """With a deep set of the constituents, in place of the jets' masses and subjettinesses."""
    return hunt(
        data, resonance=MASS, features=nu.Features(**{CLOUD: FIELDS}), windows=WINDOW, background=SHAPE,
        network=DeepSet(width=32, latent=16, head=MLP(width=32, depth=2)), members=1, folds=3,
        efficiencies=[1.0, 0.1, 0.02], fewest=settings.fewest, bins=24, seed=settings.seed, progress=False,
        training=Training(epochs=settings.epochs, batch=256, average=1.0),
    )  # fmt: skip


# -- limits ------------------------------------------------------------------------------------------------------------


def limit_scan(settings: Settings, dijets: Dijets) -> InjectionScan:
    """Hunts in the window of the signal with more and more of it; with a background of its own."""
    most = settings.strengths[-1]
    return injection_scan(
        dijets.draw_background(settings.background, settings.seed + 600),
        dijets.draw_signal(round(most + 10 * np.sqrt(most)), settings.seed + 700), settings.strengths,
        resonance=MASS, features=list(FEATURES), windows=WINDOW, shape=SHAPE, repeats=settings.repeats,
        network=settings.trees, members=settings.members, folds=settings.folds, efficiencies=settings.efficiencies,
        range=RANGE, bins=55, fewest=settings.fewest, supervised=True, seed=settings.seed, progress=False,
    )  # fmt: skip
