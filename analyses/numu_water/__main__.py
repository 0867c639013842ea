"""Unfold GiBUU's neutrino events on oxygen with OmniFold, and in bins, and compare with the known truth: ``make demo``.

README.md tells what is in the file (its lepton is an electron, taken for a muon here), detector.py what
the toy detector does to it, model.py what the pseudo-data are.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from km3net_testdata import data_path
from numpy.typing import NDArray

import nuinfer as nu
from analyses import report
from analyses.numu_water.detector import BRANCHES, RECO, TRUTH, throw, truth
from analyses.numu_water.model import other_model
from nuinfer.tasks import TaskError
from nuinfer.unfolding import Response, Spectrum, Thrown, Throws, iterative_bayes, unfold_throws, wiener_svd

Floats = NDArray[np.float64]

BINS = {  # of the whole signal region, with 50 to 180 effective events of the pseudo-data in each
    "pmu": np.array([3.0, 8.0, 13.0, 18.0, 24.0, 31.0, 50.0]),
    "angle": np.array([0.0, 2.0, 3.5, 5.0, 7.0, 10.0, 20.0]),
    "evis": np.array([0.0, 2.5, 6.0, 10.0, 15.0, 22.0, 50.0]),
}
LABELS = {"pmu": r"$p_\mu$ (GeV)", "angle": r"$\theta_\mu$ (degrees)", "evis": r"$E_{vis}$ (GeV)"}
REACH = {"pmu": (2.5, 500.0), "angle": (0.0, 22.0), "evis": (-50.0, 500.0)}  # of what is measured
BINNED = {"iterative Bayes": iterative_bayes, "Wiener-SVD": wiener_svd}
LOOKS = {"iterative Bayes": ("#7a21dd", "s", 0.3), "Wiener-SVD": ("#008080", "D", 0.7)}  # colour, marker, place in bin
SHORT = {"iterative Bayes": "bayes", "Wiener-SVD": "wiener"}
BESIDE = "In bins the truth to compare with is A_C times it, which is not drawn"
HEADER = ["", "chi2", "bins", "p-value", "1000 x triangular: before", "after"]
TITLE = "Neutrinos on oxygen: muon momentum, angle and visible energy, unfolded"
TEXT = (
    "GiBUU's charged-current events on oxygen in two disjoint halves. One, thrown many times through a toy detector, "
    "is the simulation. The other follows another physics model, is thrown once, and is unfolded with OmniFold as if "
    "it were data. The lepton in this file is an electron (GiBUU's flavour 1), taken for a muon of the same momentum. "
    "Spectra are cross sections of the signal, in 1e-38 cm^2 per nucleon, averaged over a flat flux up to 50 GeV."
)


def main() -> None:
    options = parse()

    # 1. Read the generator's events, jagged lists of particles included, and work out what is true of each.
    source = f"{data_path('gibuu/EventOutput.Pert.00000001.root')}:RootTuple"
    events = truth(nu.read_root(source, BRANCHES, weight="weight"))

    # 2. Two disjoint halves, each standing for the whole rate.  One is the simulation: each of its events goes many
    #    times through the detector.  The other follows another physics model and goes once: the pseudo-data.
    half, other = (part.with_weight(2 * part.weight) for part in events.split(0.5, seed=options.seed))
    simulation = throw(half, throws=options.throws, seed=options.seed)
    data = throw(other_model(other), throws=1, seed=options.seed + 1)
    background = simulation.select(simulation["background"] & simulation["pass_reco"])
    signal = simulation.select(~simulation["background"] & (simulation["pass_reco"] | simulation["pass_truth"]))
    for name, sample in {"simulation": signal, "background": background, "pseudo-data": data}.items():
        selected = sample.select(sample["pass_reco"])
        print(f"{name:<12}{len(selected):6d} selected, rate {selected.sum_weights:.3f}")

    # 3. Unfold.  The mean of the members is the answer.  The replicas are joint bootstraps of data, simulation and
    #    background, in which the throws of one true event (`parent`) stay together.  All of them train at once.
    result = nu.omnifold(
        data,
        signal,
        reco=RECO,
        truth=TRUTH,
        background=background,
        fakes="subtract",
        misses="conditional",
        iterations=options.iterations,
        members=options.members,
        bootstrap=options.replicas,
        group="parent",
        network=nu.MLP(width=32, depth=2),
        training=nu.Training(epochs=12, batch=512),
        seed=options.seed,
    )

    # 4. Compare each spectrum with the pseudo-data's own truth, show it, and keep the numbers.
    numbers: dict[str, report.Number] = {}
    rows, pictures = [], []
    for name in TRUTH:
        found, picture = compare(result, data, signal, name)
        numbers |= {f"{name}.{key}": entry for key, entry in found.items()}
        rows.append(row(name, found))
        pictures.append(picture)
        # 5. The same in bins, by throws with the same bootstraps, drawn over it.
        for method in BINNED:
            thrown = unfold_binned(method, name, data, signal, background, options)
            if thrown is not None:
                found = compare_binned(thrown, data, signal, name, options)
                numbers |= {f"{name}.{SHORT[method]}.{key}": entry for key, entry in found.items()}
                rows.append(row(f"  {method}", found))
                overlay(picture.axes, method, thrown.spectrum, histogram(data, name), name)
    weights = nu.plots.weights(result.weights.mean(0), sample_weight=signal.weight)
    pictures.append(
        report.Picture("weights", weights, "what the weights of the simulation are multiplied by, mean of the members")
    )
    table = report.Table(caption(options.replicas), HEADER, rows)
    rate = rate_text(numbers["pmu.total"])
    print(f"\n{table}\n\n{rate}\n")
    print(report.write(options.out, title=TITLE, text=[TEXT, rate], tables=[table], pictures=pictures,
                       seed=options.seed, numbers=numbers))  # fmt: skip


def compare(
    result: nu.Unfolded, data: nu.Events, signal: nu.Events, name: str
) -> tuple[dict[str, report.Number], report.Picture]:
    """The unfolded spectrum of ``name`` against the pseudo-data's own truth, missed events included."""
    spectrum = result.spectrum({name: BINS[name]})
    prior, own = histogram(signal, name), histogram(data, name)
    # the same multiplicities as in the replicas of the unfolding: a fluctuation of the data moves both
    own_replicas = np.array(
        [histogram(data, name, result.bootstrap_times(k, data)) for k in range(len(spectrum.replicas))]
    )
    differences = spectrum.replicas - own_replicas
    chi2, p_value = agreement(spectrum.values - own, differences)
    before, after = nu.metrics.triangular_discriminator([prior, spectrum.values], [own, own]).tolist()
    numbers = {
        "chi2": report.number(chi2, np.sqrt(2 * len(own)), truth=len(own)),
        "p_value": report.number(p_value),
        "triangular_before": report.number(before, truth=0),
        "triangular_after": report.number(after, truth=0),
        "total": report.number(spectrum.values.sum(), differences.sum(1).std(ddof=1), truth=own.sum()),
    }
    sigma = np.sqrt(np.diag(spectrum.covariance))
    for at, (value, error, true) in enumerate(zip(spectrum.values, sigma, own, strict=True)):
        numbers[f"bin{at}"] = report.number(value, error, truth=true)
    axes = nu.plots.spectrum(BINS[name], spectrum.values, spectrum.covariance, truth=own, prior=prior, label="OmniFold",
                             xlabel=LABELS[name], ylabel=r"$10^{-38}$ cm$^2$", density=True)  # fmt: skip
    return numbers, report.Picture(
        name, axes[0], f"{name}: unfolded; truth of the pseudo-data; prior: the simulation. {BESIDE}"
    )


# -- in bins -----------------------------------------------------------------------------------------------------------


def unfold_binned(
    method: str, name: str, data: nu.Events, signal: nu.Events, background: nu.Events, options: argparse.Namespace
) -> Thrown | None:
    """One observable by a binned method, with joint bootstraps by parents; None, and why, where it cannot be done."""
    low, high = REACH[name]
    reco = np.r_[low, np.interp(0.6 * np.arange(1, 10), np.arange(len(BINS[name])), BINS[name]), high]

    def unfold(data: Any, simulation: nu.Events, background: Any, seed: int) -> Spectrum:
        response = Response.from_events(simulation, truth={name: BINS[name]}, reco={f"{name}_reco": reco})
        run: Callable[..., Spectrum] = BINNED[method]
        return run(data, response, background=background)

    columns = [name, f"{name}_reco", "pass_truth", "pass_reco", "parent"]
    parts = [events.keep(columns) for events in (data, signal, background)]
    try:
        return unfold_throws(unfold, *parts[:2], throws_of(options), background=parts[2], progress=False)
    except (ValueError, TaskError) as error:  # negative weights can make a cell of a replica's response negative
        print(f"{method} of {name} left out: {error}")
        return None


def throws_of(options: argparse.Namespace) -> Throws:
    """Joint bootstraps of data, simulation and background."""
    return Throws(count=options.replicas, group="parent", seed=options.seed)


def compare_binned(
    thrown: Thrown, data: nu.Events, signal: nu.Events, name: str, options: argparse.Namespace
) -> dict[str, report.Number]:
    """Unfolded minus A_C times the pseudo-data's own truth, with the covariance of that difference over the throws."""
    spectrum, own, throws = thrown.nominal, histogram(data, name), throws_of(options)
    own_replicas = np.array([histogram(throws.bootstrapped(k, data), name) for k in range(throws.count)])
    differences = thrown.spectra - spectrum.smear(own_replicas)
    chi2, p_value = agreement(spectrum.values - spectrum.smear(own), differences)
    before, after = nu.metrics.triangular_discriminator([histogram(signal, name), spectrum.values], [own, own]).tolist()
    return {
        "chi2": report.number(chi2, np.sqrt(2 * len(own)), truth=len(own)),
        "p_value": report.number(p_value),
        "triangular_before": report.number(before, truth=0),
        "triangular_after": report.number(after, truth=0),
    }


def overlay(main: Any, method: str, spectrum: Spectrum, own: Floats, name: str) -> None:
    """The points of a binned method in a figure of `nu.plots.spectrum`, and in its lower panel."""
    colour, marker, place = LOOKS[method]
    ratio, widths = main.figure.axes[1], np.diff(BINS[name])
    at = BINS[name][:-1] + place * widths
    look: dict[str, Any] = {"fmt": marker, "color": colour, "markersize": 4, "elinewidth": 1.0, "label": method}
    for axes, unit in ((main, widths), (ratio, own)):
        axes.errorbar(at, spectrum.values / unit, spectrum.uncertainty / unit, **look)
    handles, labels = main.get_legend_handles_labels()
    with nu.plots.style():
        main.legend([(main.patches[0], main.containers[0]), *handles], ["OmniFold", *labels], loc="upper right")


# -- figures and words -------------------------------------------------------------------------------------------------


def histogram(events: nu.Events, name: str, times: NDArray[np.uint8] | int = 1) -> Floats:
    """The true spectrum (bins,) of the signal region, found by the detector or not."""
    return np.histogram(events[name], BINS[name], weights=events.weight * times * events["pass_truth"])[0]


def agreement(difference: Floats, replicas: Floats) -> tuple[float, float]:
    """chi2 of a difference (B,) with the covariance of its replicas (K, B), Hartlap-corrected, and its p-value."""
    raw = float(nu.metrics.chi2(difference, nu.metrics.replica_covariance(replicas)))
    return raw * nu.metrics.hartlap(*replicas.shape), nu.metrics.hotelling(raw, *replicas.shape)


def row(label: str, found: dict[str, report.Number]) -> list[str]:
    chi2, p_value, before, after = (
        found[key]["value"] for key in ("chi2", "p_value", "triangular_before", "triangular_after")
    )
    return [
        label,
        f"{chi2:.1f}",
        f"{found['chi2']['truth']:.0f}",
        f"{p_value:.2f}",
        f"{1e3 * before:.2f}",
        f"{1e3 * after:.2f}",
    ]


def caption(replicas: int) -> str:
    bins = max(len(edges) for edges in BINS.values()) - 1
    return (
        "Unfolded by OmniFold, below in bins, minus the pseudo-data's own truth (in bins: A_C times it).\n"
        f"Covariance from {replicas} joint bootstrap replicas "
        f"({replicas / bins:.1f} per bin);\nchi2 corrected after Hartlap, p-value from Hotelling's distribution."
    )


def rate_text(total: report.Number) -> str:
    return (
        f"Signal cross section: unfolded {total['value']:.3f}, truth {total['truth']:.3f}, "
        f"difference {total['value'] - total['truth']:+.3f} +- {total['uncertainty']:.3f} (1e-38 cm^2 per nucleon)"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analyses.numu_water", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--members", type=int, help="networks whose mean is the answer (8; 2 with --fast)")
    parser.add_argument("--replicas", type=int, help="bootstrap replicas for the covariance (64; 12 with --fast)")
    parser.add_argument("--iterations", type=int, help="of OmniFold (3; 2 with --fast)")
    parser.add_argument("--seed", type=int, default=1, help="of the split, the throws and the fits (1)")
    parser.add_argument("--fast", action="store_true", help="a small run; NUINFER_FAST=1 does the same")
    parser.add_argument("--out", type=Path, default=Path("out/numu_water"), help="folder for the results")
    options = parser.parse_args()
    options.fast |= os.environ.get("NUINFER_FAST", "0") not in ("", "0")
    options.members = options.members or (2 if options.fast else 8)
    options.replicas = options.replicas or (12 if options.fast else 64)
    options.iterations = options.iterations or (2 if options.fast else 3)
    options.throws = 4 if options.fast else 10
    return options


if __name__ == "__main__":
    main()
