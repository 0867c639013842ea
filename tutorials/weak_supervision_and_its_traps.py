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
# # Weak supervision and its traps
#
# A resonance of unknown mass decays into something that nobody has simulated. A classifier can find it
# all the same: it learns what is different between a window of the mass and the sidebands next to it,
# and whatever is different, if the background is not, is the signal (*classification without labels*).
# Nobody tells it what to look for, so it also finds what is not there. This page shows one search that
# works, four ways to fool oneself, and what the library does about each.
#
# The problem is exactly known: a mass $m$ that falls, a peak at 3.5 TeV, and two features, which are normal
# for the background and two standard deviations away from it for the signal.

# %%
import os
from dataclasses import replace

import numpy as np

import nuinfer as nu
from nuinfer.anomaly import Decorrelated, Window, hunt, injection_scan, on_off_z, sliding_windows
from nuinfer.anomaly.bump import Exponential
from nuinfer.simulators import Resonance
from nuinfer.trees import Trees

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
EVENTS, TOYS, REPEATS = (15_000, 5, 3) if FAST else (30_000, 40, 8)
problem = Resonance(features=2, signal_mean=2.0)
trees = Trees(min_leaf=40, leaves=8)
columns, options = problem.columns, {"network": trees, "members": 2, "range": (2.5, 5.0), "progress": False}
label = "$m$ (TeV)"

# %% [markdown]
# ## A search that works
#
# 120 signal events among the background are invisible in the spectrum. Windows slide over it; in each,
# boosted trees learn the window against its sidebands. The events with the highest scores are kept, a
# smooth function is fitted to their spectrum beside the window, and the excess in it is counted.

# %%
data = problem.data(EVENTS, 120, seed=1)
windows = sliding_windows((2.5, 4.7), width=0.4, step=0.2, sideband=0.4)
found = hunt(data, resonance="m", features=columns, windows=windows, background=Exponential(1), folds=3,
             efficiencies=[1, 0.1, 0.02], seed=1, **options)  # fmt: skip
print(found)
best, _ = found.best
nu.plots.hunt_spectra(found, window=best, xlabel=label)[0].figure

# %%
nu.plots.hunt_p(found, xlabel=label).figure

# %% [markdown]
# The selected events can be looked at, with all their columns. In the window the features are those of the
# signal, as far as it is one: two for the signal, nought for the background.

# %%
selected = found.selected(data, best, 0.02)
peak = selected.select(windows[best].in_signal(selected["m"]))
print(peak, *(f"mean {name}: {peak[name].mean():.2f}" for name in columns), sep="\n")

# %% [markdown]
# ## Trap 1: scoring events by their own model
#
# Take background alone, train window against sidebands, and select with that very model from the very
# same events. A classifier learns fluctuations by heart: the window has more events wherever the model
# has learned that it has more.

# %%
background = problem.background(EVENTS, seed=2)
window = Window(signal=(3.3, 3.7), sidebands=((2.7, 3.3), (3.7, 4.3)))
inside, beside = (background.select(part(background["m"])) for part in (window.in_signal, window.in_sidebands))
own = nu.fit_ratio(inside, beside, columns, network=replace(trees, patience=None), seed=1, progress=False)
for efficiency in (0.1, 0.02):
    cut = np.quantile(own.log(beside), 1 - efficiency)
    n_on, n_off = ((own.log(part) > cut).sum() for part in (inside, beside))
    z = on_off_z(n_on, n_off, len(beside) / len(inside))
    print(f"efficiency {efficiency:g}: {n_on} events for {n_off * len(inside) / len(beside):.1f}, Z = {z:.1f}")

# %% [markdown]
# *The cure* is in `hunt`: events belong to folds, by a hash of their id, and no event is ever scored by a
# model that saw it, neither for its weights nor for when to stop. The same sample, searched properly:

# %%
honest = hunt(background, resonance="m", features=columns, windows=window, background=Exponential(1), folds=3,
              efficiencies=[1, 0.1, 0.02], seed=1, **{**options, "network": replace(trees, patience=None)})  # fmt: skip
for row in honest.table():
    print(f"efficiency {row['efficiency']:g}: {row['observed']:g} events for {row['expected']:.1f} +- "
          f"{row['errors']:.1f}, Z = {row['z']:.1f}")  # fmt: skip

# %% [markdown]
# ## Trap 2: looking everywhere
#
# Windows times efficiencies are many tests, and in one of them something will stick out: the smallest *local*
# p-value of background alone is below 5% much more often than in 5% of cases.

# %%
small = problem.background(EVENTS // 3, seed=3)
nothing = hunt(small, resonance="m", features=columns, windows=windows, background=Exponential(1), folds=2,
               efficiencies=[1, 0.1], toys=TOYS, seed=1, **{**options, "members": 1})  # fmt: skip
print(nothing)
print(f"toys with a local p below 5% somewhere: {np.mean(nothing.toys.smallest < 0.05):.0%}")
nu.plots.hunt_p(nothing, xlabel=label).figure

# %% [markdown]
# *The cure*: quote the global p-value. Without toys it is bounded (Sidak), which costs nothing and is said to
# be a bound. With `toys=`, background samples are searched as the data are, with everything trained again
# for each, since a classifier that was trained on the data would know nothing of what it learns in a toy.

# %% [markdown]
# ## Trap 3: features that know the mass
#
# Let the background's features drift with the mass, as jet masses do with the dijet mass. There is no
# signal. The window is different from its sidebands all the same: it lies in between. The classifier
# learns the mass, the cut selects masses in the middle, and there is a bump.

# %%
moving = Resonance(features=2, correlation=1.5)
drifting = moving.background(EVENTS, seed=4)
search = {"resonance": "m", "features": columns, "windows": window, "background": Exponential(1), "folds": 3,
          "efficiencies": [1, 0.1, 0.02], "seed": 1, **options}  # fmt: skip
fooled = hunt(drifting, **search)
print(fooled)
nu.plots.hunt_spectra(fooled, xlabel=label)[0].figure

# %% [markdown]
# The result says so itself: THE SCORE FOLLOWS THE MASS. The *sculpting test* compares what passes with all
# events, in the sidebands, where there is no signal, with the exact covariance of a random selection. It
# comes with each hunt, and the figure belongs beside each spectrum with a cut.

# %%
nu.plots.sculpting(fooled.sculpting[0], xlabel=label).figure

# %%
nu.plots.score_by_mass(fooled, quantiles=(0.5, 0.9), xlabel=label).figure

# %% [markdown]
# *The cure* is another template of the background. `Decorrelated` takes the drift out of the features, as far
# as the sidebands show it; `Cathode` learns the density $p(x|m)$ with a flow, and draws it in the window;
# `Salad` corrects a simulation; see the reference of `nuinfer.anomaly.templates`. There is no bump then, and
# a signal is still found.

# %%
for signal in (0, 120):
    cured = hunt(moving.data(EVENTS, signal, seed=4), template=Decorrelated(), **search)
    w, e = cured.best
    print(f"{signal} signal events: greatest Z = {cured.z[w, e]:.1f}, sculpting p = {cured.sculpting_p[0]:.2g}")
nu.plots.sculpting(cured.sculpting[0], xlabel=label).figure

# %% [markdown]
# A test has its own limits: a signal in the *sidebands* of a window is seen by it too, as in the windows
# next to the signal of the first search. A small p-value there is no reason to distrust the window with the
# excess.

# %% [markdown]
# ## Trap 4: an efficiency that depends on the signal
#
# What is excluded if nothing is found? A cut has no efficiency of its own here: with many signal events the
# classifier learns them and most pass, with few it learns noise and they pass as the background does.

# %%
strengths = [0, 20, 40, 80, 160, 320]
scan = injection_scan(problem.background(EVENTS // 2, seed=5), problem.signal(3000, seed=6), strengths, resonance="m",
                      features=columns, windows=window, shape=Exponential(1), folds=3, repeats=REPEATS, seed=1,
                      efficiencies=[1, 0.1, 0.02], supervised=True, **options)  # fmt: skip
print(scan)
nu.plots.injections(scan)[0].figure

# %% [markdown]
# *The cure* is to inject, and to train again, at each strength. A strength is excluded where the counts *that
# it gives* would rarely be as low as what is observed. The naive limit takes the efficiency of the strongest
# signal for granted:

# %%
granted = scan.strengths[:, None, None, None] * scan.efficiency[-1] + np.zeros_like(scan.passing)
naive = replace(scan, passing=granted).limits()
for e, efficiency in enumerate(scan.efficiencies):
    right, wrong = (limits.expected[0, e, 2] for limits in (scan.limits(), naive))
    print(f"efficiency {efficiency:g}: at most {right:.0f} events expected; naively {wrong:.0f}")
nu.plots.injection_limits(scan).figure

# %% [markdown]
# At small efficiencies the naive limit is too good: it excludes signals that the search would not have seen.
# And how good is the classifier? With the truth of the injected events, the significance improvement says by
# how much a cut helps, at each strength, and how far that is from a classifier that was told the truth.

# %%
nu.plots.injected_sic(scan, ylim=(0, 9)).figure

# %% [markdown]
# With little signal the lines lie near 1: weak supervision helps where there is something to learn from, and
# the expected limits above have that in them.
