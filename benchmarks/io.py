"""What reading costs: `read_root` beside bare uproot, ragged columns as (values, offsets), streaming, caches.

    python -m benchmarks.io [--events 1000000] [--rounds 5]

CPU seconds are ``time.process_time`` (all threads) of one reading in a warm process.  Every way of reading has child
processes of its own, one a round, the ways taking turns, five readings each; given are medians over all.  (In one
process the allocator's state, left by the way before, changes the numbers by up to a factor of two.)

Bare uproot is ``uproot.open(path)[tree].arrays(names, library=...)``: in both libraries, with its default handler for
local files and with the memory-mapping one; the fastest of the four counts.  Both sides read the same branches.
`read_root` also makes event ids, unless the file has them.

Memory is the peak resident set (``ru_maxrss``) of a child process that streams a small file of the same kind, and then
the large one: the growth from the first to the second.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import awkward as ak
import numpy as np
import uproot

import nuinfer as nu
from nuinfer import io

FIELDS = ("x", "y", "z", "q")
READINGS = 5  # in each child process, after one that does not count
FORMATS: dict[str, Callable[..., None]] = {
    "a.root": lambda path, events: io.write_root(path, events, compression="none"),
    "n.root": lambda path, events: io.write_root(path, events, layout="rntuple", compression="none"),
    "a.parquet": lambda path, events: io.write_parquet(path, events, compression="none"),
    "a.h5": io.write_hdf5,
    "a.npz": io.write_npz,
}


def sample(kind: str, events: int, seed: int = 1) -> nu.Events:
    """Ten flat columns (half of them float32), or a cloud of ten objects on average with four float32 fields."""
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return nu.Events({f"x{i}": rng.normal(size=events).astype("f4" if i % 2 else "f8") for i in range(10)})
    offsets = np.concatenate([[0], np.cumsum(rng.poisson(10, events))])
    values = {name: rng.normal(size=offsets[-1]).astype("f4") for name in FIELDS}
    return nu.Events({f"hits.{name}": nu.Ragged(column, offsets) for name, column in values.items()})


def write_foreign(path: Path, events: nu.Events, compression: Any) -> None:
    """A tree as others write it: no weight, no id, baskets of 100,000 entries."""
    data = {name: events[name] for name in events.columns}
    with uproot.recreate(path, compression=compression) as file:
        ragged = any(isinstance(column, nu.Ragged) for column in data.values())
        types = {name: "var * float32" if ragged else column.dtype for name, column in data.items()}
        tree = file.mktree("events", types, counter_name=lambda _: "nhits")
        for start in range(0, len(events), 100_000):
            part = events.select(slice(start, start + 100_000)).to_awkward()
            tree.extend({name: part["hits"][name[5:]] if ragged else part[name] for name in data})


# -- in the children --------------------------------------------------------------------------------------------------


def bare(path: str, names: list[str], library: str, handler: Any) -> object:
    """uproot by itself."""
    with uproot.open(path, handler=handler) as file:
        return file["events"].arrays(names, library=library)


def way(name: str, path: str, names: list[str]) -> Callable[[], object]:
    """One way to read."""
    if name == "read_root":
        return lambda: io.read_root(f"{path}:events", [n for n in names if n not in ("weight", "id")])
    library, mapped = name.split()
    handler = uproot.source.file.MemmapSource if mapped == "memmap" else None
    return lambda: bare(path, names, library, handler)


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def child_reading(name: str, path: str, *names: str) -> list[float]:
    """CPU seconds of some readings."""
    call = way(name, path, list(names))
    call()
    return [cpu(call) for _ in range(READINGS)]


def child_memory(small: str, large: str, step: str) -> float:
    """What streaming takes, in bytes."""

    def run(path: str) -> float:
        for part in io.iterate(path, step=step):
            for name in part:
                np.sum(getattr(part[name], "values", part[name]))
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024

    before = run(small)
    return run(large) - before


def spawn(task: str, *arguments: str) -> Any:
    """Run one of the tasks above in a process; through a shell, so that this process's peak memory stays out of it."""
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", "benchmarks.io", "--child", task, *arguments]
    root = Path(__file__).parent.parent
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)


# -- the tables -------------------------------------------------------------------------------------------------------


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a markdown table."""
    print(f"\n## {title}\n\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def timed(path: Path, names: list[str], ways: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Median CPU seconds of every way, the ways taking turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in ways:
            times[name] += spawn("reading", name, str(path), *names)
    return {name: median(values) for name, values in times.items()}


def reading(folder: Path, events: int, rounds: int) -> None:
    """`read_root` and bare uproot."""
    rows = []
    for kind in ("flat", "cloud"):
        data = sample(kind, events)
        kinds: dict[str, Callable[[Path], None]] = {
            "TTree of others, LZ4": lambda path, data=data: write_foreign(path, data, uproot.LZ4(1)),
            "TTree of others, ZSTD": lambda path, data=data: write_foreign(path, data, uproot.ZSTD(1)),
            "TTree of write_root, ZSTD": lambda path, data=data: io.write_root(path, data),
            "RNTuple of write_root, ZSTD": lambda path, data=data: io.write_root(path, data, layout="rntuple"),
        }
        for number, (label, write) in enumerate(kinds.items()):
            path = folder / f"{kind}{number}.root"
            write(path)
            names = list(data.columns) + (["weight", "id"] if "write_root" in label else [])
            libraries = ("np", "ak") if kind == "flat" else ("ak",)
            ways = tuple(f"{library} {handler}" for library in libraries for handler in ("default", "memmap"))
            asked = [n for n in names if "." not in n] + ["hits"] if "RNTuple" in label and kind == "cloud" else names
            times = timed(path, asked, ("read_root", *ways), rounds)
            ours = times.pop("read_root")
            best = min(times, key=times.__getitem__)
            usual = times["ak default"]
            rows.append((kind, label, f"{ours:.3f}", f"{times[best]:.3f} ({best})", f"{ours / times[best]:.2f}",
                         f"{usual:.3f}", f"{ours / usual:.2f}"))  # fmt: skip
            path.unlink()
    header = ("columns", "file", "read_root", "bare uproot, fastest", "ratio", "bare uproot as it comes", "ratio")
    table(f"Reading {events} events, CPU seconds", header, rows)


def conversion(folder: Path, events: int, repeats: int = 9) -> None:
    """Awkward arrays, as uproot gives them, to (values, offsets) in Events; the reading apart."""
    from nuinfer.io.root import columns_of

    path = folder / "cloud.root"
    write_foreign(path, sample("cloud", events), None)
    with uproot.open(path) as file:
        arrays = file["events"].arrays([f"hits.{f}" for f in FIELDS], library="ak", how=dict)
    record = ak.zip({"hits": ak.zip({f: arrays[f"hits.{f}"] for f in FIELDS})}, depth_limit=1)

    def as_read() -> nu.Events:
        found: dict[str, Any] = {}
        for name, array in arrays.items():
            found.update(columns_of(name, array.layout, {name}))
        return nu.Events(found, weight=np.ones(events), id=np.arange(events))

    calls = {"jagged branches": as_read, "a list of records, Events(array)": lambda: nu.Events(record)}
    calls |= {"reading and all, read_root": lambda: io.read_root(path, ["hits"])}
    rows = [(name, f"{median(cpu(call) for _ in range(repeats)) * 1e6 / events:.3f}") for name, call in calls.items()]
    table("Ragged to (values, offsets): CPU seconds per million events of ten 4-field objects", ("from", "CPU s"), rows)
    path.unlink()


def caching(folder: Path, events: int, repeats: int = 9) -> None:
    """First and second reading through a cache."""
    path = folder / "cached.root"
    io.write_root(path, sample("cloud", events))
    first = cpu(lambda: io.read_root(path, cache=folder / "cache"))
    second = median(cpu(lambda: io.read_root(path, cache=folder / "cache")) for _ in range(repeats))
    without = median(cpu(lambda: io.read_root(path)) for _ in range(repeats))
    size = sum(file.stat().st_size for file in (folder / "cache").glob("*/*")) / 1e6
    rows = [("without a cache", f"{without:.3f}"), ("the first time", f"{first:.3f}")]
    rows += [(f"the second time (reads and checks {size:.0f} MB)", f"{second:.3f}")]
    table(f"cache=, {events} events of ten 4-field objects, CPU seconds", ("reading", "CPU s"), rows)
    path.unlink()


def streaming(folder: Path, budget: str = "100 MB", large: float = 210e6) -> None:
    """Peak memory of streaming files of twice the allowed memory."""
    rows = []
    for kind, size in (("flat", 76), ("cloud", 192)):
        events = sample(kind, int(large / size))
        for name, write in FORMATS.items():
            write(folder / f"large_{name}", events)
            write(folder / f"small_{name}", events.select(slice(0, 1000)))
            taken = spawn("memory", str(folder / f"small_{name}"), str(folder / f"large_{name}"), budget)
            megabytes = (folder / f"large_{name}").stat().st_size / 1e6
            rows.append((kind, name, f"{megabytes:.0f}", f"{taken / 1e6:.0f}"))
            (folder / f"large_{name}").unlink()
    table(f"iterate(step='{budget}'): peak memory", ("columns", "file", "size, MB", "taken, MB"), rows)


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description="Cost of reading, against bare uproot.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, *arguments = options.child
        print(json.dumps({"reading": child_reading, "memory": child_memory}[task](*arguments)))
        return
    with tempfile.TemporaryDirectory() as name:
        reading(Path(name), options.events, options.rounds)
        conversion(Path(name), options.events)
        caching(Path(name), options.events)
        streaming(Path(name))


if __name__ == "__main__":
    main()
