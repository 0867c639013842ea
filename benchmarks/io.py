"""What reading costs: ``read_root`` beside bare uproot, ragged columns as (values, offsets), and streaming.

    python benchmarks/io.py [--events 1000000] [--repeats 9]

Prints CPU seconds of the process (all threads, ``time.process_time``), medians over repetitions in which both sides
alternate, and their ratio.  Bare uproot is ``uproot.open(path)[tree].arrays(names, library=...)``, in both libraries and
with both of its handlers for local files; the fastest of the four counts.  Both sides read the same branches into
native byte order; ``read_root`` moreover makes event ids and weights, and shares the offsets of a collection.
Memory is the peak resident set of a child process over that of one that only imports and opens.
"""

from __future__ import annotations

import argparse
import os
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


def sample(kind: str, events: int, seed: int = 1) -> nu.Events:
    """Ten flat columns (half of them float32), or a cloud of on average ten objects with four float32 fields."""
    rng = np.random.default_rng(seed)
    if kind == "flat":
        return nu.Events({f"x{i}": rng.normal(size=events).astype("f4" if i % 2 else "f8") for i in range(10)})
    offsets = np.concatenate([[0], np.cumsum(rng.poisson(10, events))])
    values = {name: rng.normal(size=offsets[-1]).astype("f4") for name in FIELDS}
    return nu.Events({f"hits.{name}": nu.Ragged(column, offsets) for name, column in values.items()})


def write_vectors(path: Path, events: nu.Events) -> None:
    """The same cloud as an RNTuple, whose collections are vectors of structures."""
    io.write_root(path, events, layout="rntuple")


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def alternated(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Medians, the calls taking turns; the first round, which warms the caches, does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            spent = cpu(call)
            if turn:
                times[name].append(spent)
    return {name: median(values) for name, values in times.items()}


def bare(path: Path, names: list[str], library: str, handler: Any) -> object:
    """uproot by itself."""
    with uproot.open(path, handler=handler) as file:
        return file["events"].arrays(names, library=library)


def bare_calls(path: Path, names: list[str], libraries: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """Bare uproot in all its ways."""
    handlers = {"default": None, "memory-mapped": uproot.source.file.MemmapSource}
    return {
        f"uproot {library}, {label} handler": lambda library=library, handler=handler: bare(path, names, library, handler)
        for library in libraries
        for label, handler in handlers.items()
    }


def table(rows: list[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Print a markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join("---" for _ in header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def reading(folder: Path, events: int, repeats: int) -> None:
    """The first table: read_root and bare uproot."""
    rows = []
    for kind, layout, compression in (
        ("flat", "ttree", "zstd"), ("flat", "ttree", "lz4"), ("flat", "ttree", "none"), ("cloud", "ttree", "zstd"),
        ("cloud", "ttree", "lz4"), ("cloud", "ttree", "none"), ("flat", "rntuple", "zstd"), ("cloud", "rntuple", "zstd"),
    ):  # fmt: skip
        path = folder / f"{kind}_{layout}_{compression}.root"
        data = sample(kind, events)
        io.write_root(path, data, layout=layout, compression=compression)
        names = list(data.columns)
        asked = ["hits"] if layout == "rntuple" and kind == "cloud" else names
        libraries = ("np", "ak") if kind == "flat" and layout == "ttree" else ("ak",)
        weight = {"weight": "1.0"}  # as bare uproot, read neither the weight nor the id that write_root wrote
        calls: dict[str, Callable[[], object]] = {
            "nuinfer": lambda path=path, names=names: io.read_root(f"{path}:events", names),
            **bare_calls(path, [*asked, "weight", "id"], libraries),
        }
        del weight
        times = alternated(calls, repeats)
        ours = times.pop("nuinfer")
        best = min(times, key=times.__getitem__)
        rows.append((kind, layout, compression, f"{ours:.4f}", f"{times[best]:.4f}", best, f"{ours / times[best]:.2f}"))
    print(f"## Reading {events} events from ROOT, CPU seconds\n")
    table(rows, ("columns", "layout", "compression", "read_root", "bare uproot", "its fastest way", "ratio"))


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        reading(Path(name), options.events, options.repeats)


if __name__ == "__main__":
    main()
