"""`nuinfer.likelihood.Workspace`: a folder gives the same likelihood again, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
import torch
from iminuit import Minuit
from iminuit.cost import LeastSquares
from scipy import stats

import nuinfer as nu
from nuinfer.errors import CorruptFile
from nuinfer.likelihood import (
    BinnedMixture,
    LogNormal,
    Mixture,
    Normal,
    Poisson,
    Process,
    Template,
    TwoPoint,
    Workspace,
)

VALUES = {"mu": 1.2, "shape": 0.7, "lumi": -0.4, "model": 0.3, "rate": 1.05, "side": 0.9}


def wave(events: nu.Events) -> Any:
    return 0.1 * np.sin(events["x"])


def gauss(events: nu.Events) -> Any:
    return stats.norm(0.5, 0.7).logpdf(events["x"]) - stats.norm(0, 2).logpdf(events["x"])


@pytest.fixture(scope="module")
def samples() -> dict[str, nu.Events]:
    rng = np.random.default_rng(1)
    make = lambda mean, width, n: nu.Events({"x": rng.normal(mean, width, n)})  # noqa: E731
    return {"S": make(1, 1, 400), "up": make(1.1, 1, 400), "reference": make(0, 2, 500), "data": make(0.5, 1.5, 300)}


@pytest.fixture(scope="module")
def ratios(samples: dict[str, nu.Events]) -> dict[str, nu.Ratio]:
    def fit(one: str, other: str) -> nu.Ratio:
        return nu.fit_ratio(
            samples[one], samples[other], ["x"], seed=1, progress=False, network=nu.MLP(width=4, depth=1),
            training=nu.Training(epochs=1, batch=128),
        )  # fmt: skip

    return {"S": fit("S", "reference"), "up": fit("up", "S")}


def workspace(samples: dict[str, nu.Events], ratios: dict[str, nu.Ratio], *, asimov: bool = False) -> Workspace:
    model = Mixture(
        {
            "S": Process(yields=100, ratio=ratios["S"], coefficient="mu", norms={"lumi": 0.02},
                         shapes={"shape": (wave, ratios["up"])}),
            "B": Process(yields=200, ratio=ratios["S"], norms={"lumi": 0.02, "model": (0.9, 1.2)}),
        },
        samples["reference"], limits={"mu": (0, None)},
    )  # fmt: skip
    far = Mixture(
        {"B": Process(yields=50, ratio=gauss, coefficient=lambda rate, side: rate * side)}, samples["reference"]
    )
    channels = {"near": model(samples["data"]), "far": far(samples["data"].select(slice(0, 50)))}
    if asimov:
        channels["near"] = channels["near"].asimov(VALUES)
    return Workspace(
        channels,
        [Normal("lumi"), TwoPoint("model", ("A", "B")), LogNormal("rate", 1.0, 1.1), Poisson("side", 40, 42.0)],
    )


FUNCTIONS = {"far/B": gauss, "far/B/coefficient": lambda rate, side: rate * side, "near/S/shape/down": wave}


def at(found: Workspace) -> list[float]:
    return [VALUES[name] for name in found.names]


@pytest.mark.parametrize("asimov", [False, True])
def test_a_loaded_workspace_has_the_same_likelihood(
    tmp_path: Path, samples: dict[str, nu.Events], ratios: dict[str, nu.Ratio], asimov: bool
) -> None:
    made = workspace(samples, ratios, asimov=asimov)
    assert made.free == ("shape",)
    assert "free: shape" in repr(made)
    made.save(tmp_path / "ws")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ws"]  # no leavings
    assert len(list((tmp_path / "ws").glob("ratio-*"))) == 2  # each ratio once, though used three times
    found = Workspace.load(tmp_path / "ws", functions=FUNCTIONS)
    assert found.names == made.names
    assert found.cost(*at(found)) == made.cost(*at(made))
    np.testing.assert_array_equal(found.cost.grad(*at(found)), made.cost.grad(*at(made)))
    assert found.constraints[1].models == ("A", "B")  # type: ignore[attr-defined]
    # a fit is the same fit, and at other data too
    fits = [Minuit(w.cost, *at(w)).migrad() for w in (made, found)]
    np.testing.assert_array_equal(*(np.array(f.values) for f in fits))
    new = samples["data"].select(slice(0, 100))
    values = [VALUES[n] for n in found.channels["near"].names]
    one, two = (w.channels["near"].mixture(new)(*values) for w in (made, found))  # type: ignore[attr-defined]
    assert one == two != made.channels["near"](*values)


def test_saving_again_replaces_and_other_folders_stay(
    tmp_path: Path, samples: dict[str, nu.Events], ratios: dict[str, nu.Ratio]
) -> None:
    made = workspace(samples, ratios)
    made.save(tmp_path / "ws")
    Workspace({"near": made.channels["near"]}).save(tmp_path / "ws")
    assert tuple(Workspace.load(tmp_path / "ws").channels) == ("near",)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="expected a new folder or a workspace"):
        made.save(other)
    assert (other / "thesis.tex").read_text() == "years of work"


def test_functions_are_asked_for_by_name(
    tmp_path: Path, samples: dict[str, nu.Events], ratios: dict[str, nu.Ratio]
) -> None:
    made = workspace(samples, ratios)
    made.save(tmp_path / "ws")
    with pytest.raises(KeyError, match="the coefficient 'far/B/coefficient' was a function"):
        Workspace.load(tmp_path / "ws")
    only = {"far/B/coefficient": FUNCTIONS["far/B/coefficient"]}
    found = Workspace.load(tmp_path / "ws", functions=only)
    assert found.cost(*at(found)) == made.cost(*at(made))  # the tables need no functions
    with pytest.raises(KeyError, match="the log ratio 'far/B' was a function of your own; for new events"):
        found.channels["far"].mixture(samples["data"])  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="generate: no channel 'nera'; closest: 'near'"):
        Workspace.load(tmp_path / "ws", functions=only, generate={"nera": lambda values, rng: samples["data"]})
    drawn = Workspace.load(tmp_path / "ws", functions=FUNCTIONS, generate={"near": lambda v, rng: samples["S"]})
    again = drawn.channels["near"].sample(VALUES, np.random.default_rng(1))
    assert len(again.table) == len(samples["S"])  # type: ignore[attr-defined]


def test_damaged_and_foreign_files_are_refused(
    tmp_path: Path, samples: dict[str, nu.Events], ratios: dict[str, nu.Ratio]
) -> None:
    made = workspace(samples, ratios)
    made.save(tmp_path / "ws")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "ws", tmp_path / name))

    with pytest.raises(FileNotFoundError, match=r"expected a folder with workspace\.json"):
        Workspace.load(tmp_path / "none")
    edited = copy("edited") / "workspace.json"
    edited.write_text(edited.read_text().replace('"yields": 100.0', '"yields": 900.0'))
    with pytest.raises(CorruptFile, match="does not have the sha256 written in it"):
        Workspace.load(edited.parent)
    broken = copy("broken") / "workspace.json"
    broken.write_text(broken.read_text()[:-20])
    with pytest.raises(CorruptFile, match="expected JSON written by nuinfer"):
        Workspace.load(broken.parent)
    swapped = copy("swapped")
    shutil.copy(swapped / "ratio-0.safetensors", swapped / "ratio-1.safetensors")
    with pytest.raises(CorruptFile, match=r"expected the file ratio-1\.safetensors .* found another"):
        Workspace.load(swapped)
    lacking = copy("lacking")
    (lacking / "channel-1.safetensors").unlink()
    with pytest.raises(CorruptFile, match=r"channel-1\.safetensors that was saved with it, found none"):
        Workspace.load(lacking)
    flipped = copy("flipped") / "channel-0.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-5] ^= 1
    flipped.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"channel-0\.safetensors"):
        Workspace.load(flipped.parent)
    newer = copy("newer") / "workspace.json"
    index = json.loads(newer.read_text())
    index.pop("sha256")
    index["format"] = 99
    digest = hashlib.sha256(json.dumps(index, indent=1).encode()).hexdigest()
    newer.write_text(json.dumps({**index, "sha256": digest}, indent=1))
    with pytest.raises(ValueError, match="made by a newer nuinfer: found format 99"):
        Workspace.load(newer.parent)


def test_binned_channels_are_kept_whole(tmp_path: Path) -> None:
    axis = hist.axis.Regular(3, 0, 3)
    filled = hist.Hist(axis, storage="weight")
    filled.fill([0.5, 1.5, 1.5, 2.5], weight=[3.0, 4.0, 4.0, 2.0])
    signal = Template(contents=[2.0, 4.0, 1.0], coefficient=lambda mu: mu**2, uncorrelated={"gamma": [0.3, 0.0, 0.2]})
    background = Template(
        contents=filled, coefficient="b", norms={"lumi": 0.02}, free=["f"],
        shapes={"jes": ([2.5, 8.0, 2.0], [3.5, 8.5, 2.1])},
    )  # fmt: skip
    matrix = Template(contents=[[1.0, 2.0], [3.0, 4.0]], variance=[0.1, 0.2, 0.3, 0.4], coefficient="mu", gammas="g")
    model = BinnedMixture({"SR": {"S": signal, "B": background}, "CR": {"S": matrix}}, limits={"mu": (0, 3)})
    values = dict.fromkeys(model.names, 1.1) | {"lumi": 0.4, "jes": -1.6}
    toy = model({"SR": [4, 9, 3], "CR": [[1, 2], [4, 4]]}).sample(values, np.random.default_rng(1))
    made = Workspace({"binned": toy}, [Normal("lumi")])
    assert made.free == ("jes",)
    made.save(tmp_path / "ws")
    functions = {"binned/SR/S/coefficient": lambda mu: mu**2}
    found = Workspace.load(tmp_path / "ws", functions=functions)
    assert found.names == made.names
    at = [values[name] for name in made.names]
    assert found.cost(*at) == made.cost(*at)
    np.testing.assert_array_equal(found.cost.grad(*at), made.cost.grad(*at))
    again = found.channels["binned"]
    assert again._parameters == toy._parameters  # the limits
    np.testing.assert_array_equal(again.data["CR"], toy.data["CR"])  # type: ignore[attr-defined]
    other = hist.Hist(hist.axis.Regular(3, 0, 4), storage="weight")
    with pytest.raises(ValueError, match="data of SR: expected the bins of axis 0"):
        again.with_data({"SR": other, "CR": [[1, 2], [4, 4]]})  # type: ignore[attr-defined]


def test_bad_workspaces_are_refused(samples: dict[str, nu.Events], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        Workspace({})
    model = Mixture({"S": Process(yields=1.0, coefficient="mu", norms={"lumi": 0.1})}, samples["reference"])
    with pytest.raises(ValueError, match="'lumi' has more than one constraint"):
        Workspace({"a": model(samples["data"])}, [Normal("lumi"), Normal(["lumi", "b"])])
    with pytest.raises(TypeError, match="channel a: expected a mixture called with data, found Normal"):
        Workspace({"a": Normal("lumi")}).save(tmp_path / "ws")
    assert not list(tmp_path.iterdir())


# -- Asimov data and pseudo-experiments of sums ------------------------------------------------------------------------


def test_asimov_and_sample_of_a_sum_reach_all_its_parts(samples: dict[str, nu.Events]) -> None:
    rng = np.random.default_rng(1)
    model = Mixture(
        {"S": Process(yields=100, ratio=gauss, coefficient="mu", norms={"lumi": 0.1})}, samples["reference"]
    )

    def generate(values: Any, rng: np.random.Generator) -> nu.Events:
        count = rng.poisson(100 * values["mu"] * 1.1 ** values["lumi"])
        return nu.Events({"x": rng.normal(0.5, 0.7, count)})

    cost = model(samples["data"], generate=generate) + Normal("lumi")
    truth = {"mu": 1.5, "lumi": 0.5}
    expected = nu.likelihood.asimov(cost, truth)
    assert np.abs(expected.grad(1.5, 0.5)).max() < 1e-9
    assert np.abs(cost.grad(1.5, 0.5)).max() > 10  # the data themselves are elsewhere
    toys = [nu.likelihood.sample(cost, truth, rng) for _ in range(300)]
    counts = np.array([len(toy[0].table) for toy in toys])
    outcomes = np.array([toy[1].observed[0] for toy in toys])
    mean = 150 * 1.1**0.5
    assert abs(counts.mean() - mean) < 4 * np.sqrt(mean / 300)
    assert abs(counts.var() / mean - 1) < 4 * np.sqrt(2 / 300)
    assert abs(outcomes.mean() - 0.5) < 4 / np.sqrt(300)
    assert abs(outcomes.std() - 1) < 4 / np.sqrt(600)
    again = nu.likelihood.sample(toys[0], truth, rng)  # what was drawn can be drawn again
    assert len(again[0].table) > 0
    with pytest.raises(TypeError, match="expected a mixture called with generate="):
        nu.likelihood.sample(model(samples["data"]), truth, rng)
    with pytest.raises(KeyError, match="no value for the parameter 'lumi'"):
        nu.likelihood.asimov(cost, {"mu": 1.0})
    other = LeastSquares(np.arange(3.0), np.arange(3.0), np.ones(3), lambda x, mu: mu * x)
    with pytest.raises(TypeError, match=r"expected costs of nuinfer\.likelihood, found LeastSquares"):
        nu.likelihood.asimov(cost + other, truth)


def test_a_two_point_comparison_is_a_unit_normal_that_says_what_it_is() -> None:
    theory = TwoPoint("generator", ("GENIE", "NuWro"))
    assert theory(1.5) == Normal("generator")(1.5) == 2.25
    assert theory.asimov({"generator": 1.0}).models == ("GENIE", "NuWro")
    assert float(theory.tensor(torch.tensor([2.0], dtype=torch.float64))) == 4.0
    with pytest.raises(ValueError, match="expected the names of two models"):
        TwoPoint("generator", ("GENIE", "GENIE"))
