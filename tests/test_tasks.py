"""The map over tasks: the same numbers however it is run, killed or resumed."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import nuinfer
from nuinfer import store, tasks
from nuinfer.tasks import Failure, Results, TaskError, processes, run


def toy(task, rng):
    x = rng.normal(task, 1.0, size=50)
    return {"mean": x.mean(), "n": int((x > task).sum()), "ok": bool(x[0] > 0), "x": x[:3].astype("f4")}


def bits(results):
    """All values as bytes with their types, so that equal means equal to the last bit."""
    assert not results.failures
    return [
        {
            name: (np.asarray(v).dtype.str, np.shape(v), np.asarray(v).tobytes())
            for name, v in tasks._named(value).items()
        }
        for value in results.values
    ]


def quiet(function, items, **options):
    return run(function, items, progress=False, **options)


@pytest.fixture(scope="module")
def reference():
    return bits(quiet(toy, range(10), seed=3))


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_task_i_draws_from_child_i_of_the_seed():
    children = np.random.SeedSequence(3).spawn(10)
    expected = [np.random.default_rng(child).normal(size=2) for child in children]
    for chunk in (1, 3, 10, 99):
        values = quiet(lambda task, rng: rng.normal(size=2), 10, seed=3, chunk=chunk).stacked()["value"]
        np.testing.assert_array_equal(values, expected)
    assert not np.array_equal(quiet(lambda task, rng: rng.normal(size=2), 10, seed=4).stacked()["value"], expected)


def test_toys_have_the_spread_that_they_should():
    # sd of the mean of 50 unit normals over 2000 toys: 1/sqrt(50), known to 1/sqrt(2 * 2000); 4 sigma
    mean = quiet(toy, np.zeros(2000), seed=1).stacked()["mean"]
    assert abs(mean.std() * np.sqrt(50) - 1) < 4 / np.sqrt(2 * 2000)
    assert abs(np.corrcoef(mean[:-1], mean[1:])[0, 1]) < 4 / np.sqrt(2000)


def test_threads_give_the_same(reference):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert bits(quiet(toy, range(10), seed=3, executor=pool, chunk=2)) == reference


@pytest.mark.parametrize("chunk", [1, 4])
def test_processes_give_the_same(reference, chunk):
    assert bits(quiet(toy, range(10), seed=3, executor=processes(2), chunk=chunk)) == reference


def test_spawned_pool_gives_the_same_and_takes_lambdas(reference):
    context = multiprocessing.get_context("spawn")
    shift = 0.0  # an enclosed variable, which plain pickle refuses
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        assert bits(quiet(lambda task, rng: toy(task + shift, rng), range(10), seed=3, executor=pool)) == reference


def test_dask_gives_the_same(reference):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as client:
        assert bits(quiet(toy, range(10), seed=3, executor=client.get_executor())) == reference


def test_finishing_order_does_not_matter():
    def slow_first(task, rng):
        time.sleep(0.05 if task == 0 else 0.0)
        return task

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert quiet(slow_first, 6, seed=1, executor=pool).stacked()["value"].tolist() == [0, 1, 2, 3, 4, 5]


def test_workers_have_one_thread_and_this_process_gets_its_own_back():
    torch = pytest.importorskip("torch")
    environment = quiet(lambda task, rng: int(os.environ["VECLIB_MAXIMUM_THREADS"]), 2, seed=1, executor=processes(2))
    assert environment.values == (1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert quiet(lambda task, rng: torch.get_num_threads(), 2, seed=1).values == (1, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_processes_runs_in_other_processes_and_is_reused():
    pids = set(quiet(lambda task, rng: os.getpid(), 4, seed=1, executor=processes(2)).stacked()["value"].tolist())
    assert os.getpid() not in pids
    assert processes(2) is processes(2)
    assert nuinfer.processes is processes


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_keep_type_and_order_and_are_copies():
    memory = np.zeros(2)

    def function(task, rng):
        memory[:] = task
        return memory

    results = quiet(function, 3, seed=1, chunk=3)
    np.testing.assert_array_equal(results.stacked()["value"], [[0, 0], [1, 1], [2, 2]])
    assert memory.tolist() == [2, 2]
    assert [type(v) for v in quiet(lambda t, rng: [1, 2.0, True][t], 3, seed=1).values] == [
        np.int64,
        np.float64,
        np.bool_,
    ]
    assert len(results) == 3
    assert repr(results) == "Results(3 tasks, 0 failed; value)"


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (None, "task 0: .*found NoneType"),
        ("text", "task 0: .*found str"),
        ([1.0, 2.0], "task 0: .*found list; .*numpy.asarray"),
        ({"a": {"b": 1}}, "task 0, 'a': .*found dict"),
        ({}, "task 0: .*found an empty mapping"),
        ({1: 2.0}, "task 0: .*string keys, found the key 1"),
        (1j, "task 0: .*found complex"),
        (np.array(["a"]), "task 0: .*found <U1"),
        (np.ma.masked_array([1.0], [True]), "task 0: .*found MaskedArray"),
        (2**70, "task 0: .*found object"),
    ],
)
@pytest.mark.parametrize("errors", ["raise", "record"])
def test_other_results_are_a_type_error(result, found, errors):
    with pytest.raises(TypeError, match=found):
        quiet(lambda task, rng: result, 2, seed=1, errors=errors)


def test_other_results_of_a_worker_are_a_type_error():
    with pytest.raises(TypeError, match=r"task \d: .*found NoneType"):
        quiet(lambda task, rng: None, 2, seed=1, executor=processes(2))


def test_stacked_refuses_what_differs():
    with pytest.raises(ValueError, match=r"'value': expected one shape .*\(0,\) from task 0 and \(1,\) from task 1"):
        quiet(lambda task, rng: np.zeros(task), 3, seed=1).stacked()
    with pytest.raises(ValueError, match=r"same names .*\['a0'\] from task 0 and \['a1'\] from task 1"):
        quiet(lambda task, rng: {f"a{task}": 1}, 3, seed=1).stacked()


def uneven(task, rng):
    if task == 3:
        raise ZeroDivisionError("three")
    return rng.normal() if task == 1 else {"b": rng.normal(size=(task, 2)), "a": np.int16(task), "c": task < 2}


def test_results_of_every_form_are_saved(tmp_path):
    results = quiet(uneven, 5, seed=1, errors="record")
    results.save(tmp_path / "r.safetensors")
    back = Results.load(tmp_path / "r.safetensors")
    assert back.failures == results.failures == (Failure(3, "ZeroDivisionError: three"),)
    assert back.values[3] is None
    kept = [Results(tuple(v for v in r.values if v is not None)) for r in (back, results)]
    assert bits(kept[0]) == bits(kept[1])
    assert len(back) == 5


# -- failures ----------------------------------------------------------------------------------------------------------


class Awkward(Exception):
    """It can be pickled and cannot be unpickled, as many."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def fails_at_5(task, rng):
    if task == 5:
        raise Awkward("this", "that")
    return task


def executors():
    return [("here", lambda: None), ("processes", lambda: processes(2))]


@pytest.mark.parametrize(("name", "make"), executors())
def test_a_failing_task_stops_the_run(tmp_path, name, make):
    with pytest.raises(
        TaskError, match=r"task 5 \(5\) failed: Awkward: this and that; .*spawn_key=\(5,\).*are in "
    ) as e:
        quiet(fails_at_5, 8, seed=1, executor=make(), checkpoint=tmp_path / "c", chunk=2)
    assert "this and that" in str(e.value.__cause__)
    if name == "here":
        assert isinstance(e.value.__cause__, Awkward)
        assert {p.name for p in (tmp_path / "c").glob("chunk*")} == {f"chunk-00000{i}.safetensors" for i in (0, 1)}
    else:
        assert "fails_at_5" in e.value.__cause__.__notes__[0]  # the worker's traceback


class AtOnce(concurrent.futures.Executor):
    """Every chunk is finished when it has been submitted."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def test_chunks_finished_beside_a_failing_one_are_kept(tmp_path):
    with pytest.raises(TaskError, match="task 5"):
        quiet(fails_at_5, 20, seed=1, chunk=1, checkpoint=tmp_path, executor=AtOnce(), in_flight=20)
    assert len(list(tmp_path.glob("chunk-*"))) == 19


@pytest.mark.parametrize(("name", "make"), executors())
def test_failures_are_recorded(name, make):
    results = quiet(fails_at_5, 8, seed=1, executor=make(), errors="record", chunk=3)
    assert results.failures == (Failure(5, "Awkward: this and that"),)
    assert results.values == (0, 1, 2, 3, 4, None, 6, 7)
    assert results.done.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert repr(results) == "Results(8 tasks, 1 failed; value)"
    with pytest.raises(ValueError, match=r"1 of 8 failed, first task 5 \(Awkward: this and that\); skip_failures=True"):
        results.stacked()
    assert results.stacked(skip_failures=True)["value"].tolist() == results.done.tolist()


def test_all_failed_cannot_be_stacked():
    results = quiet(lambda task, rng: 1 / 0, 2, seed=1, errors="record")
    assert len(results.failures) == 2
    with pytest.raises(ValueError, match="all tasks failed"):
        results.stacked(skip_failures=True)


def test_a_dead_worker_is_named():
    with pytest.raises(TaskError, match=r"tasks 0 to 1: the executor lost them \(TerminatedWorkerError"):
        quiet(lambda task, rng: os.kill(os.getpid(), signal.SIGKILL), 2, seed=1, chunk=2, executor=processes(2))
    assert quiet(lambda task, rng: task, 2, seed=1, executor=processes(2)).values == (0, 1)  # a new pool is there


def test_a_function_that_does_not_travel():
    lock = threading.Lock()
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(TypeError, match=r"function: cannot be sent to the workers .*lock.*inside the function instead"),
    ):
        quiet(lambda task, rng: lock.locked(), 2, seed=1, executor=pool)


# -- checkpoints -------------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from test_tasks import toy
from nuinfer.tasks import processes, run

def slow(task, rng):
    if task == 7:
        Path(sys.argv[2]).touch()
        time.sleep(60)
    return toy(task, rng)
slow.__qualname__ = "toy"
run(slow, range(10), seed=3, chunk=2, checkpoint=sys.argv[1], progress=False)
"""


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None
        time.sleep(0.05)
    raise TimeoutError(path)


def test_killed_and_resumed_gives_the_same(tmp_path, reference):
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(nuinfer.__file__).parents[1])])
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "c"), str(tmp_path / "reached")]
    with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path}) as process:
        wait_for(tmp_path / "reached", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()}
    assert sorted(before) == [*(f"chunk-{i:06d}.safetensors" for i in range(3)), "manifest.safetensors"]

    called = []

    def counted(task, rng):
        called.append(task)
        return toy(task, rng)

    counted.__qualname__ = "toy"
    assert bits(quiet(counted, range(10), seed=3, chunk=2, checkpoint=tmp_path / "c")) == reference
    assert called == [6, 7, 8, 9]
    assert all((tmp_path / "c" / name).read_bytes() == content for name, content in before.items())
    assert bits(quiet(counted, range(10), seed=3, chunk=2, checkpoint=tmp_path / "c")) == reference
    assert called == [6, 7, 8, 9]


def test_resumed_on_another_executor(tmp_path, reference):
    quiet(toy, range(10), seed=3, chunk=2, checkpoint=tmp_path)
    for number in (1, 4):
        (tmp_path / f"chunk-{number:06d}.safetensors").unlink()
    assert bits(quiet(toy, range(10), seed=3, chunk=2, checkpoint=tmp_path, executor=processes(2))) == reference


def test_other_configurations_are_refused(tmp_path):
    same = {"seed": 3, "chunk": 2, "name": "nominal", "checkpoint": tmp_path}
    quiet(toy, range(10), **same)
    for function, items, change, message in [
        (toy, range(10), {"seed": 4}, "seed: expected 4, found 3"),
        (toy, range(9), {}, "number of tasks: expected 9, found 10"),
        (toy, range(1, 11), {}, "tasks: expected '.*', found '"),
        (toy, range(10), {"chunk": 5}, "chunk: expected 5, found 2"),
        (toy, range(10), {"name": "shifted"}, "name: expected 'shifted', found 'nominal'"),
        (uneven, range(10), {}, "function: expected 'uneven', found 'toy'"),
    ]:
        with pytest.raises(ValueError, match=rf"is of another run \({message}.*give another folder, or delete"):
            quiet(function, items, **{**same, **change})


def test_contents_of_tasks_count(tmp_path):
    first = [{"mass": 1.0, "x": np.arange(3)}, ("a", None, 2.5, Path("b"))]
    quiet(lambda task, rng: 1, first, seed=1, checkpoint=tmp_path)
    quiet(lambda task, rng: 1, [dict(first[0]), tuple(first[1])], seed=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="tasks: expected"):
        quiet(lambda task, rng: 1, [{"mass": 1.0, "x": np.array([0, 1, 3])}, first[1]], seed=1, checkpoint=tmp_path)


def test_tasks_that_cannot_be_compared_need_a_name(tmp_path):
    items = [object(), object()]
    with pytest.raises(TypeError, match=r"cannot compare tasks of type object; give the run a name="):
        quiet(lambda task, rng: 1, items, seed=1, checkpoint=tmp_path)
    assert quiet(lambda task, rng: 1, items, seed=1, checkpoint=tmp_path, name="objects").values == (1, 1)


def test_a_damaged_chunk_is_run_again_and_logged(tmp_path, reference, caplog):
    quiet(toy, range(10), seed=3, chunk=2, checkpoint=tmp_path)
    path = tmp_path / "chunk-000002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level(logging.WARNING, "nuinfer"):
        assert bits(quiet(toy, range(10), seed=3, chunk=2, checkpoint=tmp_path)) == reference
    assert "a damaged chunk is run again" in caplog.text
    assert path.name in caplog.text
    assert path.read_bytes() == content


def test_a_chunk_of_another_run_and_a_damaged_manifest_are_refused(tmp_path):
    for seed in (3, 4):
        quiet(toy, range(4), seed=seed, checkpoint=tmp_path / str(seed))
    (tmp_path / "3" / "chunk-000001.safetensors").replace(tmp_path / "4" / "chunk-000001.safetensors")
    with pytest.raises(ValueError, match=r"chunk-000001.*a chunk of another run lies in this checkpoint"):
        quiet(toy, range(4), seed=4, checkpoint=tmp_path / "4")
    (tmp_path / "3" / "manifest.safetensors").write_bytes(b"nothing")
    with pytest.raises(nuinfer.errors.CorruptFile, match="manifest"):
        quiet(toy, range(4), seed=3, checkpoint=tmp_path / "3")


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"expected a new or empty folder.*found thesis\.tex"):
        quiet(toy, 4, seed=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="expected a folder, found a file"):
        quiet(toy, 4, seed=1, checkpoint=tmp_path / "thesis.tex")


def test_chunks_with_failures_are_run_again_only_where_failures_stop(tmp_path):
    options = {"seed": 1, "checkpoint": tmp_path, "chunk": 2}
    recorded = quiet(fails_at_5, 8, errors="record", **options)
    assert quiet(fails_at_5, 8, errors="record", **options).failures == recorded.failures
    with pytest.raises(TaskError, match="task 5"):
        quiet(fails_at_5, 8, **options)

    def mended(task, rng):
        return task

    mended.__qualname__ = "fails_at_5"
    assert quiet(mended, 8, **options).values == tuple(range(8))


def test_an_interrupt_in_process_leaves_a_sound_checkpoint(tmp_path, reference):
    def interrupted(task, rng):
        if task == 5:
            raise KeyboardInterrupt
        return toy(task, rng)

    interrupted.__qualname__ = "toy"
    with pytest.raises(KeyboardInterrupt):
        quiet(interrupted, range(10), seed=3, chunk=2, checkpoint=tmp_path)
    assert len(list(tmp_path.glob("chunk-*"))) == 2
    assert bits(quiet(toy, range(10), seed=3, chunk=2, checkpoint=tmp_path)) == reference


STARTED: list[int] = []
RELEASE = threading.Event()


def interrupts_main(task, rng):
    STARTED.append(task)
    if task == 4 and not RELEASE.is_set():
        time.sleep(0.5)  # the main thread has saved the others and waits for this one
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        RELEASE.wait(10)  # still running while the main thread leaves
    return toy(task, rng)


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a process that a shell starts in the background inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_cancels_what_waits(tmp_path, reference):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            quiet(interrupts_main, range(10), seed=3, chunk=1, checkpoint=tmp_path, executor=pool, in_flight=4)
        RELEASE.set()
    assert STARTED == [0, 1, 2, 3, 4]  # those that waited were cancelled
    assert len(list(tmp_path.glob("chunk-*"))) == 4
    for path in tmp_path.iterdir():
        store.load(path, "tasks manifest" if path.stem == "manifest" else "tasks chunk")
    assert bits(quiet(interrupts_main, range(10), seed=3, chunk=1, checkpoint=tmp_path)) == reference


# -- bounds and arguments ----------------------------------------------------------------------------------------------


SUBMITTED: list[int] = []


class Counting(concurrent.futures.ThreadPoolExecutor):
    """Counts what is handed over."""

    def submit(self, *args):
        SUBMITTED.append(1)
        return super().submit(*args)


def counts_submitted(task, rng):
    if task == 0:
        for _ in range(1000):
            if len(SUBMITTED) >= 2:
                break
            time.sleep(0.01)
        time.sleep(0.1)  # would there be more?
    return len(SUBMITTED)


@pytest.mark.parametrize(("in_flight", "most"), [(None, 2), (4, 4)])
def test_chunks_in_flight_are_bounded(in_flight, most):
    SUBMITTED.clear()
    with Counting(1) as pool:
        assert quiet(counts_submitted, 20, seed=1, executor=pool, in_flight=in_flight).values[0] == most
    assert len(SUBMITTED) == 20


def test_default_chunks_do_not_depend_on_workers(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = quiet(lambda task, rng: rng.normal(), 600, seed=1, checkpoint=tmp_path, executor=pool)
    assert len(list(tmp_path.glob("chunk-*"))) == 200
    assert bits(quiet(lambda task, rng: 0.0, 600, seed=1, checkpoint=tmp_path)) == bits(first)


def test_progress(capsys):
    run(lambda task, rng: 1, 3, seed=1, name="my toys")
    assert "my toys: 100%" in capsys.readouterr().err
    quiet(lambda task, rng: 1, 3, seed=1, name="my toys")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("items", "options", "error", "message"),
    [
        (0, {}, ValueError, "tasks: expected a positive integer, found 0"),
        ([], {}, ValueError, "tasks: expected at least one, found none"),
        (2, {"seed": -1}, ValueError, "seed: expected a non-negative integer, found -1"),
        (2, {"seed": None}, TypeError, "seed: expected an integer, found NoneType"),
        (2, {"seed": 1.0}, TypeError, "seed: expected an integer, found float"),
        (2, {"chunk": 0}, ValueError, "chunk: expected a positive integer, found 0"),
        (2, {"in_flight": 0}, ValueError, "in_flight: expected a positive integer, found 0"),
        (2, {"errors": "ignore"}, ValueError, "errors: expected 'raise' or 'record', found 'ignore'"),
        (2, {"executor": 4}, TypeError, r"executor: expected .*found int; nuinfer\.processes\(n\) makes one"),
    ],
)
def test_bad_arguments(items, options, error, message):
    with pytest.raises(error, match=message):
        quiet(toy, items, **{"seed": 1, **options})


def test_bad_number_of_processes():
    with pytest.raises(ValueError, match="n: expected a positive integer, found 0"):
        processes(0)


def test_a_forking_pool_is_refused():
    context = multiprocessing.get_context("fork")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(ValueError, match=r"expected a pool that does not fork .*use nuinfer\.processes\(n\)"),
    ):
        quiet(toy, 2, seed=1, executor=pool)
