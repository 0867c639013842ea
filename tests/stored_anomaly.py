"""Results of `nuinfer.anomaly` for stored.py; most in closed form, none trained for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nuinfer import Events, Ragged, Training, Trees
from nuinfer.anomaly import bump_hunt
from nuinfer.anomaly.bump import (
    BumpLikelihood,
    Exponential,
    GaussianPeak,
    choose_order,
    fit_bump,
    fit_goodness,
    fit_toys,
    global_p_toys,
    profile_envelope,
    scan_masses,
    scan_toys,
    signal_injection,
    spurious_signal,
    window_counts,
    yield_limits,
)
from nuinfer.anomaly.goodness import GoodnessOfFit, KernelFit, goodness_of_fit
from nuinfer.anomaly.hunting import Hunt, HuntToys, InjectionScan
from nuinfer.anomaly.mixtures import Fractions, Kappa, MixedAuc, Mixtures, fit_mixtures
from nuinfer.anomaly.outliers import VAE, Autoencoder, Objects, fit_autoencoder, rate_threshold
from nuinfer.anomaly.templates import fit_decorrelation, sculpting_of_cuts, sculpting_test
from nuinfer.simulators import ExponentialBump


def goodness() -> GoodnessOfFit:
    """Of 200 events against a tenth of a reference of 2,000, by five kernels."""
    problem = ExponentialBump(expected=200.0)
    return goodness_of_fit(problem.data(1), problem.reference(2000, 2), ["x"], method=KernelFit(centres=5), toys=20,
                           progress=False)  # fmt: skip


def bump() -> BumpLikelihood:
    """A falling spectrum of eight bins, and a peak of unit width."""
    counts = [60, 44, 33, 28, 17, 13, 9, 8]
    return BumpLikelihood.binned(counts, Exponential(1), GaussianPeak(sigma=1.0), edges=np.arange(9.0))


def hunt_toys() -> HuntToys:
    p = np.array([[[0.5, 0.02]], [[0.3, 0.6]], [[0.9, np.nan]]])
    return HuntToys("spectrum", "masses drawn anew", p, 0.5 - p)


def hunt_record() -> Hunt:
    """Eight events in one window, two efficiencies, two folds, four bins; p = 0.5 and 0.01."""
    mass, level = np.array([0.5, 1.5, 2.5, 3.5] * 2), np.array([[2, 2, 1, 2, 1, 2, 1, 1]], np.int16)
    counts = np.array([[[2.0, 2, 2, 2], [1, 2, 0, 1]]])
    one, none = np.array([[2.0, 2.0]]), np.full((1, 2, 4), np.nan)
    return Hunt(
        resonance="m", features=("x",), signal=np.array([[1.0, 2.0]]), sidebands=np.array([[0, 0, 1], [0, 2, 4.0]]),
        efficiencies=np.array([1, 0.5]), template=("sidebands",), network="Trees()", crossing="crossed", members=1,
        folds=2, seed=1, digest="0123456789abcdef", mass=mass, fold=np.array([0, 1] * 4, np.int16),
        scores=np.linspace(-1, 1, 8)[None], level=level, thresholds=np.array([[[-np.inf, -np.inf], [0.0, 0.1]]]),
        edges=np.arange(5.0), counts=counts, background=counts * 0 + 1.5, band=none, observed=one, expected=one / 2,
        errors=one / 4, p=np.array([[0.5, 0.01]]), z=np.array([[0.0, 2.3]]), gof=one / 3, status=("", ""),
        auc=np.array([0.6]), auc_error=np.array([0.1]),
        sculpting=(sculpting_of_cuts(level > 1, mass, bins=2, toys=10),), importance=np.array([[0.1]]),
        importance_error=np.array([[0.02]]), toys=hunt_toys(),
    )  # fmt: skip


def injection() -> InjectionScan:
    """Strengths 0, 10, 20, two repetitions, one window, one efficiency; every second signal event passes."""
    strengths = np.array([0.0, 10, 20])
    injected = np.repeat(strengths[:, None], 2, 1)
    passing = 0.5 * injected[:, :, None, None]
    curve = np.ones((3, 2, 1, 3))
    return InjectionScan(
        strengths, injected, np.array([0.1]), injected[:, :, None], passing, passing + 5, passing * 0 + 5,
        passing * 0 + 1, np.exp(-passing), passing / 2, np.array([0.1, 0.5, 1.0]), curve, curve / 10, curve[0, 0],
    )  # fmt: skip


def mixtures() -> Mixtures:
    """Of 200 events each by trees: x of the first sample is mostly above 0."""
    x = np.linspace(-1, 1, 200)
    first, second = Events({"x": np.abs(x) ** 0.5 * np.sign(x + 0.6)}), Events({"x": x})
    return fit_mixtures(first, second, ["x"], fractions=(0.75, 0.25), network=Trees(iterations=5), folds=2,
                        validation=0.0, least=10.0, seed=1, progress=False)  # fmt: skip


def autoencoder() -> Autoencoder:
    """Of forty events of a column and up to two jets, trained for one epoch."""
    n = np.arange(40)
    offsets = np.concatenate([[0], np.cumsum(n % 3)])
    pt = 10.0 + np.arange(offsets[-1])
    events = Events({"m": n / 40, "jets.pt": Ragged(pt, offsets), "jets.phi": Ragged(pt / 10, offsets)}, id=n)
    network, training = VAE(latent=1, width=4, depth=1), Training(epochs=1, batch=10)
    return fit_autoencoder(events, ["m"], objects=[Objects("jets", 2, plain=())], network=network, folds=2,
                           training=training, seed=1, progress=False)  # fmt: skip


ANOMALY: dict[str, Callable[[], Any]] = {
    # log p [0, ln P(N >= 3 | 1)], and of the toys [0, 5.61]
    "bump_hunt": lambda: bump_hunt([0, 3], [1.0, 1.0], widths=(1, 1), pseudo_data=[[1, 1], [5, 0]]),
    "bump_fit": lambda: fit_bump(bump(), 4.0),
    "bump_toy_fits": lambda: fit_toys(bump(), [[60, 44, 33, 28, 17, 13, 9, 8], [55, 48, 30, 22, 20, 15, 7, 6]], 4.0),
    "bump_fit_goodness": lambda: fit_goodness(bump(), fit_bump(bump()), toys=5, seed=1),
    "bump_scan": lambda: scan_masses(bump(), [3.0, 4.0]),
    "bump_toy_scans": lambda: scan_toys(bump(), [3.0, 4.0], toys=3, seed=1),
    "bump_global_p": lambda: global_p_toys(scan_masses(bump(), [3.0, 4.0]),
                                           scan_toys(bump(), [3.0, 4.0], toys=3, seed=1)),
    "bump_window_counts": lambda: window_counts(bump(), [(3.0, 5.0)]),
    "bump_limits": lambda: yield_limits(bump(), [3.0, 4.0], exposure=2.0, exposure_error=0.1, spurious=3.0),
    "bump_spurious_signal": lambda: spurious_signal(bump(), [3.0, 4.0], [60, 44, 33, 28, 17, 13, 9, 8],
                                                    variance=np.ones(8), reference=5.0, seed=1),
    "bump_signal_injection": lambda: signal_injection(bump(), 4.0, [0.0, 10.0], toys=20, seed=1),
    "bump_order_choice": lambda: choose_order(bump(), [Exponential(1), Exponential(2)]),
    "bump_yield_envelope": lambda: profile_envelope(bump(), [Exponential(1), Exponential(2)], 4.0,
                                                    [-10.0, 0.0, 10.0]),
    "sculpting": lambda: sculpting_test(np.arange(40.0) % 7, np.linspace(2, 3, 40), efficiencies=[0.5], bins=2,
                                        toys=20),
    "decorrelation": lambda: fit_decorrelation(Events({"m": [1.0, 2.0, 3.0], "x": [2.0, 4.0, 6.0]}), ["x"], "m"),
    "goodness_of_fit": goodness,
    "anomaly_hunt": hunt_record,
    "anomaly_hunt_toys": hunt_toys,
    "anomaly_hunt_p": lambda: hunt_record().sidak(),  # p = 1 - 0.99^2
    "anomaly_injection_scan": injection,
    "anomaly_injection_limits": lambda: injection().limits(),
    "anomaly_mixtures": mixtures,
    "anomaly_mixed_auc": lambda: MixedAuc(0.75, 0.01, 0.02),  # z = 12.5
    "anomaly_kappa": lambda: Kappa(0.25, 0.02, 0.3, 0.125, -1.5, 40.0, 160.0, 5),
    "anomaly_fractions": lambda: Fractions(0.8, 0.2, 0.02, 0.01, 0.0, 0.0),
    "anomaly_autoencoder": autoencoder,
    "anomaly_threshold": lambda: rate_threshold(np.arange(100.0), 0.1),  # value 90, accepted 0.1, error 0.03
}  # fmt: skip
