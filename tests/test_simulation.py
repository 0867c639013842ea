"""Simulations: the joint density they should have, the same numbers however they are run, failures that are seen."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time

import awkward as ak
import numpy as np
import pytest
import torch
from torch import distributions as td

from nuinfer import Events, Ragged, processes
from nuinfer.posterior.priors import Prior, Truncated
from nuinfer.posterior.simulation import Simulations, as_experiments, simulate
from nuinfer.simulators import LinearGaussian
from nuinfer.tasks import TaskError

BOX = {"a": (0, 1), "b": (-1, 1)}


def scatter(theta, rng):
    return theta + rng.normal(size=theta.shape)


def clouds(theta, rng):
    """Per call: a Poisson number of decays, and a flat column."""
    times = rng.exponential(1.0, rng.poisson(5 * theta[0]))
    return {"n": len(times), "hits.t": times, "hits.q": (times > 1).astype(np.int32)}


def quiet(simulator, prior=BOX, n=60, **options):
    return simulate(simulator, prior, n, **{"seed": 1, "progress": False, **options})


def differing(one, other):
    """What is not equal to the last bit: columns, "id" or "weight"."""
    if one.columns != other.columns:
        return sorted(set(one.columns) ^ set(other.columns)) or ["order of columns"]
    pairs = {name: list(zip(_parts(one[name]), _parts(other[name]), strict=True)) for name in one}
    pairs |= {"id": [(one.id, other.id)], "weight": [(one.weight, other.weight)]}
    return [name for name, parts in pairs.items() if not all(_same(left, right) for left, right in parts)]


def _same(left, right):
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _parts(column):
    return column if isinstance(column, Ragged) else (column,)


# -- the joint density -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectorised", [True, 250, False])
def test_simulations_have_the_joint_density(vectorised):
    # theta and x of a linear-Gaussian problem are jointly normal; each element of their covariance S has the error
    # sqrt((S_ii S_jj + S_ij^2) / n)
    problem = LinearGaussian()
    mean, cov = problem.prior.mean, problem.prior.covariance

    def simulator(theta, rng):
        x = problem.predict(theta)
        return x + 0.5 * rng.normal(size=x.shape)

    prior = td.MultivariateNormal(torch.tensor(mean), torch.tensor(cov))
    made = quiet(simulator, prior, 4000, names=["theta0", "theta1"], vectorised=vectorised)
    assert made.names == ("theta0", "theta1")
    assert made.observables == ("x0", "x1", "x2")
    joint = np.concatenate([made.theta, np.stack([made.events[x] for x in made.observables], 1)], 1)
    cross = cov @ problem.matrix.T
    exact = np.block([[cov, cross], [cross.T, problem.marginal.covariance]])
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / len(joint))
    assert np.abs((np.cov(joint.T) - exact) / error).max() < 4.5
    shuffled = np.concatenate([made.theta, joint[::-1, 2:]], 1)  # x of another theta
    assert np.abs((np.cov(shuffled.T) - exact) / error).max() > 20


def test_random_numbers_are_new_in_each_row_and_each_call():
    for vectorised in (True, 7, False):
        noise = quiet(lambda theta, rng: rng.normal(size=theta.shape), vectorised=vectorised, chunk=7).events["x0"]
        assert len(np.unique(noise)) == 60
    assert not np.isin(quiet(scatter, seed=2).events["x0"], quiet(scatter).events["x0"]).any()


def test_a_proposal_is_weighted_by_prior_over_proposal():
    # E[a] = 1/2 under the flat prior, whatever theta is drawn from: a ~ Beta(2, 1) = 2 a, weight 1 / (2 a)
    made = quiet(scatter, {"a": (0, 1)}, 4000, proposal={"a": td.Beta(2.0, 1.0)})
    a, w = made.events["a"], made.events.weight
    np.testing.assert_allclose(w, 1 / (2 * a), rtol=1e-12)
    moment = w * (a - 0.5)
    assert abs(moment.mean()) < 4 * moment.std() / np.sqrt(len(a))
    assert a.mean() - 0.5 > 20 * a.std() / np.sqrt(len(a))  # without weights: 2/3
    with pytest.raises(ValueError, match=r"found \d+ of 60 outside.*proposal.restricted\(prior.contains\)"):
        quiet(scatter, {"a": (0, 1)}, proposal={"a": td.Normal(0.5, 1.0)})
    prior = Prior.of({"a": (0, 1)})
    cut = Prior.of({"a": td.Normal(0.5, 1.0)}).restricted(prior.contains)
    assert isinstance(cut, Truncated)
    assert abs(quiet(scatter, prior, 2000, proposal=cut).events.weight.mean() - 1) < 0.05
    with pytest.raises(ValueError, match="proposal: expected the prior's parameters a, b, in that order, found b, a"):
        quiet(scatter, proposal={"b": (0, 1), "a": (0, 1)})


def test_ids_belong_to_the_draws():
    first, again, other = (quiet(scatter, {"a": (0, 1)}, proposal=q).events.id
                           for q in (None, None, {"a": td.Beta(2.0, 1.0)}))  # fmt: skip
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, other]))) == 120


def test_weights_of_the_simulator_are_kept():
    def weighted(theta, rng):
        return Events({"x": theta[:, 0]}, weight=np.where(theta[:, 1] > 0, 1.0, -0.5))

    events = quiet(weighted).events
    np.testing.assert_array_equal(events.weight, np.where(events["b"] > 0, 1.0, -0.5))


# -- the same however it is run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("simulator", "vectorised"), [(scatter, True), (scatter, 5), (clouds, False)])
def test_workers_and_threads_do_not_matter(simulator, vectorised):
    dask = pytest.importorskip("distributed")
    here = quiet(simulator, vectorised=vectorised, chunk=10).events
    assert differing(quiet(simulator, vectorised=vectorised, chunk=10, executor=processes(2)).events, here) == []
    if vectorised is False:
        with dask.Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as client:
            there = quiet(simulator, vectorised=vectorised, chunk=10, executor=client.get_executor()).events
            assert differing(there, here) == []


@pytest.mark.parametrize(("simulator", "vectorised"), [(scatter, 5), (clouds, False)])
def test_chunks_do_not_matter_where_calls_are_fixed(simulator, vectorised):
    small, large = (quiet(simulator, vectorised=vectorised, chunk=chunk).events for chunk in (5, 60))
    assert differing(small, large) == []
    # a vectorised simulator without a fixed number has other random numbers, as the docstring says
    assert not np.array_equal(quiet(scatter, chunk=5).events["x0"], quiet(scatter, chunk=60).events["x0"])


SCRIPT = """
import sys, time, numpy as np
from nuinfer.posterior.simulation import simulate

def slow(theta, rng):
    time.sleep(float(sys.argv[1]))
    return {"n": theta[0] + rng.normal(), "hits.t": rng.exponential(1.0, rng.poisson(3))}

options = dict(vectorised=False, chunk=2, seed=4, progress=False)
made = simulate(slow, {"a": (0, 1)}, 40, cache=sys.argv[2], **options)
"""


def test_a_killed_run_is_taken_up_and_gives_the_same(tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT, "0.1", str(folder)])
    deadline = time.monotonic() + 120
    while len(list(folder.glob("chunk-*"))) < 3:
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = list(folder.glob("chunk-*.safetensors"))
    assert 3 <= len(done) < 20
    stamps = {path: path.stat().st_mtime_ns for path in done}
    resumed, whole = (_here(monkeypatch, cache) for cache in (folder, tmp_path / "whole"))
    assert differing(resumed.events, whole.events) == []
    assert {path: path.stat().st_mtime_ns for path in done} == stamps  # the finished ones were not made again
    assert len(list(folder.glob("chunk-*"))) == 20


def _here(monkeypatch, cache):
    monkeypatch.setattr(sys, "argv", ["", "0", str(cache)])
    names = {}
    exec(SCRIPT, names)
    return names["made"]


def test_a_cache_of_another_run_is_refused(tmp_path):
    quiet(scatter, cache=tmp_path)
    assert differing(quiet(scatter, cache=tmp_path).events, quiet(scatter).events) == []
    for options in ({"seed": 2}, {"n": 70}, {"vectorised": 5}, {"columns": ["p", "q"]}, {"name": "shifted"},
                    {"prior": {"a": (0, 1), "b": (-1, 2)}}):  # fmt: skip
        with pytest.raises(ValueError, match="is of another run"):
            quiet(scatter, cache=tmp_path, **options)
    with pytest.raises(ValueError, match=r"name: expected .*lambda.* found .*scatter"):
        quiet(lambda theta, rng: theta, cache=tmp_path)


# -- what comes out of simulators --------------------------------------------------------------------------------------


def ragged_lists(theta):
    return [np.arange(int(4 * a)) + 0.5 for a in theta[:, 0]]


MANY = {  # what a vectorised simulator returns -> columns
    "array": (lambda t: t, ["x0", "x1"]),
    "column": (lambda t: t[:, 0], ["x0"]),
    "list": (lambda t: t.tolist(), ["x0", "x1"]),
    "tensor": (lambda t: torch.tensor(t, requires_grad=True), ["x0", "x1"]),
    "mapping": (lambda t: {"u": t[:, 0], "n": (4 * t[:, 0]).astype(int), "ok": t[:, 1] > 0}, ["u", "n", "ok"]),
    "components": (lambda t: {"u": t, "v": torch.tensor(t[:, 0])}, ["u[0]", "u[1]", "v"]),
    "flat list": (lambda t: {"u": list(t[:, 0])}, ["u"]),
    "Ragged": (lambda t: {"h.x": Ragged.of(ragged_lists(t)), "u": t[:, 0]}, ["h.x", "u"]),
    "lists": (lambda t: {"h.x": ragged_lists(t)}, ["h.x"]),
    "nested": (lambda t: {"h": {"x": ragged_lists(t), "y": ragged_lists(t)}}, ["h.x", "h.y"]),
    "points": (lambda t: {"h": [np.stack([v, v], 1) for v in ragged_lists(t)]}, ["h.x0", "h.x1"]),
    "tensors": (lambda t: {"h.x": [torch.tensor(v) for v in ragged_lists(t)]}, ["h.x"]),
    "awkward": (lambda t: {"h.x": ak.Array(ragged_lists(t)), "u": t[:, 0]}, ["h.x", "u"]),
    "awkward records": (lambda t: ak.Array({"h": ak.zip({"x": ak.Array(ragged_lists(t))})}), ["h.x"]),
    "Events": (lambda t: Events({"u": t[:, 0], "h.x": Ragged.of(ragged_lists(t))}), ["u", "h.x"]),
}
ONE = {  # what a simulator of one theta returns -> columns
    "number": (lambda t: t[0], ["x0"]),
    "float": (lambda t: float(t[0]), ["x0"]),
    "array": (lambda t: t, ["x0", "x1"]),
    "tensor": (lambda t: torch.tensor(t), ["x0", "x1"]),
    "mapping": (lambda t: {"u": t[0], "n": int(4 * t[0]), "h.x": ragged_lists(t[None])[0]}, ["u", "n", "h.x"]),
    "lists": (lambda t: {"h.x": ragged_lists(t[None])[0].tolist()}, ["h.x"]),
    "nested": (lambda t: {"h": {"x": ragged_lists(t[None])[0]}}, ["h.x"]),
    "points": (lambda t: {"h": np.ones((int(4 * t[0]), 3))}, ["h.x0", "h.x1", "h.x2"]),
    "awkward": (lambda t: {"h.x": ak.Array(ragged_lists(t[None])[0])}, ["h.x"]),
    "awkward record": (lambda t: ak.Array([{"u": t[0], "h": {"x": ragged_lists(t[None])[0]}}])[0], ["u", "h.x"]),
    "awkward points": (
        lambda t: {"h": ak.zip({"x": ak.Array(ragged_lists(t[None])[0]), "y": np.ones(int(4 * t[0]))})},
        ["h.x", "h.y"],
    ),
    "Events": (lambda t: Events({"u": [t[0]], "h.x": Ragged.of(ragged_lists(t[None]))}), ["u", "h.x"]),
}


@pytest.mark.parametrize("form", MANY)
def test_vectorised_output(form):
    make, columns = MANY[form]
    check_columns(quiet(lambda theta, rng: make(theta), chunk=25), columns)


@pytest.mark.parametrize("form", ONE)
def test_output_of_one_call(form):
    make, columns = ONE[form]
    check_columns(quiet(lambda theta, rng: make(theta), vectorised=False, chunk=25), columns)


def check_columns(made, columns):
    events, a = made.events, made.events["a"]
    assert made.observables == tuple(columns)
    assert len(made) == 60
    for name in columns:
        if name.startswith("h"):  # clouds of int(4 a) points, some of them empty
            np.testing.assert_array_equal(events[name].counts, (4 * a).astype(int))
            assert 0 in events[name].counts
        elif name in ("x0", "u", "u[0]", "v"):
            np.testing.assert_array_equal(events[name], a)
        elif name in ("x1", "u[1]"):
            np.testing.assert_array_equal(events[name], events["b"])
        else:
            expected = {"n": (4 * a).astype(int), "ok": events["b"] > 0}[name]
            np.testing.assert_array_equal(events[name], expected)
            assert events[name].dtype == expected.dtype


def test_a_simulator_may_use_its_memory_again():
    memory = np.empty(5)

    def reuses(theta, rng):
        memory[:] = theta[:, 0]
        return {"u": memory}

    events = quiet(reuses, vectorised=5, chunk=60).events
    np.testing.assert_array_equal(events["u"], events["a"])


def test_clouds_may_all_be_empty(tmp_path):
    made = quiet(lambda theta, rng: {"h.x": []}, vectorised=False, n=4)
    assert made.events["h.x"].counts.tolist() == [0, 0, 0, 0]
    many = quiet(lambda theta, rng: {"h.x": Ragged.of([[]] * len(theta))}, n=4, cache=tmp_path)
    assert (
        quiet(lambda theta, rng: {"h.x": Ragged.of([[]] * len(theta))}, n=4, cache=tmp_path).events.columns
        == many.events.columns
    )


def test_theta_by_name_and_columns_by_name():
    many = quiet(lambda theta, rng: theta["a"] - theta["b"], theta="mapping", columns=["d"]).events
    np.testing.assert_array_equal(many["d"], many["a"] - many["b"])

    def single(theta, rng):
        assert type(theta["a"]) is float
        return theta["a"] - theta["b"]

    assert differing(quiet(single, theta="mapping", vectorised=False, columns=["d"]).events, many) == []


def test_a_simulator_cannot_change_theta():
    def spoils(theta, rng):
        theta[...] = 7.0
        return theta

    for vectorised in (True, False):
        assert quiet(spoils, vectorised=vectorised).theta.max() <= 1


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda t: t[:-1], {}, ValueError, "expected 60 rows, one per theta, found 59 in x0; vectorised=False"),
        (lambda t: {"u": t[:, 0], "v": t[:1, 0]}, {}, ValueError, "expected 60 rows, one per theta, found 1 in v"),
        (lambda t: Events({"u": t[:-1, 0]}), {}, ValueError, "expected 60 rows, one per theta, found 59 in its events"),
        (lambda t: Events({"u": [1.0, 2.0]}), {"vectorised": False}, ValueError, "expected 1 rows.*are a cloud"),
        (lambda t: {}, {}, ValueError, "expected at least one column"),
        (lambda t: None, {}, TypeError, "expected numbers or booleans, found NoneType"),
        (lambda t: t.astype(str), {}, TypeError, "expected numbers or booleans, found ndarray of <U"),
        (lambda t: t.astype(complex), {}, TypeError, "of complex128"),
        (lambda t: {"u": np.array([None] * 60)}, {}, TypeError, "column 'u': .* of object"),
        (lambda t: {1: t[:, 0]}, {}, TypeError, "expected columns' names, found the key 1"),
        (lambda t: ragged_lists(t), {}, ValueError, "found lists of several; a ragged column is a list of arrays in"),
        (lambda t: t[:, None], {}, ValueError, r"expected an array \(B, D\), found \(60, 1, 2\)"),
        (lambda t: t, {"columns": ["u"]}, ValueError, "expected 1 components, u, found 2"),
        (lambda t: {"a": t[:, 0]}, {}, ValueError, "expected columns that are no parameters, found a"),
        (lambda t: t[:, : 1 + (t[0, 0] > 0.5)], {"chunk": 1}, ValueError, "expected the same columns from each call"),
        (lambda t: {"u": t[0] if t[0] > 0.5 else [t[0]]}, {"vectorised": False, "chunk": 60}, ValueError,
         r"expected the same columns from each call, found u \(.*\) for simulation 0 and u \(.*\) for simulation"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("errors", ["raise", "record"])
def test_output_that_cannot_be_used_stops_the_run(make, options, error, message, errors):
    with pytest.raises(error, match=message):
        quiet(lambda theta, rng: make(theta), errors=errors, **options)


def test_output_that_cannot_be_used_is_the_same_error_from_a_worker():
    with pytest.raises(ValueError, match="expected 60 rows, one per theta, found 59 in x0"):
        quiet(lambda theta, rng: theta[:-1], executor=processes(2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ValueError, "n: expected a whole number from 1, found 0"),
        ({"n": 1.5}, ValueError, "n: expected a whole number from 1, found 1.5"),
        ({"chunk": 0}, ValueError, "chunk: expected a whole number"),
        ({"vectorised": 0}, ValueError, "vectorised: expected a whole number"),
        ({"vectorised": 4, "chunk": 10}, ValueError, "chunk: expected a multiple of vectorised=4"),
        ({"columns": "u"}, TypeError, "columns: expected a list of names"),
        ({"columns": ["u", "u"]}, ValueError, "columns: expected different names"),
        ({"errors": "ignore"}, ValueError, "expected errors 'raise' or 'record'"),
        ({"theta": "tensor"}, ValueError, "theta 'array' or 'mapping'"),
        ({"prior": {"a": (0, np.inf)}}, ValueError, "improper"),
        (
            {"simulator": lambda theta: theta},
            TypeError,
            r"one that does not take these \(too many positional arguments",
        ),
        ({"simulator": 3}, TypeError, r"simulator: expected a function of \(theta, rng\), found int"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        quiet(**{"simulator": scatter, **options})


# -- failures ----------------------------------------------------------------------------------------------------------


def fails(theta, rng):
    if (np.atleast_2d(theta)[:, 0] > 0.9).any():
        raise ZeroDivisionError("a is too large")
    return theta


def not_finite(theta, rng):
    return {"u": np.where(theta[..., 0] > 0.9, np.nan, theta[..., 0]), "v": theta[..., 1]}


def cloud_not_finite(theta, rng):
    return {"h.x": [[1.0, np.inf if a > 0.9 else 2.0] for a in theta[:, 0]]}


@pytest.mark.parametrize("vectorised", [True, 8, False])
@pytest.mark.parametrize("simulator", [fails, not_finite])
def test_failures_are_recorded_with_their_theta(simulator, vectorised, caplog):
    with caplog.at_level(logging.WARNING, "nuinfer"):
        made = quiet(simulator, vectorised=vectorised, errors="record")
    drawn = Prior.of(BOX).sample(60, seed=1)
    bad = drawn[:, 0] > 0.9
    assert 2 < bad.sum() < 20
    np.testing.assert_array_equal(made.failures["simulation"], np.flatnonzero(bad))
    np.testing.assert_array_equal(np.stack([made.failures[name] for name in "ab"], 1), drawn[bad])
    np.testing.assert_array_equal(made.theta, drawn[~bad])  # those that came about are all there, and no other
    wanted = "ZeroDivisionError: a is too large" if simulator is fails else "output not finite: column 'u' has nan"
    assert set(made.messages) == {wanted}
    assert len(caplog.records) == 1
    first = np.flatnonzero(bad)[0]
    assert f"{bad.sum()} of 60 simulations failed, first: number {first} (a = {drawn[first, 0]:.6g}" in caplog.text
    assert repr(made).startswith(f"Simulations({60 - bad.sum()} of 60, {bad.sum()} failed; number {first} (a = ")


def test_failures_by_chance_get_no_second_try():
    # rows raise with probability 2% whatever theta; tried again in halves, nearly all would pass, and none be reported
    def unlucky(theta, rng):
        if (rng.uniform(size=len(theta)) < 0.02).any():
            raise ValueError("unlucky")
        return theta

    made = quiet(unlucky, n=400, vectorised=20, errors="record")
    rows = np.concatenate([made.failures["simulation"], np.flatnonzero(np.isin(Prior.of(BOX).sample(400, seed=1)[:, 0],
                                                                               made.theta[:, 0]))])  # fmt: skip
    assert sorted(rows.tolist()) == list(range(400))
    # 20 calls, each raises with 1 - 0.98^20 = 0.33: 6.6 +- 2.1 calls
    assert len(made.messages) >= 4
    assert any("not when repeated in halves: which row fails is a matter of its random" in m for m in made.messages)
    alone = quiet(lambda theta, rng: unlucky(theta[None], rng)[0], n=400, vectorised=False, errors="record")
    assert 0 < len(alone.messages) < 8 + 4 * np.sqrt(8)
    assert set(alone.messages) == {"ValueError: unlucky"}


def test_points_of_clouds_have_to_be_finite():
    made = quiet(cloud_not_finite, errors="record")
    assert set(made.messages) == {"output not finite: column 'h.x' has inf"}
    assert (made.failures["a"] > 0.9).all()
    assert (made.events["a"] <= 0.9).all()


@pytest.mark.parametrize("workers", [False, True])
def test_failures_stop_the_run_unless_recorded(workers):
    pool = processes(2) if workers else None
    drawn = Prior.of(BOX).sample(60, seed=1)
    first = np.flatnonzero(drawn[:, 0] > 0.9)[0]
    message = (rf"of simulations 0 to 59 failed, first: number {first} \(a = {drawn[first, 0]:.6g}, b = .*\): "
               r"ZeroDivisionError: a is too large; number .*errors='record' goes on")  # fmt: skip
    with pytest.raises(TaskError, match=message):
        quiet(fails, executor=pool)
    with pytest.raises(TaskError, match=rf"{message[:-30]}.*spawn_key=\({first},\)"):
        quiet(fails, vectorised=False, chunk=60, executor=pool)
    with pytest.raises(TaskError, match="output not finite: column 'u' has nan"):
        quiet(not_finite, executor=pool)


def test_the_cause_is_chained():
    with pytest.raises(TaskError) as caught:
        quiet(fails)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)


def test_a_simulator_that_always_fails_is_not_called_for_ever():
    calls = []

    def broken(theta, rng):
        calls.append(len(theta))
        raise KeyError("x")

    with pytest.raises(TaskError, match="at least 10 of simulations 0 to 999 failed"):
        quiet(broken, n=5000)
    assert len(calls) < 60
    with pytest.raises(TaskError, match="all of 50 simulations failed"):
        quiet(broken, n=50, errors="record")


def test_a_cache_with_failures_is_no_way_round_them(tmp_path):
    quiet(fails, errors="record", cache=tmp_path)
    with pytest.raises(TaskError, match=r"\d of 60 simulations failed, first: number"):
        quiet(fails, cache=tmp_path)
    again = quiet(fails, errors="record", cache=tmp_path)
    assert differing(again.events, quiet(fails, errors="record").events) == []


# -- saved -------------------------------------------------------------------------------------------------------------


def test_simulations_are_saved_whole(tmp_path):
    def mixed(theta, rng):
        if theta[0] > 0.9:
            raise ValueError("too large")
        return clouds(theta, rng)

    made = quiet(mixed, vectorised=False, errors="record")
    made.save(tmp_path / "s.safetensors")
    again = Simulations.load(tmp_path / "s.safetensors")
    assert differing(again.events, made.events) == []
    assert differing(again.failures, made.failures) == []
    assert (again.messages, again.seed, repr(again)) == (made.messages, made.seed, repr(made))
    assert again.observations.columns == ("n", "hits.t", "hits.q")
    assert again.events["hits.t"].offsets is again.events["hits.q"].offsets  # one cloud


def test_unknown_priors_are_asked_for(tmp_path):
    prior = {"a": td.Kumaraswamy(2.0, 3.0)}
    quiet(scatter, prior).save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="give the whole prior again, distribution="):
        Simulations.load(tmp_path / "s.safetensors")
    assert len(Simulations.load(tmp_path / "s.safetensors", distribution=prior)) == 60


# -- tables of single events -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    mu = rng.uniform(0.5, 3.0, 40)
    run = np.repeat(np.arange(100, 140), rng.poisson(mu))
    events = Events({"run": run, "e": rng.exponential(1.0, len(run)), "mu": mu[run - 100]})
    return mu, events.select(rng.permutation(len(run)))


def test_experiments_have_their_events_in_order(table):
    mu, events = table
    ids = np.arange(139, 99, -1)  # in another order than in the table
    found = as_experiments(events, ["e"], experiment="run", ids=ids, theta={"mu": mu[ids - 100]}, cloud="hits")
    assert found.columns == ("mu", "hits.e")
    assert found.id.tolist() == ids.tolist()
    assert 0 in found["hits.e"].counts
    assert len(found["hits.e"].values) == len(events)
    for row, run in enumerate(ids):
        column = found["hits.e"]
        values = column.values[column.offsets[row] : column.offsets[row + 1]]
        np.testing.assert_array_equal(values, events["e"][events["run"] == run])
        assert found["mu"][row] == mu[run - 100]


def test_experiments_without_ids_are_those_with_events(table):
    mu, events = table
    found = as_experiments(events, ["e"], experiment="run", theta=["mu"], cloud="")
    assert found.id.tolist() == sorted(set(events["run"].tolist()))
    np.testing.assert_array_equal(found["mu"], mu[found.id - 100])
    assert (found["e"].counts > 0).all()


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"ids": [100, 101]}, ValueError, "'run': expected experiments among ids, found events of .* others"),
        ({}, {"ids": []}, ValueError, "ids: expected"),
        ({}, {"ids": [100, 100]}, ValueError, "ids: expected different integers"),
        ({}, {"ids": range(100, 140), "theta": ["mu"]}, ValueError, "expected events in each experiment to read mu"),
        ({}, {"theta": ["e"]}, ValueError, "expected 'e' to be the same in all events of an experiment"),
        ({}, {"theta": {"mu": [1.0]}}, ValueError, "of one length"),
        ({}, {"experiment": "e"}, TypeError, "group column 'e': expected integers"),
        ({}, {"columns": ["f"]}, KeyError, "no column 'f'"),
        ({"weight": 2.0}, {}, ValueError, "events: expected weights of 1"),
    ],
)
def test_tables_that_are_no_experiments(table, change, options, error, message):
    events = table[1].with_weight(change.get("weight", 1.0))
    with pytest.raises(error, match=message):
        as_experiments(events, **{"columns": ["e"], "experiment": "run", **options})


def test_ragged_columns_are_refused():
    hits = Events({"run": [1, 1], "hits.t": Ragged.of([[1.0], [2.0, 3.0]])})
    with pytest.raises(TypeError, match="expected a flat column"):
        as_experiments(hits, ["hits.t"], experiment="run")


# -- the page of the guide ---------------------------------------------------------------------------------------------


def test_the_page_of_the_guide_runs(root, tmp_path, monkeypatch):
    text = (root / "docs" / "guide" / "simulations.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
    shorter = (
        code.replace("10_000", "200").replace("nu.processes(8)", "None").replace("seed=1", "seed=1, progress=False")
    )
    assert code != shorter
    monkeypatch.chdir(tmp_path)
    names = {}
    with torch.random.fork_rng():
        exec(shorter.replace("sample(1_000, seed=1, progress=False)", "sample(1_000, seed=1)"), names)
    assert names["experiments"].columns == ("mu", "events.energy")
    assert 0 < len(names["simulations"].messages) < 40
