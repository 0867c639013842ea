"""One whole run of the public `omnifold` package on the Gaussian toy: toy data in (.npz), truth weights out (.npz).

It is run by a Python that has that package (see `benchmarks.omnifold_gaussian`), as a process of its own whose CPU time
counts from start to end.  It imports nothing of nuinfer.

Settings are those of the package's own test (its tests/test_omnifold.py, 100k + 100k events of a Gaussian smeared by
0.5): its `MLP` (layers 64, 128, 64, gelu), batches of 1,024 events, `normalize=True`; everything else at its default:
at most 50 epochs a step, patience 10, Adam with a learning rate of 1e-4, 80% of the events for training, three
iterations.  (Its default batch, 128, takes half as much CPU again for each epoch.)

The package clones a compiled network, and Keras 3 refuses to clone one whose loss it cannot find by name.  So the loss
is registered with Keras here, before the run; the package itself is left as it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# before numpy and TensorFlow are imported: both read these once
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from omnifold import MLP, DataLoader, MultiFold  # noqa: E402
from omnifold.net import weighted_binary_crossentropy  # noqa: E402

BATCH = 1024


class Recorded(MultiFold):  # type: ignore[misc]
    """The package's MultiFold, which keeps only its last truth weights, with those of each iteration."""

    def RunStep2(self, i: int) -> None:
        super().RunStep2(i)
        self.recorded = [*getattr(self, "recorded", []), np.array(self.weights_push, dtype=np.float64)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=".npz with data_x, simulation_t, simulation_x")
    parser.add_argument("--out", type=Path, required=True, help=".npz to write: weights (iterations, members, events)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000, help="rows to use of the data and of the simulation")
    parser.add_argument("--epochs", type=int, default=50, help="at most so many a step (50 is the package's default)")
    return parser.parse_args()


def loaders(path: Path, events: int) -> tuple[DataLoader, DataLoader]:
    """The data and the simulation, as float32 matrices (events, 1)."""
    with np.load(path) as file:
        toy = {name: file[name] for name in ("data_x", "simulation_t", "simulation_x")}
    short = {name: len(values) for name, values in toy.items() if len(values) < events}
    if short:
        raise SystemExit(f"{path}: expected at least {events} events, found {short}; make it again with as many")
    x, t, r = (toy[name][:events, None].astype(np.float32) for name in ("data_x", "simulation_t", "simulation_x"))
    return DataLoader(reco=x, normalize=True), DataLoader(reco=r, gen=t, normalize=True)


def main() -> None:
    """Unfold once and write the truth weights of every iteration."""
    options = arguments()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.saving.register_keras_serializable("omnifold")(weighted_binary_crossentropy)
    keras.utils.set_random_seed(options.seed)
    data, simulation = loaders(options.data, options.events)
    with tempfile.TemporaryDirectory() as scratch:
        unfolding = Recorded(
            "gaussian", MLP(1), MLP(1), data, simulation, niter=options.iterations, batch_size=BATCH,
            epochs=options.epochs, weights_folder=f"{scratch}/weights", log_folder=scratch,
        )  # fmt: skip
        unfolding.Unfold()
    modules = ", ".join(f"{module.__name__} {module.__version__}" for module in (tf, keras, np))
    versions = f"omnifold {version('omnifold')}, {modules}"
    np.savez(options.out, weights=np.stack(unfolding.recorded)[:, None], versions=versions)


if __name__ == "__main__":
    main()
