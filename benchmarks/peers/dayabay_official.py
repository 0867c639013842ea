"""What the official Daya Bay model costs: building it, a prediction, the covariance, the chi2 and a fit, as JSON.

It is run by a Python that has the package `dayabay-model` (see `benchmarks.dayabay`) and imports nothing of nuinfer.
Predictions are at parameters that all move, mixing, splitting and the 19 values of the spectrum.  The fit is MIGRAD and
HESSE on the covariance statistic, as the package has it, from the nominal parameters, with differences for gradients,
as the package has none.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from dayabay_model.model_dayabay import model_dayabay
from iminuit import Minuit

CALLS = 40


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and what the call gives."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def main() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        build, model = seconds(model_dayabay)
    storage = model.storage
    free = [storage[f"parameters.all.survival_probability.{name}"] for name in ("SinSq2Theta13", "DeltaMSq32")]
    free += [value for _, value in storage("parameters.all.neutrino_per_fission_factor").walkitems()]
    output = storage["outputs.eventscount.final.concatenated.selected"]
    statistic = storage["outputs.statistic.full.covmat.chi2cnp"]

    def put(values: Any) -> None:
        for parameter, value in zip(free, values, strict=True):
            parameter.value = float(value)

    def predict(values: Any) -> Any:
        put(values)
        return output.data

    def chi2(*values: float) -> float:
        put(values)
        return float(statistic.data[0])

    nominal = np.r_[0.0856, 2.453e-3, np.zeros(len(free) - 2)]
    covariance, _ = seconds(lambda: statistic.data[0])
    rng = np.random.default_rng(1)
    points = nominal + rng.normal(size=(CALLS, len(nominal))) * np.r_[1e-3, 3e-5, np.full(len(free) - 2, 0.01)]
    predict(points[0])
    each, _ = seconds(lambda: [predict(point) for point in points])
    every, _ = seconds(lambda: [chi2(*point) for point in points])
    put(nominal)
    minuit = Minuit(chi2, *nominal)
    minuit.errors, minuit.errordef = np.r_[2e-3, 6e-5, np.full(len(free) - 2, 0.02)], 1
    fit, _ = seconds(lambda: minuit.migrad().hesse())
    print(json.dumps({
        "version": version("dayabay-model"), "build": build, "covariance": covariance, "prediction": each / CALLS,
        "chi2": every / CALLS, "fit": fit, "calls": minuit.nfcn, "minimum": minuit.fval,
        "values": list(minuit.values)[:2], "errors": list(minuit.errors)[:2],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
