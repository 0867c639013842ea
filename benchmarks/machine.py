"""What all benchmarks share: the machine in one line, and the cost of a whole process.

The cost is what the operating system charges to a child process from its start to its end (imports, reading and
writing included), and to the children that it waited for.  It is taken by `wait4` in a small launcher between the
benchmark and the child: Linux counts the memory of the process that starts a child as the child's own, so that a
benchmark which holds arrays itself would report its own memory as the peak of everything it starts.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cost", "cpu_seconds", "describe", "one_thread", "peer_python"]

ROOT = Path(__file__).resolve().parents[1]

_LAUNCHER = """
import json, os, subprocess, sys, time
core = int(sys.argv[2])
if core >= 0 and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {core})
start = time.perf_counter()
child = subprocess.Popen(sys.argv[3:])
_, status, used = os.wait4(child.pid, 0)
wall = time.perf_counter() - start
child.returncode = os.waitstatus_to_exitcode(status)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w") as file:
    json.dump([child.returncode, used.ru_utime + used.ru_stime, wall, peak], file)
"""


class Cost(NamedTuple):
    """What a whole process took: CPU (user + system) and wall time in seconds, largest resident memory in bytes."""

    cpu: float
    wall: float
    peak_rss: int


def cpu_seconds(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, *, core: int | None = None
) -> Cost:
    """The cost of running ``command`` to its end, in the project's folder, with ``env`` added to the environment.

    ``core`` pins it to that processor core, where the system can.  The child's output is shown only if it fails, by a
    ``RuntimeError``.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder, "cost.json"), Path(folder, "log.txt")
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, report, -1 if core is None else core, *command]
        with log.open("w") as output:
            subprocess.run(
                [str(part) for part in launcher], env={**os.environ, **(env or {})}, cwd=ROOT, stdout=output,
                stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        code, cpu, wall, peak = json.loads(report.read_text()) if report.exists() else (None, 0.0, 0.0, 0)
        if code != 0:
            shown, end = " ".join(map(str, command)), "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise RuntimeError(f"{shown}: expected exit code 0, found {code}; its last lines:\n{end}")
    return Cost(cpu, wall, peak)


def one_thread() -> dict[str, str]:
    """Environment variables that keep OpenMP, BLAS, torch and TensorFlow to one thread in a child process."""
    names = (
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
        "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
    )  # fmt: skip
    return dict.fromkeys(names, "1")


def peer_python(folder: Path, requirements: str, package: str) -> Path:
    """The Python of a peer's environment in ``folder``, which is made where it is not there.

    It holds what ``peers/REQUIREMENTS`` lists, and then ``package`` ("name==version") without what that asks for.
    """
    python = folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    name, _, wanted = package.partition("==")
    if python.exists() and _version_in(python, name) == wanted:
        return python  # the package is installed last: it tells of a finished environment
    print(f"making the environment of {package} in {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", ROOT / "benchmarks" / "peers" / requirements], check=True)
    subprocess.run([*pip, "--no-deps", package], check=True)
    return python


def _version_in(python: Path, package: str) -> str:
    """The version of a package in another environment, or nothing where it is not there."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    run = subprocess.run([python, "-c", code, package], capture_output=True, text=True, check=False)
    return run.stdout.strip()


def describe(packages: Sequence[str] = ("torch", "numpy")) -> str:
    """The machine in one line: processor, cores, memory, system, and the versions of Python and ``packages``."""
    parts = [f"{_processor()}, {_cores()} cores", _memory(), f"{platform.system()} {platform.machine()}"]
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {_version(name)}" for name in packages]
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown processor")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{total / 2**30:.0f} GiB"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
