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
# # A bump hunt in 20 lines
#
# A falling spectrum of the mass of two photons. Is there a narrow peak, anywhere, and how sure can one
# be? Twenty lines go from the masses to a global p-value and to limits.

# %%
import os

import numpy as np

import nuinfer as nu
from nuinfer.anomaly import bump

TOYS = 500 if os.environ.get("NUINFER_FAST") else 5000  # the tests run a smaller version
rng = np.random.default_rng(3)
mass = np.concatenate([100 + rng.exponential(25, 8000), 100 + rng.exponential(60, 4000), rng.normal(125, 1.6, 170)])
edges = np.linspace(105, 160, 111)  # GeV

peak = bump.GaussianPeak(sigma=1.6)
likelihood = bump.BumpLikelihood.binned(np.histogram(mass, edges)[0], bump.Exponential(2), peak, edges=edges)
scan = bump.scan_masses(likelihood, bump.mass_grid(peak, 110, 155))
toys = bump.scan_toys(likelihood, scan.masses, toys=TOYS, seed=1)
answer = bump.global_p_toys(scan, toys)
limits = bump.yield_limits(likelihood, scan.masses)
print(scan, answer, limits, sep="\n")
fit = bump.fit_bump(likelihood, scan.masses[scan.best])
nu.plots.bump_fit(fit, xlabel=r"$m_{\gamma\gamma}$ (GeV)", yscale="linear")[0].figure

# %% [markdown]
# That was it: 170 signal events were put in, at 125 GeV. What follows are the questions that a reader
# of the figure will ask.
#
# ## How rare is it, anywhere?
#
# At each mass a peak is fitted over the smooth background; the *local* p-value says how often the
# background alone gives as large a peak *there*. There are many places to look at, so that the
# number to quote is the *global* one: how often toys without a signal have as large a peak anywhere.

# %%
nu.plots.local_p(scan, global_p=answer, xlabel=r"$m_{\gamma\gamma}$ (GeV)").figure

# %% [markdown]
# Where toys are not enough, the formula of Gross and Vitells goes on: it counts how often the scan
# crosses a low level, which is known without any toy. It agrees with the toys where there are some.

# %%
formula = bump.gross_vitells(scan, likelihood)
print(formula)
nu.plots.excess_toys(toys, scan=scan, formula=formula).figure

# %% [markdown]
# ## Is it a Gaussian at all?
#
# `bump_hunt` assumes neither shape nor width: it takes the most unlikely window of all, and asks toys
# for one as unlikely. The expectation is the fit of the background alone, next to which the excess was
# left out; it has its own uncertainty, which is not in these toys, so that this is a check and no answer.

# %%
blind = bump.fit_bump(likelihood.excluding(120, 130))
found = nu.anomaly.bump_hunt(likelihood.counts, blind.background, edges=edges, widths=(2, 12), sideband=0,
                             toys=TOYS, seed=1)  # fmt: skip
print(found)
nu.plots.bump_hunter(found, xlabel=r"$m_{\gamma\gamma}$ (GeV)")[0].figure

# %% [markdown]
# ## Is the background's function right?
#
# The true one, a sum of two exponentials, is not in the family that was fitted. Each order is tested
# against the next: two parameters besides the norm are needed, and a third one does not help. The data
# contain a signal, so that its region is left out.

# %%
family = [bump.Exponential(order) for order in (1, 2, 3, 4)]
choice = bump.choose_order(likelihood.excluding(120, 130), family)
print(choice)
nu.plots.shape_orders(choice)[0].figure

# %% [markdown]
# What would a wrong function do? A spectrum *without* a signal, here the exact expectation, is fitted with
# a signal at each mass. What comes out is spurious. With one parameter fewer the background makes peaks of
# half a standard deviation by itself, and is refused at most masses; with the chosen order hardly anything
# is left.

# %%
expected = sum(n * (np.exp(-(edges[:-1] - 100) / tau) - np.exp(-(edges[1:] - 100) / tau))
               for n, tau in ((8000, 25), (4000, 60)))  # fmt: skip
for shape in family[:2]:
    print(shape, bump.spurious_signal(likelihood.with_background(shape), scan.masses, expected))
spurious = bump.spurious_signal(likelihood, scan.masses, expected)
nu.plots.spurious_signals(spurious, xlabel=r"$m_{\gamma\gamma}$ (GeV)").figure

# %% [markdown]
# Its envelope is a systematic uncertainty of the yield. It costs next to nothing here:

# %%
with_spurious = bump.scan_masses(likelihood, scan.masses, spurious=spurious.envelope())
print(f"Z = {scan.z[scan.best]:.2f}, with the spurious signal {with_spurious.z[with_spurious.best]:.2f}")

# %% [markdown]
# Or choose no function: each is profiled with the yield, and the least of all curves is the answer,
# with a penalty for each parameter.

# %%
yields = np.linspace(0, 300, 61)
envelope = bump.profile_envelope(likelihood, [*family[1:], bump.Bernstein(4)], 125.0, yields)
print(envelope, envelope.interval())
nu.plots.yield_envelope(envelope).figure

# %% [markdown]
# ## Would a signal come back as large as it is?
#
# Toys with signals of known sizes, of the exact background, fitted by the chosen function.

# %%
injected = bump.signal_injection(likelihood, 125.0, [0.0, 60.0, 120.0, 180.0], toys=TOYS // 5, background=expected,
                                 seed=1)  # fmt: skip
nu.plots.fitted_yields(injected)[0].figure

# %% [markdown]
# ## What is excluded
#
# Elsewhere there is nothing, which is a result as well: at most so many events of a peak, at each mass.

# %%
nu.plots.bump_limits(limits, xlabel=r"$m_{\gamma\gamma}$ (GeV)", label="signal events", scale="linear").figure
