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
# # From a ROOT file to an unfolded spectrum
#
# A toy experiment measures muons. Its two simulations and its data lie in ROOT files. We read
# them, reweight one simulation to the other with a learned density ratio, unfold the data with
# OmniFold, and compare with the law that made them. Everything is seeded, so that your numbers are
# these numbers.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import special, stats

import nuinfer as nu

FAST = bool(os.environ.get("NUINFER_FAST"))  # the tests run a smaller version
EVENTS = 4_000 if FAST else 20_000
MEMBERS, REPLICAS = (2, 12) if FAST else (4, 50)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A toy experiment
#
# Truth: $\ln p \sim N(\mu, 0.5^2)$ with $p$ in GeV, and an angle $\theta$ that follows a Rayleigh
# distribution of scale $s\,p^{-1/2}$ degrees. A model is a choice of $\mu$, $s$ and a rate.
#
# Detector: a muon is found with probability $0.9\,(1 - e^{-p/0.4})\,e^{-(\theta/60°)^2}$ and
# leaves 40 hits per GeV on average, each with a charge; the summed charge measures $p$. The angle
# has an error of 3 degrees. A muon that is not found has no hits and no angle.
#
# The generator draws momenta from a wider law than the model's and corrects for it by weights.

# %%
MODELS = {  # mu, s in degrees, rate relative to the nominal model
    "nominal": (np.log(1.0), 20.0, 1.0),
    "alternative": (np.log(1.25), 16.0, 1.0),
    "data": (np.log(1.15), 17.0, 1.1),
}
WIDTH = 0.5


def generate(model, number, *, seed, weighted):
    mu, scale, rate = MODELS[model]
    rng = np.random.default_rng(seed)
    number = number if weighted else rng.poisson(rate * number)
    wide = 1.2 * WIDTH if weighted else WIDTH
    log_p = rng.normal(mu, wide, number)
    weight = stats.norm.pdf(log_p, mu, WIDTH) / stats.norm.pdf(log_p, mu, wide)
    p = np.exp(log_p)
    angle = rng.rayleigh(scale / np.sqrt(p))
    efficiency = 0.9 * (1 - np.exp(-p / 0.4)) * np.exp(-((angle / 60) ** 2))
    found = rng.random(number) < efficiency
    hits = np.where(found, rng.poisson(40 * p), 0)
    offsets = np.concatenate([[0], np.cumsum(hits)])
    columns = {
        "true_p": p,
        "true_angle": angle,
        "found": found,
        "angle": np.where(found, np.abs(angle + rng.normal(0, 3, number)), np.nan),
        "hits.q": nu.Ragged(rng.gamma(4.0, 0.25, hits.sum()), offsets),
    }
    return nu.Events(columns, weight=weight)


for number, model in enumerate(MODELS):
    events = generate(model, EVENTS, seed=number, weighted=model != "data")
    nu.io.write_root(folder / f"{model}.root", events, tree="muons")

# %% [markdown]
# ## Reading
#
# `read_root` takes branches, and expressions of them: `aliases` are new columns, `cut` says which
# events to keep, `weight` is a branch or an expression. Functions such as `sum` and `count` reduce
# a jagged branch to a number per event.
#
# The truth is defined as muons above 0.4 GeV; a measured muon needs 10 hits. Of the simulation we
# keep all that pass either. A muon that passes only the first is a *miss*, one that passes only
# the second a *fake*. OmniFold knows them by the columns `pass_truth` and `pass_reco`.

# %%
measured = {"p": "sum(hits.q) / 40", "pass_reco": "found and count(hits.q) >= 10"}
true = {"pass_truth": "true_p > 0.4"}


def simulated(model):
    return nu.read_root(
        folder / f"{model}.root:muons",
        ["true_p", "true_angle", "angle"],
        aliases=measured | true,
        cut="pass_reco or pass_truth",
        weight="weight",
    )


nominal, alternative = simulated("nominal"), simulated("alternative")
data = nu.read_root(
    folder / "data.root:muons",
    ["angle"],
    aliases=measured,
    cut="pass_reco",
)
data

# %% [markdown]
# `Events` are a frozen table. `select` takes a mask, `hist` fills a weighted `hist.Hist`, and most
# other things are numpy.

# %%
found = nominal.select(nominal["pass_reco"])
misses = nominal.select(~nominal["pass_reco"])
print(f"{len(found)} found, of yield {found.sum_weights:.0f}")
print(f"they are worth {found.effective_size:.0f} events of weight 1")
print(f"{misses.sum_weights / nominal.sum_weights:.1%} of the yield is missed")
found.hist("p", np.arange(0.0, 4.5, 0.5))


# %%
def steps(ax, events, column, edges, **look):
    """A weighted histogram with its statistical errors."""
    filled = events.hist(column, edges)
    values, errors = filled.values(), np.sqrt(filled.variances())
    ax.stairs(values, edges, linewidth=1.5, **look)
    ax.errorbar((edges[1:] + edges[:-1]) / 2, values, errors, fmt="none", ecolor=look["color"])


edges = {"p": np.linspace(0.2, 3, 15), "angle": np.linspace(0, 45, 16)}
labels = {"p": "measured $p$ (GeV)", "angle": r"measured $\theta$ (degrees)"}
with nu.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for ax, (column, at) in zip(axes, edges.items(), strict=True):
        steps(ax, found, column, at, color="#f89c20", linestyle="--", label="nominal")
        steps(ax, data, column, at, color="black", label="data")
        ax.set(xlabel=labels[column], ylabel="muons per bin", xlim=at[[0, -1]], ylim=(0, None))
        ax.legend()

# %% [markdown]
# ## A density ratio: one model reweighted to another
#
# A classifier that separates two samples knows the ratio of their densities. `fit_ratio` learns
# $\log p_1(x)/p_0(x)$ of the alternative to the nominal model in the true variables. Four members
# and two folds are eight networks, trained together; with folds, no event is scored by a network
# that has seen it.

# %%
ratio = nu.fit_ratio(
    alternative,
    nominal,
    ["true_p", "true_angle"],
    members=MEMBERS,
    folds=2,
    network=nu.MLP(width=32, depth=2),
    training=nu.Training(epochs=8 if FAST else 15, batch=512),
    seed=1,
    progress=False,
)
report = ratio.report(alternative, nominal)
print(ratio)
print(report)

# %% [markdown]
# The report asks what a ratio has to answer for: is the mean weight 1, is the classifier's
# probability right, how many events is the reweighted sample worth, and can a new classifier still
# tell it from its target? (An area under the curve slightly below 1/2 is usual here: out of fold,
# each half is corrected for the fluctuations of the other.)

# %%
main, pulls = nu.plots.reliability(report.reliability)
main.figure


# %% [markdown]
# Here the exact ratio is known, up to the constant that the selection brings.


# %%
def log_density(events, model):
    mu, scale, _ = MODELS[model]
    log_p, angle = np.log(events["true_p"]), events["true_angle"]
    in_angle = stats.rayleigh.logpdf(angle, scale=scale * np.exp(-log_p / 2))
    return stats.norm.logpdf(log_p, mu, WIDTH) + in_angle


exact = log_density(nominal, "alternative") - log_density(nominal, "nominal")
exact -= np.log(np.average(np.exp(exact), weights=nominal.weight))
for name, log_r in {"exact": exact, "learned - exact": ratio.log(nominal) - exact}.items():
    rms = np.sqrt(np.average(log_r**2, weights=nominal.weight))
    print(f"log r, {name:<16} rms {rms:.3f}")

# %% [markdown]
# The detector is the same in both simulations, so weights learned from the truth also bring the
# *measured* spectra, which the networks never saw, into agreement. `weights` are of shapes;
# `yields` has the rates. (Band: the statistical uncertainty of the alternative.)

# %%
rate = ratio.yields.numerator / ratio.yields.denominator
reweighted = nominal.with_weight(nominal.weight * rate * ratio.weights(nominal))
samples = {
    "nominal": (nominal, {"color": "#f89c20", "linestyle": "--"}),
    "nominal, reweighted": (reweighted, {"color": "#5790fc"}),
    "alternative": (alternative, {"color": "#e42536", "linestyle": ":"}),
}
with nu.plots.style():
    size = {"figsize": (9, 4.8), "height_ratios": (2.4, 1)}
    figure, panels = plt.subplots(2, 2, sharex="col", layout="constrained", **size)
    for (top, bottom), (column, at) in zip(panels.T, edges.items(), strict=True):
        target = alternative.select(alternative["pass_reco"]).hist(column, at)
        content, error = target.values(), np.sqrt(target.variances())
        relative = np.divide(error, content, out=np.zeros_like(error), where=content > 0)
        band = {"fill": True, "color": "#e42536", "alpha": 0.2}
        bottom.stairs(1 + relative, at, baseline=1 - relative, **band)
        for name, (sample, look) in samples.items():
            seen = sample.select(sample["pass_reco"])
            steps(top, seen, column, at, label=name, **look)
            quotient = seen.hist(column, at).values() / np.where(content > 0, content, np.nan)
            bottom.stairs(quotient, at, baseline=None, linewidth=1.5, **look)
        top.set(ylabel="muons per bin", xlim=at[[0, -1]], ylim=(0, None))
        bottom.set(xlabel=labels[column], ylabel="ratio to\nalternative", ylim=(0.5, 1.5))
        top.legend()
    figure.align_ylabels()

# %% [markdown]
# ## Unfolding
#
# OmniFold alternates two such ratios: data to simulation in the measured variables, then the
# weights that result from it as a function of the true ones. The answer is the mean over members.
# Beside them run bootstrap replicas of data and simulation, whose spread is the statistical
# covariance; all of them are trained together.

# %%
result = nu.omnifold(
    data,
    nominal,
    reco=["p", "angle"],
    truth=["true_p", "true_angle"],
    iterations=3,
    members=MEMBERS,
    bootstrap=REPLICAS,
    network=nu.MLP(width=16, depth=2),
    seed=1,
    progress=False,
)
result

# %% [markdown]
# The result is a weight for each simulated event, so that any spectrum can be made from it
# afterwards, in any bins. The truth is exact here: the integral of the law of the data over each
# bin.

# %%
bins = np.array([0.4, 0.7, 0.9, 1.1, 1.35, 1.7, 2.2, 4.0])
spectrum = result.spectrum({"true_p": bins})
mu, _, data_rate = MODELS["data"]
truth = data_rate * EVENTS * np.diff(special.ndtr((np.log(bins) - mu) / WIDTH))
prior = np.histogram(nominal["true_p"], bins, weights=nominal.weight)[0]

main, lower = nu.plots.spectrum(
    bins,
    spectrum.values,
    spectrum.covariance,
    truth=truth,
    prior=prior,
    xlabel="true $p$ (GeV)",
    ylabel="muons",
    density=True,
)
main.figure

# %% [markdown]
# Neighbouring bins share events through the detector's resolution, so their errors are correlated.
# Agreement is judged by $\chi^2$ with the whole covariance; as that comes from a finite number of
# replicas, its inverse gets Hartlap's factor.

# %%
nu.plots.correlation(spectrum.covariances["statistical"], bins, label="true $p$ (GeV)").figure

# %%
chi2 = nu.metrics.chi2(spectrum.values - truth, spectrum.covariance, n_replicas=REPLICAS)
distance = nu.metrics.triangular_discriminator([prior, spectrum.values], [truth, truth])
print(f"unfolded against truth: chi2 = {chi2:.1f} in {len(truth)} bins")
before, after = 1e3 * distance
print(f"1000 x triangular discriminator: {before:.2f} before, {after:.2f} after")
print(f"yield: {prior.sum():.0f} before, {spectrum.values.sum():.0f} unfolded, {truth.sum():.0f} true")

# %% [markdown]
# More iterations mean less bias towards the simulation and more noise. An iteration that moves the
# spectrum by less than its uncertainty no longer matters.

# %%
moves = [result.spectrum({"true_p": bins}, iteration=i).values for i in range(3)]
nu.plots.iterations(moves, bins, covariance=spectrum.covariance, xlabel="true $p$ (GeV)").figure

# %% [markdown]
# ## Keeping it
#
# A result is one file of numbers and JSON with a checksum, and loading it runs no code. The
# simulation stays where it is and is given again; its event ids are compared.

# %%
result.save(folder / "unfolded.safetensors")
again = nu.Unfolded.load(folder / "unfolded.safetensors", simulated("nominal"))
np.array_equal(again.weights, result.weights)

# %%
ratio.save(folder / "ratio.safetensors")
nu.Ratio.load(folder / "ratio.safetensors")
