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
# # A signal that interferes with its background
#
# A signal strength $\mu$ is measured in two dimensions, where signal and background interfere: the
# rate of events is
#
# $$\lambda = \mu\,a^2 + b^2 + 2\sqrt\mu\,a\,b\cos\varphi .$$
#
# The interference is no density, since it is negative in places. But the rate is also a sum over
# three samples that a generator can make, with coefficients of either sign
# ([arXiv 2412.01600](https://arxiv.org/abs/2412.01600)):
#
# $$\lambda = (\mu - \sqrt\mu)\,\nu_S\,p_S + (1 - \sqrt\mu)\,\nu_B\,p_B + \sqrt\mu\,\nu_{SBI}\,p_{SBI} .$$
#
# We learn the ratio of each to one reference, learn how six nuisance parameters change them, put
# all of this into one unbinned likelihood, and profile it. The exact answer is known and stands
# beside it.

# %%
import os

import numpy as np
import torch

import nuinfer as nu
from nuinfer import intervals
from nuinfer.likelihood import DifferentiableCost, Mixture, Normal, Process
from nuinfer.simulators import Interference

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
EVENTS, MEMBERS, EPOCHS = (3_000, 1, 2) if FAST else (60_000, 2, 10)
problem = Interference(dim=2)
problem

# %% [markdown]
# ## One simulation for everything
#
# Events are generated as S, B and SBI, with a few per cent of negative weights. A generator also
# knows what an event's squared matrix element would be in the other samples, or with other theory
# parameters. So all events together are the reference, and every sample is the same events with
# other weights. The detector's nuisances, `scale` and `resolution`, move the measured columns of
# these events instead. Two weightings of the same events fluctuate together, which is what makes
# small differences learnable.

# %%
SHARE = {"S": 0.25, "B": 0.25, "SBI": 0.5}
DETECTOR = ("scale", "resolution")


def generated(**detector):
    numbers = {name: round(share * EVENTS) for name, share in SHARE.items()}
    parts = [problem.sample(name, n, seed=1, **detector).scaled_to(n) for name, n in numbers.items()]
    return nu.Events.concat(parts)


reference = generated()
mixed = sum(share * np.exp(problem.log_parton_density(name, reference)) for name, share in SHARE.items())


def sample(name, **moved):
    events = generated(**moved) if set(moved) & set(DETECTOR) else reference
    theory = {key: value for key, value in moved.items() if key not in DETECTOR}
    own = np.exp(problem.log_parton_density(name, reference, **theory))
    return events.with_weight(reference.weight * own / mixed)


reference

# %% [markdown]
# ## Ratios
#
# Each ratio has two folds: no simulated event is scored by a network that saw it.


# %%
NETWORK, TRAINING = nu.MLP(width=32, depth=2), nu.Training(epochs=EPOCHS, batch=512)


def learned(numerator, denominator):
    return nu.fit_ratio(numerator, denominator, problem.columns, network=NETWORK, training=TRAINING,
                        members=MEMBERS, folds=2, validation=0.0, seed=1, progress=False)  # fmt: skip


COEFFICIENTS = {"S": "mu - sqrt(mu)", "B": "1 - sqrt(mu)", "SBI": "sqrt(mu)"}
SHAPES = {"S": DETECTOR, "B": ("hardness", *DETECTOR), "SBI": ("signal", "background", "hardness", *DETECTOR)}


def process(name):
    nominal, rate = sample(name), problem.yields(name)
    norms = {k: tuple(problem.yields(name, **{k: v}) / rate for v in (-1, 1)) for k in problem.nuisances}
    shapes = {k: tuple(learned(sample(name, **{k: v}), nominal) for v in (-1, 1)) for k in SHAPES[name]}
    ratio = learned(nominal, reference)
    return Process(yields=rate, ratio=ratio, coefficient=COEFFICIENTS[name], norms=norms, shapes=shapes)


model = Mixture({name: process(name) for name in SHARE}, reference, limits={"mu": (0, None)})
model

# %% [markdown]
# ## Data and fit
#
# The pseudo-data come from the exact generator, at nuisances that are not the nominal ones. All we
# are told of the nuisances is that they are 0 within one standard deviation.

# %%
truth = {"mu": 1.0, "background": 1.0, "hardness": -0.5}
data = problem.data(5, **truth)
auxiliary = Normal(problem.nuisances, covariance=np.eye(6))
cost = model(data) + auxiliary
fit = intervals.fit(cost)
fit

# %% [markdown]
# ## The exact answer
#
# Any function of named parameters that torch can differentiate is a cost: here $-2\log L$ of the
# true model. The dashed curve is ours with the nuisances held at their best values.


# %%
class Exact(DifferentiableCost):
    x = torch.from_numpy(np.stack([data[name] for name in problem.columns], axis=1))

    def tensor(self, theta):
        expected, log_rate = problem.rate_tensor(self.x, theta)
        return 2 * expected - 2 * log_rate.sum()

    def _ndata(self):
        return len(data)


true_cost = Exact({name: (0, None) if name == "mu" else None for name in problem.names}) + auxiliary
curves = {
    "exact": intervals.profile(true_cost, "mu", points=9, start={"mu": 1.0}),
    "learned": intervals.profile(cost, "mu", points=9),
}
held = intervals.profile(cost, "mu", points=9, fixed=fit.others("mu"))
nu.plots.profile(curves, stat_only={"learned": held}, truth=truth["mu"], label=r"$\mu$").figure

# %% [markdown]
# ## What limits the measurement
#
# The bars show how far $\mu$ moves with each nuisance, the points where the data pulled it.

# %%
nu.plots.impacts(intervals.impacts(cost, "mu"), labels={"mu": r"$\mu$"})[0].figure

# %% [markdown]
# The analysis `python -m analyses.interference` does this in five dimensions, compares with a
# histogram fit, and counts in pseudo-experiments how often the intervals contain the truth.
