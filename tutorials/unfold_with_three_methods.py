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
# # Unfold with three methods
#
# One measurement, unfolded by iterative Bayes, by Wiener-SVD and by OmniFold on the same events. Here
# the truth is known exactly, so that we can see what each does to it, what its uncertainty is made
# of, and what a systematic adds.
#
# A quantity $t$ is measured as $x = t + N(0, 0.5^2)$. The detector finds
# $0.9\,e^{-(t-1)^2/8}$ of the events; some measured events have no truth (*fakes*), and the data have
# background. In the simulation $t$ follows $N(0.2, 0.9^2)$, in nature $N(0, 1)$ with 1.2 times the rate.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import nuinfer as nu
from nuinfer.simulators import GaussianUnfolding
from nuinfer.unfolding import Binning, Response, Throws, iterative_bayes, omnifold_throws, unfold_throws, wiener_svd

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
EVENTS, MORE = (3000, 1) if FAST else (6000, 2)  # the simulation has so many times the data's exposure
THROWS, NETWORKS = (40, 12) if FAST else (300, 40)

toy = GaussianUnfolding.with_detector()
data = toy.data(EVENTS, seed=1)
simulation = toy.simulation(MORE * EVENTS, seed=2)
simulation = simulation.with_weight(simulation.weight / MORE)  # to the exposure of the data
simulation = simulation.select(simulation["pass_truth"] | simulation["pass_reco"])
background = toy.background(EVENTS, seed=3, oversample=MORE)
simulation

# %% [markdown]
# ## One response
#
# A `Response` is filled once and serves every binned method. Its columns are probabilities with the
# efficiency in them: what is unfolded with it is corrected for efficiency. The outer bins are wide, so
# that nothing true lies outside of them. There are more measured bins than true ones.

# %%
truth_bins = Binning("t0", [-4.0, -1.2, -0.6, 0.0, 0.6, 1.2, 1.8, 5.0])
reco_bins = Binning("x0", [-5.0, *np.arange(-2.0, 3.1, 0.4), 6.0])
response = Response.from_events(simulation, truth=truth_bins, reco=reco_bins)
print(response)
nu.plots.response_matrix(response, xlabel="true $t$", ylabel="measured $x$")[0].figure

# %% [markdown]
# ## Two methods in bins
#
# Iterative Bayes is regularised by stopping it, Wiener-SVD by a filter that needs no strength. Fakes
# are subtracted with the yield that the simulation has, background with its own.

# %%
bayes = iterative_bayes(data, response, background=background, iterations=4)
wiener = wiener_svd(data, response, background=background)
for spectrum in (bayes, wiener):
    print(spectrum)
    for source, covariance in spectrum.covariances.items():
        print(f"    {source:<11}", np.sqrt(np.diag(covariance)).round(1))

# %% [markdown]
# Both are biased on purpose, and both say how: $A_C$, the *additional smearing matrix*. A row tells which
# true bins an unfolded bin is made of. A model is compared with the spectrum only after it went
# through $A_C$, and `Spectrum.chi2` does that.

# %%
with nu.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for ax, spectrum in zip(axes, (bayes, wiener), strict=True):
        nu.plots.smearing(spectrum, label="true $t$", ax=ax)
        ax.set_title(spectrum.settings["method"])

# %% [markdown]
# ## The exact truth
#
# The toy knows its truth in every bin. Compared without $A_C$, even the truth can look wrong: the filter
# takes some directions away almost entirely, with their variance, and a model that still has them is far
# off. The simulation's own spectrum, scaled to the same total, is a wrong model.

# %%
truth = EVENTS * toy.unfolded().total * toy.bin_probabilities(truth_bins.edges)
prior = response.truth_yield * truth.sum() / response.truth_yield.sum()
for name, spectrum in {"iterative Bayes": bayes, "Wiener-SVD": wiener}.items():
    bias = (spectrum.smear(truth) - truth) / spectrum.uncertainty
    print(f"{name:<16} A_C moves the truth by up to {np.abs(bias).max():.2f} sigma")
    for model, values in {"truth": truth, "simulation": prior}.items():
        through, without = spectrum.chi2(values), replace(spectrum, smearing=None).chi2(values)
        print(f"    {model:<11} chi2 {through.value:6.1f} (p = {through.p_value:.2g}) through A_C, "
              f"{without.value:6.1f} without, {through.dof} bins")  # fmt: skip

# %% [markdown]
# ## A systematic, by throws
#
# Say that the number of fakes is known to 10%. A systematic is a function of events and of a number
# $\alpha$, drawn from $N(0, 1)$. Each throw shifts the events, fluctuates data and simulation, fills
# the response anew and unfolds. `alone=` asks for further throws of the systematic by itself.


# %%
def fakes(events, alpha):
    if "pass_truth" not in events:  # the background
        return events
    return events.with_weight(events.weight * np.where(events["pass_truth"], 1.0, np.exp(0.1 * alpha)))


def unfold_by(method):
    def unfold(data, simulation, background, seed):
        filled = Response.from_events(simulation, truth=truth_bins, reco=reco_bins)
        return method(data, filled, background=background)

    return unfold


plan = Throws(count=THROWS, alone=THROWS, systematics={"fakes": fakes}, seed=1)
thrown = {
    name: unfold_throws(unfold_by(method), data, simulation, plan, background=background, progress=False)
    for name, method in {"iterative Bayes": iterative_bayes, "Wiener-SVD": wiener_svd}.items()
}
print(thrown["Wiener-SVD"].words)

# %% [markdown]
# Statistics were known from formulas, the systematic is the spread of its own throws, and the sum is
# checked by the joint throws, where everything varies at once. (Those of Wiener-SVD spread a little less: its
# filter comes from the variances of the data, which move with the data in a throw and not in the formula.)

# %%
results = {}
for name, each in thrown.items():
    alone = {"fakes": nu.metrics.replica_covariance(each.alone["fakes"])}
    results[name] = replace(each.nominal, covariances={**each.nominal.covariances, **alone})
    joint = np.sqrt(np.diag(each.covariance))
    print(f"{name:<16} sum of sources", results[name].uncertainty.round(0), " joint throws", joint.round(0))
nu.plots.uncertainties(results["Wiener-SVD"], xlabel="true $t$")[0].figure

# %% [markdown]
# ## OmniFold
#
# OmniFold learns a weight for each simulated event, from the events themselves. A systematic that changes
# weights alone costs nothing but more networks: four for the answer and one a throw, all in one
# training. Its throws hold data, simulation, fakes and the noise of the training.

# %%
omnifold = omnifold_throws(data, simulation, Throws(count=NETWORKS, systematics={"fakes": fakes}, seed=1), truth_bins,
                           reco=["x0"], truth=["t0"], background=background, iterations=3, members=2 if FAST else 4,
                           network=nu.MLP(width=16, depth=2), progress=False)  # fmt: skip
everything = {"data, simulation, fakes, method": omnifold.covariance}
results["OmniFold"] = replace(omnifold.spectrum, covariances=everything)
print(omnifold)

# %% [markdown]
# OmniFold has no $A_C$: events have no matrix. It is biased all the same, towards the simulation, while
# its iterations have not converged. For this toy the bias is known in closed form: what three iterations
# of perfect networks on infinite samples would give.

# %%
after_three = EVENTS * toy.unfolded(3).total * toy.bin_probabilities(truth_bins.edges, iteration=3)
print("bias after three iterations, in sigma:", ((after_three - truth) / results["OmniFold"].uncertainty).round(2))
for name, values in {"truth": truth, "simulation": prior}.items():
    chi2 = nu.metrics.chi2(omnifold.nominal.values - values, omnifold.covariance, n_replicas=NETWORKS)
    print(f"{name:<11} chi2 {chi2:.1f} for {truth_bins.size} bins, after Hartlap's factor")

# %% [markdown]
# ## Side by side
#
# Each with its whole uncertainty, and both models as that method would have unfolded them. (The
# legend's chi-squared is without Hartlap's factor, which matters for the few throws of OmniFold.)

# %%
with nu.plots.style():
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), sharey=True, layout="constrained")
    for ax, (name, spectrum) in zip(axes, results.items(), strict=True):
        total = replace(spectrum, covariances={"total": spectrum.covariance})
        nu.plots.unfolded(total, models={"truth": truth, "simulation": prior}, xlabel="true $t$", axes=[ax])
        ax.set(title=name, ylim=(0, 1.5 * (truth / truth_bins.widths).max()))
        ax.label_outer()

# %%
print("truth           ", truth.round(0))
for name, spectrum in results.items():
    print(f"{name:<16}", spectrum.values.round(0), f" total {spectrum.values.sum():.0f} of {truth.sum():.0f}, "
          f"mean uncertainty {np.mean(spectrum.uncertainty / truth):.1%}")  # fmt: skip

# %% [markdown]
# Which one? Wiener-SVD is linear in the data and has no strength to choose; it may go below zero. Iterative
# Bayes stays positive; its iterations are a choice. OmniFold takes many observables at once and leaves
# the bins open until the end, for more computing and without an $A_C$. A smaller uncertainty does not make
# a better method: it may be bought with bias, which is why $A_C$ belongs to the published result. The
# tutorial *Can I trust it?* puts an unfolding to the test.
