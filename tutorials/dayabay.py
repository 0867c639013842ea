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
# # Real neutrinos: the oscillation at Daya Bay
#
# The Daya Bay experiment counted 5.5 million antineutrinos of six reactors, in eight detectors at
# up to two kilometres, and has released its data in full
# ([DOI 10.5281/zenodo.17587229](https://doi.org/10.5281/zenodo.17587229)). We measure the mixing
# angle $\theta_{13}$ and the mass splitting $\Delta m^2_{32}$ from them, with the analysis
# `analyses/dayabay` of this repository: a forward model in torch, built from the release alone. Run
# this notebook in the repository's folder, with the extra `data` installed:
# `pip install -c constraints.txt '.[data]'`.

# %%
import os

import numpy as np
import torch

import nuinfer as nu
from analyses.dayabay import covariance, figures, fits, posterior
from analyses.dayabay.model import Model
from nuinfer import intervals

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
torch.set_num_threads(1)  # many small operations
model = Model()
model

# %% [markdown]
# ## The data, and what is expected
#
# The release holds a spectrum of prompt energies for each detector in each of three periods, 21 of
# them. The fit sees 26 bins of each.

# %%
print(model.release)
print(model.parameters)

# %% [markdown]
# `predict` takes parameters by name; all others stay where the release puts them. The result is a
# tensor that torch can differentiate. Here is how the last far detector's spectrum changes when the
# mixing vanishes:

# %%
names = ("sin2_2theta13", "dm2_32")
theta = torch.tensor([[0.0856, 2.453e-3], [0.0, 2.453e-3]], dtype=torch.float64)
mixed, unmixed = model.predict(theta, names).view(2, 21, 26)[:, -1]
print(np.round((mixed / unmixed).numpy(), 3))

# %% [markdown]
# Many points go in one call, the gradient comes from autograd:

# %%
at = theta[0].clone().requires_grad_()
expected = model.predict(at, names).sum()
print(torch.autograd.grad(expected, at)[0])
print(model.predict(theta[0] * torch.linspace(0.9, 1.1, 100, dtype=torch.float64)[:, None], names).shape)

# %% [markdown]
# ## Systematic uncertainties
#
# The release constrains 1,057 parameters: reactors, antineutrino spectra, energy scales, energy
# resolution, backgrounds. Their effect on the counts is a covariance, $J V J^T$, group by group.

# %%
groups = covariance.by_group(model)
size = {model.parameters.groups[name].title: np.sqrt(np.diag(own) / model.observed.numpy())
        for name, own in groups.items()}  # fmt: skip
for title, each in sorted(size.items(), key=lambda item: -item[1].max()):
    print(f"{title:<36} up to {each.max():5.2f} statistical errors of a bin")

# %% [markdown]
# ## The fit
#
# `nuinfer.likelihood.Binned` makes a likelihood of any differentiable prediction. The two parameters
# of interest are fitted together with 19 values of the antineutrino spectrum that nobody trusts the
# reactor models for. The statistical variance is the combined Neyman-Pearson one, frozen at the
# start as in the official analysis.

# %%
free = fits.free_names(model)
cost = fits.covariance_cost(model, sum(groups.values()))
fit = intervals.fit(cost, model.parameters.values(free))
errors = intervals.minos(cost, names, start=fit.values)
print(errors)
print(f"chi2 = {fit.minimum:.3f} for 525 degrees of freedom, {fit.calls.gradient} gradients")

# %% [markdown]
# The collaboration published $\sin^2 2\theta_{13} = 0.0851 \pm 0.0024$ and
# $\Delta m^2_{32} = (2.466 \pm 0.060) \times 10^{-3}\,\mathrm{eV}^2$
# ([arXiv 2211.14988](https://arxiv.org/abs/2211.14988)); the official analysis of this release gives
# 0.085424 and 2.47083, with $\chi^2 = 557.976$.
#
# The covariance form keeps the nuisances where the release puts them; the pulls that its best fit
# implies follow by linear algebra. With them the data are compared with what the fit expects:

# %%
axes = figures.far_near(model, {**fit.values, **fits.implied(model, cost, fit.values)})

# %% [markdown]
# ## Regions, and what limits the measurement

# %%
contour = intervals.contour(cost, *names, cls=figures.LEVELS[:2], points=7 if FAST else 13, start=fit.values)
nu.plots.contour(contour, truth=None)

# %%
for name in ("detector", "lithium_helium"):
    without = intervals.fit(fits.covariance_cost(model, sum(groups.values()) - groups[name]), fit.values)
    part = np.sqrt(fit.errors["dm2_32"] ** 2 - without.errors["dm2_32"] ** 2)
    print(f"{model.parameters.groups[name].title}: {part:.2g} eV^2 of {fit.errors['dm2_32']:.2g}")

# %% [markdown]
# ## The same from simulations alone
#
# A posterior can be learned without a likelihood, from simulated experiments: $\theta$ from a box, the
# spectrum near the fitted one, counts that fluctuate with the covariance of the fit. The 546 counts are
# summed up by what a fit would give, and by what its residuals say of the systematics. A conditional
# normalizing flow learns $p(\theta\,|\,\mathrm{summaries})$ for all experiments at once, the real one is the
# last to be looked at. Its likelihood is that of the covariance form, so the answers have to agree.

# %%
experiment = posterior.Experiment.at(model, fit.values, posterior.variance(cost), "covariance")
learned = posterior.learn(experiment, posterior.FAST)
print(learned.region)

# %% [markdown]
# Is it right? Over held-out experiments the truth has to fall anywhere among the draws of its posterior
# (simulation-based calibration, TARP), and the data have to look like the simulations.

# %%
print(posterior.diagnosed(learned))
at = [fit.names.index(name) for name in names]
covariance_form = figures.Answer.gaussian(
    "covariance form", tuple(fit.values[name] for name in names), fit.covariance[np.ix_(at, at)]
)
axes = figures.answers([posterior.answer("posterior", learned), covariance_form])

# %% [markdown]
# 4,000 simulations and one network leave it some ten per cent wider than the fit. With 30,000 the step
# `posterior` of the analysis comes as near as its README says, also with experiments in which all 1,057
# constrained parameters move, and with a learned likelihood ratio whose nuisances are profiled.
#
# `python -m analyses.dayabay` does all but that step, with the nuisances as free parameters too, and
# writes a page with every figure; `--steps posterior` runs that one, in minutes.
