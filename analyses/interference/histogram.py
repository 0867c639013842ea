"""The histogram fit: templates of one observable with the same norms and shapes, evaluated by pyhf."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pyhf
import torch
from numpy.typing import NDArray
from torch import Tensor

import nuinfer as nu
from analyses.interference.models import constraint
from analyses.interference.simulation import COEFFICIENTS, DETECTOR, NORMS, SAMPLES, SHAPES, Simulation
from nuinfer import intervals
from nuinfer.likelihood import BinnedMixture, Coefficient, DifferentiableCost, ProcessSample, to_pyhf
from nuinfer.simulators.interference import Sample

Floats = NDArray[np.float64]
Observable = str | Callable[[nu.Events], Floats]


def templates(
    simulation: Simulation, observable: Observable, edges: Floats, coefficients: Mapping[str, str]
) -> BinnedMixture:
    """S, B and SBI in bins; the statistics of the templates, 40 times that of the data, are left out."""
    kept: dict[tuple[str, float], Floats] = {}

    def filled(name: Sample, nuisance: str = "", value: float = 0.0) -> nu.Events:
        events = simulation.sample(name, **{nuisance: value} if nuisance else {})
        key = (nuisance, value) if nuisance in DETECTOR else ("", 0.0)  # only these move the columns
        if key not in kept:
            kept[key] = seen(events, observable)
        return nu.Events({"observable": kept[key]}, weight=events.weight, id=events.id)

    samples = {
        name: ProcessSample(
            events=filled(name),
            yields=simulation.problem.yields(name),
            coefficient=coefficients[name],
            norms={nuisance: simulation.norm(name, nuisance) for nuisance in NORMS[name]},
            shapes={nuisance: (filled(name, nuisance, -1.0), filled(name, nuisance, 1.0)) for nuisance in SHAPES[name]},
        )
        for name in SAMPLES
    }
    plain = {name: (-10, 10) for name in coefficients.values() if name.isidentifier()}
    return BinnedMixture.from_events(samples, "observable", edges, statistics="none", limits=plain or {"mu": (0, None)})


def seen(events: nu.Events, observable: Observable) -> Floats:
    """The values (N,) of an observable."""
    return events.flat(observable).astype(np.float64) if isinstance(observable, str) else observable(events)


def bins(simulation: Simulation, observable: Observable, number: int) -> Floats:
    """Edges that put equal numbers of the events expected at mu = 1 into each bin; the outer ones are infinite."""
    events = simulation.sample("SBI")
    values = seen(events, observable)
    order = np.argsort(values)
    share = np.cumsum(events.weight[order])
    at = np.searchsorted(share / share[-1], np.arange(1, number) / number)
    return np.concatenate([[-np.inf], values[order][at], [np.inf]])


def best(simulation: Simulation, observables: Mapping[str, Observable], number: int) -> tuple[str, dict[str, float]]:
    """The observable with the smallest expected uncertainty of mu, and the uncertainties of all."""
    expected = {}
    at = {"mu": 1.0, **dict.fromkeys(simulation.problem.nuisances, 0.0)}
    for name, observable in observables.items():
        model = templates(simulation, observable, bins(simulation, observable, number), COEFFICIENTS)
        expected[name] = intervals.fit(model.asimov(**at) + constraint(simulation.problem)).errors["mu"]
    return min(expected, key=lambda name: expected[name]), expected


class PyhfCost(DifferentiableCost):
    """-2 log L of mu and the nuisances by pyhf, constraints included.

    A pyhf workspace has no coefficients such as mu - sqrt(mu): it has one free factor a process, set from mu here.
    """

    def __init__(self, simulation: Simulation, data: nu.Events, observable: Observable, edges: Floats) -> None:
        names = simulation.problem.names
        super().__init__({name: (0, None) if name == "mu" else None for name in names})
        default = torch.get_default_dtype()
        pyhf.set_backend("pytorch", precision="64b")
        torch.set_default_dtype(default)  # pyhf changes it for everybody
        factors = {name: f"c_{name}" for name in SAMPLES}
        binned = templates(simulation, observable, edges, factors)(np.histogram(seen(data, observable), edges)[0])
        spec = to_pyhf(binned + constraint(simulation.problem), poi="c_SBI")
        with warnings.catch_warnings():  # of what pyhf asks of jsonschema and of torch
            warnings.simplefilter("ignore")
            workspace = pyhf.Workspace(spec)
            self.model = workspace.model()
        self.observed = torch.tensor(workspace.data(self.model), dtype=torch.float64)
        self._coefficients = {factors[name]: Coefficient(COEFFICIENTS[name]) for name in SAMPLES}

    def tensor(self, theta: Tensor) -> Tensor:
        values = dict(zip(self.names, theta, strict=True))
        values |= {factor: coefficient(values) for factor, coefficient in self._coefficients.items()}
        parameters = torch.stack([values[name] for name in self.model.config.par_names])
        return -2 * self.model.logpdf(parameters, self.observed)[0]

    def _ndata(self) -> float:
        return float(self.model.config.nmaindata)
