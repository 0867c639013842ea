"""What all tests share: one thread per process, figures without a screen, the folder of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before the first import of numpy or torch in this process and its children.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return Path(__file__).parent.parent


@pytest.fixture
def fast_run(root: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs an analysis, by name, with ``--fast`` and further options into ``tmp_path``, where warnings are errors."""

    def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", f"analyses.{name}", "--fast", *options, "--out", str(tmp_path)]
        environment = os.environ | {"MPLBACKEND": "Agg"}
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run
