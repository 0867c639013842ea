"""What -2 log L of a HistFactory model costs with its gradient: this package beside pyhf, on one workspace.

    python -m benchmarks.binned [--channels 3] [--bins 20] [--samples 5] [--nuisances 20] [--rounds 7]

Every nuisance is a norm and a shape of every sample; each channel has a staterror, whose factors are parameters too.
pyhf is timed with its PyTorch backend, whose gradient is by automatic differentiation, and with its numpy backend,
whose gradient has to be by differences: forward ones here, one evaluation per parameter, the least that a minimiser
needs.  The program stops unless all answers agree.

Seconds are ``time.process_time`` (all threads) per call, the least of the rounds; the ways take turns, and each call is
at a new point, so that nothing kept is used.  Needs ``pip install pyhf``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyhf
import torch
from iminuit import Minuit
from numpy.typing import NDArray

from benchmarks.machine import describe
from nuinfer.likelihood import from_pyhf
from nuinfer.likelihood.histfactory import Imported

Floats = NDArray[np.float64]


def workspace(channels: int, bins: int, samples: int, nuisances: int) -> dict[str, Any]:
    """A signal and backgrounds, with observations drawn once."""
    rng = np.random.default_rng(1)
    found, observed = [], []
    for c in range(channels):
        parts, total = [], np.zeros(bins)
        for s in range(samples):
            n = rng.uniform(5, 20, bins) if s == 0 else rng.uniform(20, 200, bins)
            total += n
            modifiers: list[dict[str, Any]] = [
                {"name": "mu", "type": "normfactor", "data": None} if s == 0
                else {"name": f"k{s}", "type": "normfactor", "data": None},
                {"name": f"staterror_C{c}", "type": "staterror", "data": np.sqrt(n / 5).tolist()},
            ]  # fmt: skip
            for k in range(nuisances):
                up, down = 1 + rng.uniform(0, 0.04), 1 - rng.uniform(0, 0.04)
                wave = 0.02 * np.sin(np.arange(bins) / bins * 6 + k + s)
                modifiers.append({"name": f"a{k}", "type": "normsys", "data": {"lo": down, "hi": up}})
                shape = {"lo_data": (n * (1 - wave)).tolist(), "hi_data": (n * (1 + 1.2 * wave)).tolist()}
                modifiers.append({"name": f"a{k}", "type": "histosys", "data": shape})
            parts.append({"name": f"S{s}", "data": n.tolist(), "modifiers": modifiers})
        found.append({"name": f"C{c}", "samples": parts})
        observed.append({"name": f"C{c}", "data": rng.poisson(total).astype(float).tolist()})
    measurement = {"name": "m", "config": {"poi": "mu", "parameters": []}}
    return {"channels": found, "observations": observed, "measurements": [measurement], "version": "1.0.0"}


def pyhf_ways(spec: dict[str, Any], order: list[int]) -> dict[str, Callable[[Floats], tuple[float, Floats]]]:
    """-2 log L and its gradient in our order of parameters, for both backends; ``order`` gives theirs from ours."""
    models = {}
    for backend in ("numpy", "pytorch"):
        pyhf.set_backend(backend, precision="64b")
        model = pyhf.Workspace(spec).model(validate=False)
        models[backend] = (pyhf.get_backend()[0], model, pyhf.Workspace(spec).data(model))
    back = np.argsort(order)

    def differences(theta: Floats) -> tuple[float, Floats]:
        pyhf.set_backend(models["numpy"][0])
        _, model, data = models["numpy"]
        x = theta[order]
        start = -2 * float(model.logpdf(x, data)[0])
        slope = np.empty(len(x))
        for k in range(len(x)):
            moved = x.copy()
            moved[k] += 1e-6
            slope[k] = (-2 * float(model.logpdf(moved, data)[0]) - start) / 1e-6
        return start, slope[back]

    def automatic(theta: Floats) -> tuple[float, Floats]:
        pyhf.set_backend(models["pytorch"][0])
        _, model, data = models["pytorch"]
        x = torch.tensor(theta[order], requires_grad=True)
        value = -2 * model.logpdf(x, torch.tensor(data, dtype=torch.float64))[0]
        (slope,) = torch.autograd.grad(value, x)
        return float(value.detach()), slope.numpy()[back]

    return {"pyhf, PyTorch": automatic, "pyhf, numpy with differences": differences}


def ours(imported: Imported) -> Callable[[Floats], tuple[float, Floats]]:
    """The same of this package."""
    return lambda theta: (imported.cost(*theta), imported.cost.grad(*theta))


def checked(ways: dict[str, Callable[[Floats], tuple[float, Floats]]], one: Floats, other: Floats) -> None:
    """Stop unless all ways agree on differences of the value and on the gradient."""
    (first, slope), *rest = [(way(one)[0] - way(other)[0], way(one)[1]) for way in ways.values()]
    for name, (value, found) in zip(list(ways)[1:], rest, strict=True):
        tolerance = 1e-2 if "differences" in name else 1e-8
        if abs(value - first) > 1e-7 or np.abs(found - slope).max() > tolerance * np.abs(slope).max():
            raise SystemExit(f"{name} disagrees: {value} and {first}; {np.abs(found - slope).max()}")


def least(ways: dict[str, Callable[[Floats], Any]], theta: Floats, rounds: int) -> dict[str, float]:
    """CPU seconds per call, the least over rounds in which the ways take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    calls = {name: 1 if "differences" in name else 20 for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for k in range(calls[name]):
                way(theta * (1 + 1e-7 * (turn * 20 + k)))
            found[name].append((time.process_time() - start) / calls[name])
    return {name: min(each[1:]) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("channels", 3), ("bins", 20), ("samples", 5), ("nuisances", 20), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = workspace(args.channels, args.bins, args.samples, args.nuisances)
    imported = from_pyhf(spec)
    names = list(imported.model.names)
    pyhf.set_backend("numpy", precision="64b")
    order = [names.index(name) for name in pyhf.Workspace(spec).model(validate=False).config.par_names]
    rng = np.random.default_rng(2)
    theta = np.array([imported.start[name] for name in names]) + rng.normal(0, 0.1, len(names))
    ways = {"this package": ours(imported), **pyhf_ways(spec, order)}
    checked(ways, theta, theta + rng.normal(0, 0.05, len(theta)))
    found = least(ways, theta, args.rounds)
    print(f"{describe(('torch', 'numpy', 'pyhf', 'iminuit'))}; one thread")
    print(f"{args.channels} channels x {args.bins} bins x {args.samples} samples, {args.nuisances} nuisances, "
          f"{len(names)} parameters\n")  # fmt: skip
    print("| value and gradient | CPU ms | relative |\n|:--|--:|--:|")
    for name, seconds in found.items():
        print(f"| {name} | {1e3 * seconds:.2f} | {seconds / found['this package']:.1f} |")
    minuit, start = Minuit(imported.cost, **imported.start), time.process_time()
    minuit.migrad()
    print(f"\nMIGRAD of this package: {minuit.nfcn} calls of the value, {minuit.ngrad} of the gradient, "
          f"{'valid' if minuit.valid else 'NOT valid'}, {time.process_time() - start:.2f} CPU s")  # fmt: skip


if __name__ == "__main__":
    main()
