"""What -2 log L with its gradient costs, beside a plain numpy loop and beside reading its inputs from memory once.

    python -m benchmarks.likelihood [--events 1000000] [--processes 5] [--nuisances 20] [--threads 1]

The model has one free coefficient per process and shape nuisances that act on every process, with a normal constraint
each; its densities are normalised over a reference of a tenth of the events at every alpha.  The limit is the time of a
sum over all numbers of both tables (log ratios, variations, weights), which has to fetch them from memory and does
hardly anything else.  The numpy loop has the same formulas, value and gradient, a process and a nuisance at a time; the
program stops if the two disagree.

CPU seconds are ``time.process_time`` (all threads), the least of the rounds; the ways take turns.  The fit is that of
`nuinfer.intervals`, MIGRAD in coordinates of unit width, from all nuisances at 0.5 on data drawn with all of them at 0;
it counts the calls of the value and of the gradient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nuinfer as nu
from benchmarks.machine import describe
from nuinfer import intervals
from nuinfer.likelihood import Mixture, Normal, Process, UnbinnedCost
from nuinfer.likelihood.table import Table

Floats = NDArray[np.float64]


def gauss(mean: float, width: float) -> Callable[[nu.Events], Floats]:
    """log N(x; mean, width^2) / N(x; 0, 2^2)."""
    return lambda events: -0.5 * ((events["x"] - mean) / width) ** 2 + 0.5 * (events["x"] / 2) ** 2 - np.log(width / 2)


def wave(phase: float, size: float) -> Callable[[nu.Events], Floats]:
    """A log ratio that moves up and down over x."""
    return lambda events: size * np.sin(events["x"] + phase)


def model_of(processes: int, nuisances: int, reference: nu.Events, **options: Any) -> Mixture:
    """Gaussians of several means, each with all shape nuisances."""

    def shapes(j: int) -> dict[str, Any]:
        return {
            f"a{k}": (wave(j + 0.7 * k, -0.02), wave(j + 0.7 * k, 0.025)) for k in range(nuisances)
        }  # fmt: skip

    means = np.linspace(-2, 2, processes)
    return Mixture(
        {
            f"P{j}": Process(yields=1e6 / processes, ratio=gauss(mean, 1.0), coefficient=f"mu{j}", shapes=shapes(j))
            for j, mean in enumerate(means)
        },
        reference,
        **options,
    )


# -- the plain loop ----------------------------------------------------------------------------------------------------


def columns(table: Table) -> tuple[Floats, list[list[Any]], list[list[Any]], Floats]:
    """s (J, N), D and S as a list of lists of float32 columns, weights."""
    each = table.varied.numpy()
    parts = [[list(process[part]) for process in each] for part in (0, 1)]
    return table.density.numpy(), parts[0], parts[1], table.weight.numpy()


def numpy_loop(cost: UnbinnedCost) -> Callable[[Floats], tuple[float, Floats]]:
    """The same value and gradient, as one writes them with numpy."""
    data, reference = columns(cost.table), columns(cost.mixture.reference)
    nu_j = np.array([p.yields for p in cost.mixture.processes.values()])

    def densities(part: Any, p: Floats, q: Floats) -> list[Floats]:
        found = []
        for s, odd, even in zip(*part[:3], strict=True):
            log_g = np.zeros_like(s)
            for k in range(len(p)):
                log_g += p[k] * odd[k] + q[k] * even[k]
            found.append(s * np.exp(log_g))
        return found

    def slopes(part: Any, weight: list[Floats], dp: Floats, dq: Floats) -> Floats:
        """(J, S) sums of weight_j x d log g_jk / d alpha_k."""
        _, odd, even, _ = part
        return np.array(
            [[np.dot(w, dp[k] * odd[j][k] + dq[k] * even[j][k]) for k in range(len(dp))] for j, w in enumerate(weight)]
        )

    def call(theta: Floats) -> tuple[float, Floats]:
        mu, a = theta[: len(nu_j)], theta[len(nu_j) :]
        inside = np.abs(a) < 1
        q = np.where(inside, (15 * a**2 - 10 * a**4 + 3 * a**6) / 8, np.abs(a))
        dq = np.where(inside, (30 * a - 40 * a**3 + 18 * a**5) / 8, np.sign(a))
        dp, w_ref, w = np.ones_like(a), reference[3] / reference[3].sum(), data[3]
        g_ref = [w_ref * g for g in densities(reference, a, q)]
        z = np.array([g.sum() for g in g_ref])
        dz = slopes(reference, g_ref, dp, dq)
        b, g = nu_j * mu / z, densities(data, a, q)
        rate = sum(b_j * g_j for b_j, g_j in zip(b, g, strict=True))
        share = np.array([np.dot(w, g_j / rate) for g_j in g])
        by_shape = slopes(data, [w * b_j * g_j / rate for b_j, g_j in zip(b, g, strict=True)], dp, dq).sum(0)
        value = 2 * float(np.dot(nu_j, mu)) - 2 * float(np.dot(w, np.log(rate)))
        by_mu = 2 * nu_j - 2 * nu_j / z * share
        by_alpha = -2 * by_shape + 2 * ((b * share / z)[:, None] * dz).sum(0)
        return value, np.concatenate([by_mu, by_alpha])

    return call


# -- timing ------------------------------------------------------------------------------------------------------------


def least(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each way, the least over rounds in which they take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: (min(c for c, _ in each[1:]), min(w for _, w in each[1:])) for name, each in found.items()}


def reading(*tables: Table) -> Callable[[], Any]:
    """A sum over every number of the tables."""
    return lambda: [float(part.sum()) for t in tables for part in (t.varied, t.density, t.weight)]


def moving(cost: UnbinnedCost, theta: Floats) -> Callable[[], Any]:
    """Value and gradient at a new point each time, so that nothing kept is used."""
    steps = iter(range(10**9))

    def call() -> tuple[float, Floats]:
        at = theta + 1e-6 * next(steps)
        return cost(*at), cost.grad(*at)

    return call


def checked(cost: UnbinnedCost, loop: Callable[[Floats], tuple[float, Floats]], theta: Floats) -> None:
    """Stop unless both sides have the same answer, up to the float32 rounding of the table's products."""
    value, slope = loop(theta)
    if abs(cost(*theta) - value) > 1e-3 or np.abs(cost.grad(*theta) - slope).max() > 1e-5 * np.abs(slope).max() + 1e-3:
        raise SystemExit(f"the two sides disagree: {cost(*theta)} and {value}\n{cost.grad(*theta)}\n{slope}")


def fit(cost: UnbinnedCost, theta: Floats) -> tuple[intervals.Fit, float]:
    """A fit with constraints, covariance included, and its CPU seconds."""
    total = sum((Normal(name) for name in cost.mixture.nuisances), start=cost)
    start = time.process_time()
    found = intervals.fit(total, dict(zip(cost.names, theta.tolist(), strict=True)))
    return found, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--nuisances", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(1)
    reference = nu.Events({"x": rng.normal(0, 2, args.events // 10)})
    means = rng.choice(np.linspace(-2, 2, args.processes), args.events)
    data = nu.Events({"x": rng.normal(means, 1.0)}).scaled_to(1e6)
    theta = np.r_[np.ones(args.processes), np.full(args.nuisances, 0.5)]
    print(f"{describe(('torch', 'numpy', 'iminuit'))}; {args.threads} threads", flush=True)
    print(f"{args.events:,} events, {args.processes} processes, {args.nuisances} nuisances, reference of "
          f"{len(reference):,}\n")  # fmt: skip
    print("| | CPU s | wall s | CPU / reading once |\n|:--|--:|--:|--:|")
    cases: dict[str, dict[str, Any]] = {
        "log, float32 (default)": {},
        "log, float64": {"precision": "float64"},
        "code 4, float32": {"interpolation": "code4"},
    }
    for name, options in cases.items():
        cost = model_of(args.processes, args.nuisances, reference, **options)(data)
        size = sum(p.numel() * p.element_size() for p in (cost.table.varied, cost.table.density, cost.table.weight))
        ways = {
            f"reading once, {name} ({size / 1e6:,.0f} MB and the reference)": reading(
                cost.table, cost.mixture.reference
            ),
            f"value and gradient, {name}": moving(cost, theta),
        }
        if not options:
            loop = numpy_loop(cost)
            checked(cost, loop, theta)
            ways["value and gradient, numpy loop"] = lambda loop=loop: loop(theta)
        found = least(ways, args.rounds)
        limit = next(iter(found.values()))[0]
        for way, (cpu, wall) in found.items():
            print(f"| {way} | {cpu:.3f} | {wall:.3f} | {cpu / limit:.1f} |", flush=True)
        if not options:
            best, cpu = fit(cost, theta)
            print(f"| whole fit with covariance, {name}: {best.calls.value} calls of the value, {best.calls.gradient} "
                  f"of the gradient | {cpu:.2f} | | {cpu / limit:.0f} |", flush=True)  # fmt: skip
            del loop, ways


if __name__ == "__main__":
    main()
