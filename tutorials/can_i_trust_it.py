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
# # Can I trust it?
#
# An unfolding always gives a spectrum. This page puts a good one to the test, makes three that are
# wrong, and shows which check sees what. None of the checks needs to know the truth of the data.
#
# The problem: $t$ is measured as $x = t + N(0, 0.5^2)$ with an efficiency that depends on $t$, fakes
# and background. The simulation has another spectrum than nature, and five times the exposure.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import nuinfer as nu
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Response, iterative_bayes, pseudo_experiments

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
EVENTS, MORE, TOYS = 10_000, 5, 200 if FAST else 1000

toy = GaussianUnfolding.with_detector()


def simulate(seed):
    events = toy.simulation(MORE * EVENTS, seed=seed)
    events = events.select(events["pass_truth"] | events["pass_reco"])
    return events.with_weight(events.weight / MORE)


data, simulation = toy.data(EVENTS, seed=1), simulate(seed=2)
background = toy.background(EVENTS, seed=3, oversample=MORE)
truth_bins = Binning("t0", [-4.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
reco_bins = Binning("x0", [-5.0, *np.arange(-2.0, 3.1, 0.4), 6.0])


def fill(events):
    return Response.from_events(events, truth=truth_bins, reco=reco_bins)


response = fill(simulation)
response

# %% [markdown]
# ## The unfolding
#
# The spectrum remembers, in memory, what it was unfolded from, so that it can be checked as it is.

# %%
spectrum = iterative_bayes(data, response, background=background, iterations=6)
spectrum

# %% [markdown]
# ## What to test with
#
# - *Models*: two truths that the measurement should tell apart.
# - *Pseudo-data*: events of another truth, here a second simulation, reweighted **in truth** to have a peak
#   that the first has not. It went through the detector event by event, and its truth is known.
# - *Priors*: other starting points for the same data.

# %%
simulated = 1.2 * response.truth_yield
models = {"simulation": simulated, "softer": simulated * np.linspace(1.4, 0.7, truth_bins.size)}
priors = {"softer": models["softer"]}


def peak(t):
    return 1.2 * (1 + 0.8 * np.exp(-0.5 * ((t - 0.5) / 0.3) ** 2))


other = simulate(seed=5)
signal = other["pass_truth"]
factor = np.ones(len(other))  # fakes stay as they are
factor[signal] = peak(other["t0"][signal])
other = other.with_weight(other.weight * factor)
peaked = truth_bins.fill(other.select(signal))[0]
pseudo = nu.Events.concat([other.select(other["pass_reco"]).keep(["x0"]), background])

# %% [markdown]
# ## All checks

# %%
options = {"models": models, "pseudo_data": {"peak": (pseudo, peaked)}, "toys": TOYS, "seed": 1, "progress": False}
checks = spectrum.check(priors=priors, **options)
checks.raise_if_failed()
print(checks)

# %% [markdown]
# In words:
#
# - *Closure*: the simulation, unfolded as data, gives its own truth. It has to, and it proves little.
# - *Stress test*: another truth comes out as $A_C$ times that truth. Where it was folded by the very response
#   that unfolds it, this is algebra, and agrees to rounding; the pseudo-data, made event by event, are the
#   test. Distances from the truth itself are told as well: they are the bias, which $A_C$ accounts for.
# - *Bottom line*: two models do not differ more after unfolding than before. Nothing can be gained.
# - *Refolded chi2*: the answer, folded again, describes the data.
# - *Coverage*: in pseudo-experiments, the intervals hold $A_C$ times the truth as often as they say.
# - *Prior*, *iterations*: what was chosen, and not measured, does not matter.
#
# Coverage deserves a figure. With the peak as truth, intervals hold $A_C$ times the truth as they should. They
# do not hold the truth itself, which regularisation has smoothed: whoever compares a model without $A_C$ is
# misled, here by several sigma.


# %%
def unfold(counts, response, *, iterations=6):
    return iterative_bayes(counts, response, background=background, iterations=iterations)


experiments = pseudo_experiments(unfold, response, peaked, background=background, toys=TOYS, seed=2, progress=False)
nu.plots.bin_coverage(experiments, xlabel="true $t$")[0].figure

# %% [markdown]
# ## Regularised too strongly
#
# Iterative Bayes, stopped after the first iteration. Closure, stress test and bottom line pass: they compare
# through $A_C$, and the bias is in it. But the answer does not describe the data, it depends on the prior,
# and the next iteration would move it.


# %%
def stopped(counts, response):
    return unfold(counts, response, iterations=1)


steps = [unfold(data, response, iterations=k).values for k in (1, 2)]
found = stopped(data, response).check(priors=priors, iterations=steps, **options)
print(*found.failed, sep="\n")

# %% [markdown]
# The pseudo-data with the peak, after one iteration and after six. The red line is what the unfolding should
# give, $A_C$ times the truth, and both do. The dotted line is the truth: after one iteration the peak is all
# but gone, although the error bars are the smaller ones.

# %%
with nu.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
    for ax, (name, method) in zip(axes, {"one iteration": stopped, "six iterations": unfold}.items(), strict=True):
        nu.plots.unfolded(method(pseudo, response), models={"peak": peaked}, label="unfolded pseudo-data",
                          xlabel="true $t$", axes=[ax])  # fmt: skip
        shown = peaked / truth_bins.widths
        ax.stairs(shown, truth_bins.edges, baseline=None, color="black", linestyle=":", label="truth itself")
        ax.set(title=name, xlim=(-2.5, 3), ylim=(0, 1.5 * shown.max()))
        ax.legend(loc="upper center", ncols=2)
        ax.label_outer()

# %% [markdown]
# ## Fakes forgotten
#
# The response is filled without the fakes, which stay in the data and are unfolded as if they were signal. It is
# checked against the response that has them, so that data, response and a function are given.


# %%
def forgetful(counts, response):
    return unfold(counts, replace(response, fakes=0 * response.fakes, fakes_variance=0 * response.fakes))


given = {"data": data, "response": response, "background": background}
found = forgetful(data, response).check(unfold=forgetful, **given, **options)
print(*found.failed, sep="\n")

# %% [markdown]
# All fail, since the checks were given a response that knows of the fakes. Where the same mistake is in what the
# checks are given, they share it: closure closes, and coverage covers.

# %%
ignorant = fill(simulation.select(simulation["pass_truth"]))
found = unfold(data, ignorant).check(**options)
print(found)

# %% [markdown]
# Two checks look at something that the response did not make: the data, and pseudo-data event by event. So give
# pseudo-data, and make them of all that is in the data. (A small chi-squared in reco would not acquit: an
# unfolding is flexible enough to hide much of what was forgotten.)
#
# ## A covariance that is too small
#
# Uncertainties that are too small by a factor of $\sqrt 2$, as from a covariance that was halved, or from
# events that were counted twice. The values are right, so that only what looks at the covariance can see it.


# %%
def confident(counts, response):
    found = unfold(counts, response)
    return replace(found, covariances={name: c / 2 for name, c in found.covariances.items()})


found = confident(data, response).check(unfold=confident, **given, **options)
print(*found.failed, sep="\n")

# %% [markdown]
# The bottom line finds the factor, 2, without a single pseudo-experiment: models cannot differ more after
# unfolding than before it.
#
# ## In a script
#
# `raise_if_failed` stops an analysis before it quotes a number. Checks can be saved with the result.

# %%
try:
    found.raise_if_failed()
except RuntimeError as error:
    print(error)

# %% [markdown]
# ## The truth
#
# In this toy we can look. The good unfolding, beside the exact truth, and the one without fakes. (The numbers
# of true events, fakes and background are fixed in the toy's data, which therefore fluctuate a little less
# than the Poisson counts that are assumed.)

# %%
truth = EVENTS * toy.unfolded().total * toy.bin_probabilities(truth_bins.edges)
print(f"good:           chi2 {spectrum.chi2(truth).value:6.1f} for {truth_bins.size} bins, "
      f"p = {spectrum.chi2(truth).p_value:.2g}")  # fmt: skip
print(f"without fakes:  chi2 {forgetful(data, response).chi2(truth).value:6.1f}")
shown = {"truth": truth, "simulation": simulated}
nu.plots.unfolded(spectrum, models=shown, xlabel="true $t$")[0].figure

# %% [markdown]
# What no check here sees is a detector that is simulated wrongly in the same way in the response and in the
# pseudo-data, such as an energy scale that is off: it moves the answer, and everything agrees. That is what
# systematic throws are for (see *Unfold with three methods*), and pseudo-data of another detector model.
