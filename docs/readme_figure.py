"""The example of README.md: makes its two files, runs its lines, and keeps its figure as docs/_static/readme.png.

python docs/readme_figure.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

import nuinfer as nu

FOLDER = Path(__file__).parent


def make_files(folder: Path, number: int = 10_000) -> None:
    """A simulation and pseudo-data of another momentum spectrum, seen by one toy detector."""
    for name, mean, width, seed in (("simulation", 0.0, 0.5, 1), ("data", 0.2, 0.45, 2)):
        rng = np.random.default_rng(seed)
        p_true = np.exp(rng.normal(mean, width, number))
        p = p_true * (1 + 0.2 * rng.standard_normal(number))
        pass_reco = (rng.random(number) < 0.9 * (1 - np.exp(-p_true / 0.4))) & (p > 0)
        events = nu.Events({"p_true": p_true, "p": np.where(pass_reco, p, np.nan), "pass_reco": pass_reco})
        nu.io.write_root(folder / f"{name}.root", events, tree="muons")


def run_example() -> None:
    # README begins
    import numpy as np

    import nuinfer as nu

    simulation = nu.read_root("simulation.root:muons", ["p", "p_true", "pass_reco"], weight="weight")
    data = nu.read_root("data.root:muons", ["p", "p_true", "pass_reco"])  # p_true only to check the answer

    result = nu.omnifold(data, simulation, reco=["p"], truth=["p_true"], members=4, bootstrap=20, seed=1)

    edges = np.array([0.4, 0.7, 0.9, 1.1, 1.4, 1.8, 2.4, 4.0])
    unfolded = result.spectrum({"p_true": edges})  # values, covariance, hist()
    prior, truth = (events.hist("p_true", edges).values() for events in (simulation, data))
    look = {"truth": truth, "prior": prior, "xlabel": "$p$ (GeV)", "ylabel": "muons", "density": True}
    panels = nu.plots.spectrum(edges, unfolded.values, unfolded.covariance, **look)
    nu.plots.save(panels[0].figure, "unfolded")  # unfolded.png and unfolded.pdf
    # README ends


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        before = Path.cwd()
        os.chdir(folder)
        try:
            run_example()
        finally:
            os.chdir(before)
        (FOLDER / "_static").mkdir(exist_ok=True)
        shutil.copyfile(Path(folder) / "unfolded.png", FOLDER / "_static" / "readme.png")


if __name__ == "__main__":
    main()
