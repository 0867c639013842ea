"""What all tests share: one thread per process, figures without a screen, the folder of the project."""

from __future__ import annotations

import os
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
