"""Simulation-based inference and unfolding for particle physics.

Everything starts from weighted events, `nuinfer.Events`, and goes through a density ratio that a network learns from
them (`nuinfer.fit_ratio`), alone or alternated (`nuinfer.omnifold`).  The names below load when they are first used,
so that ``import nuinfer as nu`` costs next to nothing.
"""

from __future__ import annotations

from .lazy import names_of

__version__ = "0.1.0"

_NAMES = {
    "DeepSet": "nets",
    "Events": "events",
    "Features": "features",
    "MLP": "nets",
    "NotConverged": "errors",
    "Ragged": "events",
    "Ratio": "ratio",
    "Training": "train",
    "Transformer": "nets",
    "Trees": "trees",
    "Unfolded": "unfolding",
    "fit_ratio": "ratio",
    "iterate": "io",
    "omnifold": "unfolding",
    "open_events": "io",
    "processes": "tasks",
    "read_hdf5": "io",
    "read_npz": "io",
    "read_parquet": "io",
    "read_root": "io",
}

_MODULES = (
    "anomaly",
    "calibration",
    "density",
    "diagnostics",
    "ensemble",
    "errors",
    "events",
    "features",
    "hashing",
    "histograms",
    "intervals",
    "invertible",
    "io",
    "last_layer",
    "lazy",
    "likelihood",
    "losses",
    "metrics",
    "nets",
    "plots",
    "posterior",
    "ratio",
    "records",
    "resample",
    "simulators",
    "store",
    "tasks",
    "train",
    "trees",
    "unfolding",
)

__all__ = ["__version__", *_NAMES, *_MODULES]

__getattr__, _ = names_of(__name__, _NAMES, _MODULES)


def __dir__() -> list[str]:
    return sorted(__all__)
