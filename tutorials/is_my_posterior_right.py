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
# # Is my posterior right?
#
# A network always gives an answer. This page makes posteriors for one problem that are
# over-confident, that have learned nothing, and a good one, and shows which test sees what. The
# tests need simulations only, no likelihood.
#
# The problem is that of a signal rate and an efficiency: a count on the peak, whose rate is their
# product, and a rough measurement of the efficiency. The posterior is a curved ridge.

# %%
import os

import numpy as np

import nuinfer as nu
from nuinfer import diagnostics
from nuinfer.density import NSF
from nuinfer.posterior import Prior, fit_posterior, simulate

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
MANY, EPOCHS, TEST = (3000, 12, 400) if FAST else (20_000, 30, 3000)
prior = Prior.of({"signal": (10.0, 100.0), "efficiency": (0.2, 1.0)})


def experiments(theta, rng):
    signal, efficiency = theta.T
    return {"count": rng.poisson(signal * efficiency + 5.0).astype(float),
            "calibration": efficiency + 0.1 * rng.normal(size=len(theta))}  # fmt: skip


COLUMNS = ["count", "calibration"]
test = simulate(experiments, prior, TEST, seed=2, progress=False).events  # never trained on
observation = nu.Events({"count": [32.0], "calibration": [0.55]})

# %% [markdown]
# ## An over-confident posterior
#
# One large network, 200 simulations, many passes over them, nothing held out. The training risk
# falls and falls; the network has learned the simulations by heart.

# %%
few = simulate(experiments, prior, 200, seed=1, progress=False).events
confident = fit_posterior(few, prior, COLUMNS, members=1, validation=0.0, seed=1, progress=False,
                          training=nu.Training(epochs=150, batch=50))  # fmt: skip
sbc = diagnostics.sbc(confident, test)
print(sbc)
print(diagnostics.coverage(confident, test))
nu.plots.sbc_ranks(sbc)[0].figure

# %% [markdown]
# *Simulation-based calibration* asks where the truth falls among draws of its posterior. If the
# posterior is right, every rank is equally likely. The ranks of each parameter alone show little
# here: the density is a set of spikes that spread over about the right range. The rank of the
# density at the truth, *log q*, tells: the truth lies between the spikes, where q is low, and regions
# of highest density hold it far less often than they claim. So look at the joint quantities, not at
# single parameters alone.

# %% [markdown]
# ## A posterior that has learned nothing
#
# The prior, whatever was observed. Its ranks are uniform and its regions cover: over many
# experiments, the prior is right. *TARP* sees through it, since its reference points depend on what
# was observed.


# %%
class Ignorant:
    names = prior.names

    def draws(self, n, observations, *, seed=0):
        return prior.sample(n * len(observations), seed=seed).reshape(len(observations), n, -1)

    def log_probs(self, theta, observations):
        return prior.log_prob(theta)


for check in (diagnostics.sbc, diagnostics.coverage, diagnostics.tarp):
    print(check(Ignorant(), test))

# %% [markdown]
# ## What to do
#
# More simulations; some of them held out; an ensemble, which is better calibrated than its members.
# If simulations are dear, stop early (`patience`): fewer passes over them are the next best.

# %%
many = simulate(experiments, prior, MANY, seed=3, progress=False).events
good = fit_posterior(many, prior, COLUMNS, network=NSF(width=32), members=2 if FAST else 5, seed=1, progress=False,
                     training=nu.Training(epochs=EPOCHS, batch=128))  # fmt: skip
posteriors = {"200 simulations": confident, "prior": Ignorant(), f"{MANY} simulations": good}
nu.plots.tarp_curve({name: diagnostics.tarp(p, test) for name, p in posteriors.items()}).figure

# %%
nu.plots.sbc_ecdf(diagnostics.sbc(good, test)).figure

# %% [markdown]
# To know the other sign of over-confidence when you meet it: the good posterior with its widths
# scaled by 0.7. The ranks pile up at both ends, and the report says it in words. A *pull* with a
# width of 1.4 means uncertainties that are too small by that factor.


# %%
class Narrow:
    names = prior.names

    def draws(self, n, observations, *, seed=0):
        theta = good.draws(max(n, 200), observations, seed=seed)
        mean = theta.mean(1, keepdims=True)
        return (mean + 0.7 * (theta - mean))[:, :n]

    def log_probs(self, theta, observations):
        raise NotImplementedError("ranks of the parameters need draws alone")


narrow = diagnostics.sbc(Narrow(), test, density=False)
print(narrow)
nu.plots.sbc_ranks(narrow)[0].figure

# %% [markdown]
# ## At my observation
#
# The tests so far average over all experiments. *L-C2ST* trains a classifier to tell draws from true
# parameters, and asks it at the one observation that counts. A classifier needs many experiments: a
# small p-value condemns a posterior, a large one does not acquit it.

# %%
for name, p in {"good": good, "narrow": Narrow()}.items():
    print(name, diagnostics.lc2st(p, test, observation, permutations=19 if FAST else 100, seed=1))


# %% [markdown]
# And where there is a likelihood, as here, *importance weights* repair what is left, as long as
# their efficiency is not small.


# %%
def log_likelihood(theta):
    rate = theta[:, 0] * theta[:, 1] + 5.0
    return 32 * np.log(rate) - rate - 0.5 * ((0.55 - theta[:, 1]) / 0.1) ** 2


weighted = diagnostics.importance(good, observation, log_likelihood)
print(weighted)
draws = {"few": confident, "many": good}
samples = {name: p.sample(10_000, observation, seed=1) for name, p in draws.items()}
nu.plots.corner({**samples, "weighted: exact": weighted.events()})[0, 0].figure

# %% [markdown]
# ## Is the simulation like the data?
#
# A perfect posterior of a wrong simulation is wrong, and none of the above can know. Two questions
# help. Is the observation one that the simulation could have made at all? And do simulations at
# the posterior's draws look like it? The second observation has a calibration that no efficiency
# explains.

# %%
strange = nu.Events({"count": [32.0], "calibration": [1.6]})
for seen in (observation, strange):
    print(diagnostics.out_of_distribution(good.summaries(test), good.summaries(seen)))
    print(diagnostics.predictive(good, seen, experiments, draws=500))

# %% [markdown]
# A shift that looks like another value of a parameter, such as an energy scale that is off, is seen
# by none of these tests. It has to be a nuisance parameter of the simulation.
