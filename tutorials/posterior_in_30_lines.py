# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A posterior in 30 lines
#
# A peak on a flat background: how many signal events are there, and where is the peak? Whoever can
# simulate an experiment can have the posterior of its parameters, without a likelihood. Thirty
# lines do it; here they are.

# %%
import os

import numpy as np

import nuinfer as nu
from nuinfer.density import NSF
from nuinfer.diagnostics import coverage
from nuinfer.events import Ragged, offsets_of
from nuinfer.posterior import fit_posterior, simulate

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
SIMULATIONS, EPOCHS, MEMBERS = (1500, 12, 2) if FAST else (20_000, 30, 5)
prior = {"signal": (0.0, 60.0), "mass": (3.0, 7.0)}


def experiments(theta, rng):
    """One experiment for each theta: an unordered list of masses, whose length is part of the data."""
    signal, background = rng.poisson(theta[:, 0]), rng.poisson(40.0, len(theta))
    owner = np.concatenate([np.repeat(np.arange(len(theta)), n) for n in (signal, background)])
    peak = np.repeat(theta[:, 1], signal) + 0.4 * rng.normal(size=signal.sum())
    mass = np.concatenate([peak, rng.uniform(0, 10, background.sum())])
    return {"events.mass": Ragged(mass[np.argsort(owner, kind="stable")], offsets_of(signal + background))}


simulations = simulate(experiments, prior, SIMULATIONS, seed=1, progress=False)
simulations.events

# %% [markdown]
# One row is one experiment: the parameters, and a *cloud* of events. A small network looks at each
# event, the average over the events and their number are summed up by another, and a normalizing
# flow makes the posterior of that. All are trained together, as an ensemble of independent members.

# %%
posterior = fit_posterior(
    simulations.events, prior, nu.Features([], events=["mass"]),
    embedding=nu.DeepSet(width=32, latent=16, pool="mean"), summaries=8, network=NSF(width=32), members=MEMBERS,
    training=nu.Training(epochs=EPOCHS, batch=128), seed=1, progress=False)  # fmt: skip
posterior

# %% [markdown]
# The posterior is *amortised*: it was trained once, and holds for any observation. Here is one.

# %%
truth = {"signal": 25.0, "mass": 5.2}
observation = nu.Events(experiments(np.array([[25.0, 5.2]]), np.random.default_rng(1)))
draws = posterior.sample(10_000, observation, seed=1)
print(posterior.credible_region(observation))
nu.plots.corner(draws, truth=truth)[0, 0].figure

# %% [markdown]
# Is it calibrated? On experiments that it has not seen, a region of 68% should hold the truth in
# 68% of cases. Below the diagonal a posterior is over-confident.

# %%
test = simulate(experiments, prior, 300 if FAST else 2000, seed=2, progress=False)
nu.plots.expected_coverage(coverage(posterior, test.events, draws=99)).figure

# %% [markdown]
# That was it. Coverage is necessary, not sufficient: the tutorial *is my posterior right?* goes on
# from here. This problem has a likelihood after all, so that the answer can be compared with the
# exact one, on a grid.


# %%
def log_likelihood(signal, mass, seen):
    peak = np.exp(-0.5 * ((seen - mass[..., None]) / 0.4) ** 2) / (0.4 * np.sqrt(2 * np.pi))
    return -signal - 40 + np.log(signal[..., None] * peak + 4.0).sum(-1)


seen = observation["events.mass"].values
axes = [np.linspace(low, high, 200) for low, high in prior.values()]
grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
logs = log_likelihood(grid[:, 0], grid[:, 1], seen)
rng = np.random.default_rng(1)
cells = rng.choice(len(grid), 10_000, p=np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum())
exact = grid[cells] + (rng.random((10_000, 2)) - 0.5) * [axis[1] - axis[0] for axis in axes]
exact = nu.Events({"signal": exact[:, 0], "mass": exact[:, 1]})
nu.plots.corner({"neural": draws, "exact": exact}, truth=truth)[0, 0].figure
