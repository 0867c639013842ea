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
# # Does my simulation describe the data?
#
# Everybody draws the data over the simulation, and looks. A chi2 in bins depends on the bins; a test of a
# model of something new sees nothing else. This page asks the question as it is meant: do the data differ
# from the simulation *anywhere, in any smooth way*, and by more than the uncertainties allow?
#
# The example is the energy that muons leave in a scintillator, a peak with a tail. The simulation has twenty
# times as many events as are expected in the data.

# %%
import os

import numpy as np
from scipy import stats

import nuinfer as nu
from nuinfer.anomaly import KernelFit, goodness_of_fit

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
TOYS = 60 if FAST else 400
EXPECTED, SIMULATED = 3000, 60_000


def deposits(n, rng, scale=1.0):
    """Energies in MeV: the distribution of Moyal, after Landau's, with a resolution of 5%."""
    energy = stats.moyal(10, 1.2).rvs(n, random_state=rng)
    return scale * energy * (1 + 0.05 * rng.normal(size=n))


def measured(seed, scale=1.0, protons=0):
    rng = np.random.default_rng([seed, 1])
    energies = [deposits(rng.poisson(EXPECTED), rng, scale), rng.normal(24, 1.0, rng.poisson(protons))]
    return nu.Events({"E": np.concatenate(energies)})


def simulated(seed, scale=1.0):
    energies = deposits(SIMULATED, np.random.default_rng([seed, 2]), scale)
    return nu.Events({"E": energies}, weight=np.full(SIMULATED, EXPECTED / SIMULATED))


reference = simulated(1)
edges = np.linspace(7, 32, 26)
options = {"toys": TOYS, "seed": 2, "progress": False}

# %% [markdown]
# ## The test
#
# A smooth function f is fitted such that $e^{f(x)}$ times the simulation describes the data best. Twice the gain in
# log-likelihood is the statistic t. If the simulation is right, f fits fluctuations alone, and t is what it is
# in toys: the same fit to samples that are drawn from the simulation. Here the simulation is right.

# %%
good = goodness_of_fit(measured(1), reference, ["E"], **options)
print(good)
nu.plots.goodness_toys(good).figure

# %% [markdown]
# If the toys follow a chi2, which is tested, its tail gives p-values that no number of toys would reach;
# `valid` says which p-value was taken. The number of degrees of freedom is that of what f can learn: a dozen,
# since f is smooth.
#
# ## A simulation that is wrong
#
# In the next data the energies are 2% higher. By eye there is little to see.

# %%
data = measured(2, scale=1.02)
wrong = goodness_of_fit(data, reference, ["E"], **options)
print(wrong)
nu.plots.goodness_ratio(wrong, data, reference, "E", edges, xlabel="E (MeV)")[0].figure

# %% [markdown]
# The red line is the learned ratio n(x)/n_ref(x), with the rate: below the peak events are missing, above it
# there are too many. A shift looks like that. `log_ratio` gives it at any event; as a weight it corrects the
# simulation, which is a way to see what another observable would make of it.
#
# ## What the uncertainties allow
#
# The energy scale is known to 1.5%. That is a nuisance parameter, and it is given as what it does: the
# simulation with the scale at plus and at minus one standard deviation. The data choose its value, at a price,
# and so do the toys, which have a scale of their own.

# %%
scaled = {"energy scale": tuple(reference.with_columns(E=reference["E"] * factor) for factor in (1.015, 0.985))}
explained = goodness_of_fit(data, reference, ["E"], nuisances=scaled, **options)
print(explained)
print(explained.nuisances)

# %% [markdown]
# With the scale 1.6 standard deviations up nothing is left; 2%, which is 1.3 of them, was put in, and the data
# measure it to a quarter of one. A systematic uncertainty explains a disagreement only if it looks like it. The third
# sample has protons among the muons as well.

# %%
more = measured(3, scale=1.02, protons=30)
left = goodness_of_fit(more, reference, ["E"], nuisances=scaled, **options)
print(left)
nu.plots.goodness_ratio(left, more, reference, "E", edges, xlabel="E (MeV)")[0].figure

# %% [markdown]
# The ratio has both, the shift and the protons around 24 MeV. What is tested is what the scale does not explain.
# Was it only the number of events? With `rate=False` shapes alone are compared.

# %%
print(goodness_of_fit(more, reference, ["E"], nuisances=scaled, rate=False, **options))

# %% [markdown]
# ## How smooth?
#
# f is a sum of kernels, whose width is a quantile of the distances between events. Wide ones see broad
# differences better, narrow ones see narrow lumps, and pay for them with more degrees of freedom. There is no
# best choice for everything, so make it before looking at the data; the default is a compromise.

# %%
for quantile in (0.9, 0.65, 0.5):
    found = goodness_of_fit(more, reference, ["E"], nuisances=scaled, method=KernelFit(quantile=quantile),
                            **{**options, "toys": TOYS // 2})  # fmt: skip
    print(f"quantile {quantile}: {found.dof:.1f} degrees of freedom, Z = {found.z:.2f} ({found.valid})")

# %% [markdown]
# With too much freedom the toys may be no chi2 any more. Then, and with fewer than ten toys beyond the data,
# `valid` is "bound", and p is an upper limit: more toys, or a stronger ridge, are needed.
#
# ## Weights of both signs
#
# Simulations at next-to-leading order have negative weights. The fit takes them as they are. The toys do
# not: nothing can be drawn by a negative weight, and the library refuses to try.


# %%
def next_to_leading(n, seed):
    """Events with signs, of which more cancel near the peak; there are more events there to make up for it."""
    rng = np.random.default_rng([seed, 3])
    energy = stats.moyal(10, 1.2).rvs(n, random_state=rng)
    mean_sign = 0.9 - 0.4 * np.exp(-0.5 * ((energy - 10) / 2) ** 2)
    kept = rng.random(n) < 0.5 / mean_sign
    energy, mean_sign = energy[kept], mean_sign[kept]
    sign = np.where(rng.random(len(energy)) < (1 + mean_sign) / 2, 1.0, -1.0)
    return nu.Events({"E": energy * (1 + 0.05 * rng.normal(size=len(energy)))}, weight=sign).scaled_to(EXPECTED)


signed = next_to_leading(2 * SIMULATED, seed=6)
print(f"{np.mean(signed.weight < 0):.0%} of the weights are negative")
try:
    goodness_of_fit(data, signed, ["E"], **options)
except ValueError as error:
    print(error)

# %% [markdown]
# *What to do*: give `null=`, a sample to draw from. A function that simulates a data set is best. Or take events
# that were held apart, each with the *mean* weight of its neighbours, which is positive where the
# simulation predicts any events at all. Here neighbours are those in one of 50 bins of equal contents.

# %%
apart = next_to_leading(2 * SIMULATED, seed=7)
bins = np.searchsorted(np.quantile(apart["E"], np.linspace(0, 1, 51)[1:-1]), apart["E"])
mean_weight = np.bincount(bins, apart.weight) / np.bincount(bins)
pool = apart.with_weight(mean_weight[bins])
for name, sample in {"the right simulation": measured(1), "2% higher": data}.items():
    print(f"{name}:", goodness_of_fit(sample, signed, ["E"], null=pool, **options))

# %% [markdown]
# The answers are those of the simulation with positive weights. The reference is one and the same in these toys:
# its own fluctuations, which are the larger the more weights cancel, are in t of the toys and of the data alike,
# hence the more degrees of freedom. They make the test weaker; take many events.
#
# ## What it cannot do
#
# The test sees what a smooth function of the columns that it is given can see. It does not know how *large* a
# disagreement would matter to your measurement, and with enough data every simulation is wrong: then ask what
# the learned ratio does to the answer, by weighting the simulation with it.
