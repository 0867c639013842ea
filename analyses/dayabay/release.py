"""The data release as arrays: what the files hold, in a fixed order of detectors, reactors and isotopes, checked.

The PyPI package `dayabay-data-official` (CC BY 4.0) is the analysis data set of the full release of the Daya Bay
Collaboration (DOI 10.5281/zenodo.17587229).  Every file that is read goes into one digest, so that another version of
the data is noticed before it gives other numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuinfer import io

Floats = NDArray[np.float64]

PACKAGE = "dayabay-data-official"
VERSION = "1.0.1"
DIGEST = "70f2a4a24d97ebcb29e196e579a01eeb9c28b025df5b068470c53b24321efc36"

PERIODS = ("6AD", "8AD", "7AD")
DETECTORS = ("AD11", "AD12", "AD21", "AD22", "AD31", "AD32", "AD33", "AD34")
ABSENT = {("6AD", "AD22"), ("6AD", "AD34"), ("7AD", "AD11")}
REACTORS = ("R1", "R2", "R3", "R4", "R5", "R6")
ISOTOPES = ("U235", "U238", "Pu239", "Pu241")
OUT_OF_EQUILIBRIUM = ("U235", "Pu239", "Pu241")  # the isotopes with a correction for it
BACKGROUNDS = ("accidentals", "lithium_helium", "fast_neutrons", "amc", "alpha_neutron")
# the order of the 21 detector-periods: that of the official analysis, period by period for each detector
DETECTOR_PERIODS = tuple((d, p) for d in DETECTORS for p in PERIODS if (p, d) not in ABSENT)
DAY = 86_400.0  # seconds

ROOT_FILES = (
    "detector_iav_matrix", "detector_lsnl_curves", "neutrino_rate", "nonequilibrium_correction",
    "reactor_antineutrino_spectra_hm", "reactor_antineutrino_spectra_hm_uncertainties", "snf_correction",
    "dayabay_dataset/dayabay_daily_detector_data",
    *(f"dayabay_dataset/dayabay_{kind}_spectra_{p}" for kind in ("background", "ibd") for p in PERIODS),
)  # fmt: skip
TABLES = ("final_erec_bin_edges", "reactor_antineutrino_spectrum_edges")
PARAMETER_FILES = (
    "antineutrinos_per_fission_huber_mueller", "background_rate_scale_accidentals",
    "background_rate_uncertainty_scale_amc", "background_rate_uncertainty_scale_site", "background_rates_correlated",
    "background_rates_uncorrelated", "baselines", "detector_efficiency", "detector_eres", "detector_iav_offdiag_scale",
    "detector_lsnl", "detector_n_protons_correction", "detector_n_protons_nominal", "detector_normalization",
    "detector_relative", "ibd_constants", "pdg2024", "reactor_energy_per_fission", "reactor_fission_fractions",
    "reactor_fission_fractions_scale", "reactor_nonequilibrium_correction", "reactor_snf",
    "reactor_thermal_power_nominal", "reactor_thermal_power_uncertainty", "survival_probability",
    "survival_probability_constants", "survival_probability_solar",
)  # fmt: skip
# all that the release's own analysis takes; two of them are only checked: detector_normalization is 1, which the free
# spectrum makes superfluous, survival_probability_constants the ordering of masses, an option of the model


@dataclass(frozen=True, eq=False)
class Release:
    """What the model needs of the release; energies in MeV, times in seconds, lengths in metres.

    Attributes
    ----------
    observed, fine_edges:
        Counts (21, 240) of candidates by detector-period and bins of the prompt energy.
    edges:
        (27,) of the bins of the fit.
    livetime:
        (21,) effective, muon veto and multiplicity cuts included.
    exposure:
        (21, 6): the sum over days of effective livetime times the rate of antineutrinos that each reactor emits.
    accidentals:
        (21,) expected counts, from daily rates.
    background_rate:
        By background, (21,) events a day and their uncertainties; not of the accidentals.
    background_shape:
        (5, 21, 240), each normalised to 1.
    spectrum_energy, spectrum:
        (226,) and (4, 226): antineutrinos per fission and MeV of the isotopes (Huber, Mueller).
    uncorrelated, correlated:
        (4, 226): relative uncertainties of these at the same energies.
    nonequilibrium, spent_fuel:
        Graphs of the relative corrections by isotope (3) and by reactor (6).
    iav:
        (240, 240) from deposited energy (column) to energy in the scintillator (row).
    nonlinearity_energy, nonlinearity:
        (458,) and (5, 458): visible over scintillator energy, nominal and four variations.
    baseline:
        (8, 6) by detector and reactor.
    nodes:
        (19,) energies of the free values of the antineutrino spectrum.
    parameters, correlations:
        The numbers of the YAML files, by file, and the correlation matrices by group.
    """

    observed: Floats
    fine_edges: Floats
    edges: Floats
    livetime: Floats
    exposure: Floats
    accidentals: Floats
    background_rate: Mapping[str, tuple[Floats, Floats]]
    background_shape: Floats
    spectrum_energy: Floats
    spectrum: Floats
    uncorrelated: Floats
    correlated: Floats
    nonequilibrium: tuple[Floats, Floats]
    spent_fuel: tuple[Floats, Floats]
    iav: Floats
    nonlinearity_energy: Floats
    nonlinearity: Floats
    nodes: Floats
    baseline: Floats
    parameters: Mapping[str, Any]
    correlations: Mapping[str, Floats]

    def __repr__(self) -> str:
        return f"Release({self.observed.sum():,.0f} candidates in {len(self.observed)} detector-periods)"


def data_path() -> Path:
    """The folder of the ROOT files.

    Raises
    ------
    ModuleNotFoundError
        without the data package, saying which extra to install.
    """
    try:
        import dayabay_data_official
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the Daya Bay analysis needs the package {PACKAGE} {VERSION}: pip install 'nuinfer[data]'"
        ) from error
    return Path(dayabay_data_official.get_path_data("root"))


def read(folder: Path | None = None) -> Release:
    """The release in ``folder``, by default that of the data package.

    Raises
    ------
    ModuleNotFoundError
        without the data package or PyYAML.
    FileNotFoundError
        where a file of the release is missing.
    ValueError
        where the files are not those of the version that this analysis was made with, or do not fit together.
    """
    files = _Files(folder or data_path())
    days = {d: _daily(files, d) for d in DETECTORS}
    rates = {r: _reactor_days(files, r) for r in REACTORS}
    chosen = [_of_period(days[d], p) for d, p in DETECTOR_PERIODS]
    spectra = [_histograms(files, "dayabay_ibd_spectra", p, lambda d, _: f"ibd_spectrum_{d}") for p in PERIODS]
    shapes = [_histograms(files, "dayabay_background_spectra", p, lambda d, b: f"spectrum_shape_{b}_{d}", BACKGROUNDS)
              for p in PERIODS]  # fmt: skip
    energy, spectrum = _graphs(files, "reactor_antineutrino_spectra_hm", ISOTOPES)
    unc = {kind: _graphs(files, "reactor_antineutrino_spectra_hm_uncertainties", [f"{kind}_{i}" for i in ISOTOPES])
           for kind in ("uncorr", "corr")}  # fmt: skip
    light, curves = _graphs(files, "detector_lsnl_curves", ("nominal", "pull0", "pull1", "pull2", "pull3"))
    yaml = {name: files.yaml(name) for name in PARAMETER_FILES}
    parameters = {name: each["parameters"] for name, each in yaml.items()}
    lengths = parameters["baselines"]["baseline"]
    return Release(
        observed=_in_order(spectra)[0], fine_edges=np.linspace(0, 12, 241), edges=files.column("final_erec_bin_edges"),
        livetime=np.array([c["eff_livetime"].sum() for c in chosen]),
        exposure=np.array([[_exposure(c, rates[r]) for r in REACTORS] for c in chosen]),
        accidentals=np.array([(c["eff_livetime"] * c["rate_accidentals"]).sum() / DAY for c in chosen]),
        background_rate=_background_rates(parameters), background_shape=_in_order(shapes),
        spectrum_energy=energy, spectrum=spectrum, uncorrelated=unc["uncorr"][1], correlated=unc["corr"][1],
        nonequilibrium=_graphs(files, "nonequilibrium_correction", OUT_OF_EQUILIBRIUM),
        spent_fuel=_graphs(files, "snf_correction", REACTORS),
        iav=io.read_matrix(files.object("detector_iav_matrix", "iav_matrix")), nonlinearity_energy=light,
        nonlinearity=curves, nodes=files.column("reactor_antineutrino_spectrum_edges"),
        baseline=np.array([[lengths[d][r] for r in REACTORS] for d in DETECTORS]), parameters=parameters,
        correlations={k: np.array(v["matrix"]) for e in yaml.values() for k, v in e.get("correlations", {}).items()},
    )  # fmt: skip


class _Files:
    """The files of a folder, all there and of the version that this analysis was made with."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        names = [
            *(f"{name}.root" for name in ROOT_FILES),
            *(f"parameters/{name}.tsv" for name in TABLES),
            *(f"parameters/{name}.yaml" for name in PARAMETER_FILES),
        ]
        _check_digest(self.folder, {name: hashlib.sha256(self.path(name).read_bytes()).hexdigest() for name in names})

    def path(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"the Daya Bay release lacks {name} in {self.folder}; install {PACKAGE} {VERSION}")
        return path

    def object(self, name: str, key: str) -> str:
        return f"{self.path(name + '.root')}:{key}"

    def yaml(self, name: str) -> Any:
        try:
            import yaml
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("the Daya Bay analysis reads YAML: pip install 'nuinfer[data]'") from error
        return yaml.safe_load(self.path(f"parameters/{name}.yaml").read_text(encoding="utf-8"))

    def column(self, name: str) -> Floats:
        """The numbers of a table of one column with a header."""
        return np.loadtxt(self.path(f"parameters/{name}.tsv"), skiprows=1)


def _check_digest(folder: Path, hashes: Mapping[str, str]) -> None:
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(hashes.items()))
    found = hashlib.sha256(lines.encode()).hexdigest()
    if found != DIGEST:
        raise ValueError(
            f"expected the content of {PACKAGE} {VERSION} (digest {DIGEST[:12]}), found other files (digest "
            f"{found[:12]}) in {folder}: the model was checked against that version only; install it with "
            f"pip install '{PACKAGE}=={VERSION}'"
        )


def _graphs(files: _Files, name: str, keys: Any) -> tuple[Floats, Floats]:
    """The common x (N,) and the y (K, N) of graphs of one file."""
    found = [io.read_graph(files.object(name, f"graph/{key}")) for key in keys]
    first = np.asarray(found[0][0], np.float64)
    for key, graph in zip(keys, found, strict=True):
        if not np.array_equal(graph[0], first):
            raise ValueError(f"{name}: expected graphs on one grid, found another one for {key}")
    return first, np.array([graph[1] for graph in found])


def _histograms(
    files: _Files, name: str, period: str, key: Callable[[str, str], str], kinds: tuple[str, ...] = ("",)
) -> dict[tuple[str, str], Floats]:
    """By detector and period, the contents (K, 240) of each kind."""
    path = f"dayabay_dataset/{name}_{period}"
    here = [d for d in DETECTORS if (period, d) not in ABSENT]
    return {
        (d, period): np.array([io.read_hist(files.object(path, key(d, kind))).values() for kind in kinds]) for d in here
    }


def _in_order(found: list[dict[tuple[str, str], Floats]]) -> Floats:
    """(K, 21, 240)."""
    every = {key: value for each in found for key, value in each.items()}
    return np.stack([every[key] for key in DETECTOR_PERIODS], 1)


def _daily(files: _Files, detector: str) -> dict[str, Floats]:
    columns = ["day", "n_det", "eff_livetime", "rate_accidentals"]
    events = io.read_root(files.object("dayabay_dataset/dayabay_daily_detector_data", detector), columns)
    return {name: np.asarray(events[name], np.float64) for name in columns}


def _of_period(days: Mapping[str, Floats], period: str) -> dict[str, Floats]:
    """The days with as many detectors as the period has."""
    chosen = days["n_det"] == int(period[0])
    return {name: values[chosen] for name, values in days.items()}


def _reactor_days(files: _Files, reactor: str) -> Floats:
    """Antineutrinos a second on each day since the start (D,); what is given for weeks is the same on their days."""
    events = io.read_root(files.object("neutrino_rate", reactor), ["day", "n_days", "neutrino_rate_per_s"])
    day, count = (np.asarray(events[name], np.int64) for name in ("day", "n_days"))
    found = np.full(int((day + count).max()), np.nan)
    for first, n, rate in zip(day, count, events["neutrino_rate_per_s"], strict=True):
        found[first : first + n] = rate
    return found


def _exposure(days: Mapping[str, Floats], rate: Floats) -> float:
    at = days["day"].astype(np.int64)
    if at.max() >= len(rate) or np.isnan(rate[at]).any():
        raise ValueError("expected a reactor's rate for each day of a detector's data, found days without")
    return float((days["eff_livetime"] * rate[at]).sum())


def _background_rates(parameters: Mapping[str, Any]) -> dict[str, tuple[Floats, Floats]]:
    tables = {**parameters["background_rates_correlated"], **parameters["background_rates_uncorrelated"]}
    found = {name: np.array([table[p][d] for d, p in DETECTOR_PERIODS]).T for name, table in tables.items()}
    return {name: (value, sigma) for name, (value, sigma) in found.items()}


def detector_rows() -> Iterator[tuple[int, int]]:
    """(detector, period) as indices, of each detector-period."""
    return ((DETECTORS.index(d), PERIODS.index(p)) for d, p in DETECTOR_PERIODS)
