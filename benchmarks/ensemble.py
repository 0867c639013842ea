"""What does a member of an ensemble cost when K networks train as one computation, beside K runs of a plain torch loop?

Both sides train perceptrons of 3 x 64 units on six columns.  Ours is `nuinfer.train.minimise`, as `fit_ratio` and
`omnifold` call it.  The plain side is the loop that one writes by hand: ``nn.Sequential``, ``torch.optim.AdamW`` (not
fused), batches of indices from a permutation, ``BCEWithLogitsLoss``.

(a) Wall seconds on two threads for the same number of steps at the same batch size: ours with K members over one plain
    run.  Both run in turns; the medians and the minima over the turns are compared.  Rounds in which other processes
    took more than 5% of the machine are left out and repeated; the last column says how many were left.
(b) CPU seconds on one thread to equal held-out loss.  The classes follow a known p(1 | x) = s(g(x)), so the
    loss is given in excess of the best possible one, as the mean over held-out events of
    KL = sum_y p(y | x) log(p(y | x) / q(y | x)).  Each side runs a grid of batch sizes and epochs with the same
    schedule of the learning rate, and is judged by its own cheapest setting that reaches the target: the lowest loss of
    the plain loop.
(c) ``--explore``: what the layout (batched products, vmap, a loop), kept buffers, chunks, threads and ``torch.compile``
    do.

    python -m benchmarks.ensemble [--parts a b] [--quick] [--explore]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import machine
from nuinfer import nets
from nuinfer.ensemble import Ensemble
from nuinfer.features import Batch, Inputs, Shape
from nuinfer.losses import bce
from nuinfer.nets import MLP, ModuleStack, Stack, Standardise, State, Workspace
from nuinfer.resample import Resample
from nuinfer.train import Risk, Training, minimise

COLUMNS, WIDTH, DEPTH = 6, 64, 3
BARS = {(256, 8): 1.7, (512, 8): 2.5, (1024, 8): 4.5, (512, 16): 4.0}  # (batch, members): ours over one plain run
CPU_BAR = 0.5  # CPU seconds per member over those of the plain loop
BUSY = 0.05  # share of the machine that others may take in a turn
LONGEST = 50.0  # seconds of one comparison: where others keep the machine busy, its rounds are counted as they are

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


# -- the task ----------------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Events x (N, 6), their class y (N,), and the exact log odds g(x) (N,)."""

    x: Tensor
    y: Tensor
    g: Tensor


def make_sample(events: int, seed: int) -> Sample:
    """x ~ N(0, 1), P(y = 1 | x) = 1 / (1 + e^-g(x)); g is odd, so that the classes are equally likely."""
    rng = np.random.default_rng([seed, events])
    x = rng.normal(size=(events, COLUMNS))
    g = 2 * np.sin(2 * x[:, 0] + x[:, 1]) + x[:, 2] * x[:, 3] * x[:, 4] + x[:, 5]
    y = rng.random(events) < 1 / (1 + np.exp(-g))
    return Sample(torch.from_numpy(x).float(), torch.from_numpy(y).float(), torch.from_numpy(g))


def excess(f: Tensor, g: Tensor) -> Tensor:
    """Mean loss of the log odds f (*, N) in excess of that of the exact ones g (N,)."""
    softplus, p = nn.functional.softplus, torch.sigmoid(g)
    return (p * (softplus(-f) - softplus(-g)) + (1 - p) * (softplus(f) - softplus(g))).mean(-1)


# -- the two sides -----------------------------------------------------------------------------------------------------


def network(activation: str = "relu") -> nn.Sequential:
    """The perceptron as one writes it by hand."""
    kind, sizes = ACTIVATIONS[activation], [COLUMNS, *[WIDTH] * DEPTH]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), kind())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))


def plain(sample: Sample, training: Training, net: nn.Module, *, fused: bool = False, schedule: bool = False) -> None:
    """The plain loop; ``schedule`` gives it the learning rates of `Training`."""
    optimiser = torch.optim.AdamW(
        net.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=fused
    )
    loss, step = nn.BCEWithLogitsLoss(), 0
    steps = training.epochs * math.ceil(len(sample.x) / training.batch)
    for _ in range(training.epochs):
        for rows in torch.randperm(len(sample.x)).split(training.batch):
            if schedule:
                optimiser.param_groups[0]["lr"] = training.rate(step, steps)
            optimiser.zero_grad()
            loss(net(sample.x[rows])[:, 0], sample.y[rows]).backward()
            optimiser.step()
            step += 1


def ours(
    sample: Sample, training: Training, members: int, stack: Stack, *, seed: int = 1, validation: float = 0.0
) -> Ensemble:
    """K members in the library's loop, with all that `fit_ratio` does for them."""
    inputs = Inputs(sample.x)
    standardise = Standardise.fit(inputs, torch.ones(len(inputs)))
    resample = Resample(seed=seed, members=members, validation=validation)
    risk = Risk(bce, (sample.y, 1 - sample.y), np.arange(len(inputs)), resample)
    start = stack.initial(seed, range(members))
    found = minimise(stack, start, inputs, risk, training, prepare=standardise, progress=False)
    return Ensemble(stack, found.state, standardise)


def mlp(activation: str = "relu") -> Stack:
    """The library's perceptron."""
    return MLP(width=WIDTH, depth=DEPTH, activation=activation).stack(Shape(COLUMNS))  # type: ignore[arg-type]


def flops(members: int, rows: int) -> float:
    """Multiplications and additions of training: three products a layer and row, two in the first layer."""
    return members * rows * (4 * COLUMNS * WIDTH + 6 * (WIDTH * WIDTH * (DEPTH - 1) + WIDTH))


# -- taking times ------------------------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """Wall and CPU seconds of one turn, and the share of the machine that other processes took."""

    wall: float
    cpu: float
    others: float


def _busy() -> float:
    """CPU seconds that all processes have used since the system started; NaN where it does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> Turn:
    """One turn of ``work``."""
    busy, wall, cpu = _busy(), time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    others = (_busy() - busy - cpu) / (wall * (os.cpu_count() or 1))
    return Turn(wall, cpu, others)


class Turns(NamedTuple):
    """Turns of several works in alternation: only those rounds in which the machine was ours, if there are any."""

    seconds: list[list[float]]  # (works, rounds)
    quiet: int
    rounds: int

    def median(self, work: int) -> float:
        """Median seconds of one work."""
        return statistics.median(self.seconds[work])

    def least(self, work: int) -> float:
        """Least seconds of one work."""
        return min(self.seconds[work])


def alternate(works: Sequence[Callable[[], object]], rounds: int) -> Turns:
    """A B ... A B ... until ``rounds`` rounds were quiet, three times as many were done, or LONGEST has passed.

    Wall seconds; with one thread CPU seconds, which others hardly disturb, of ``rounds`` rounds as they come.
    """
    alone = torch.get_num_threads() == 1
    done: list[list[Turn]] = []
    quiet: list[list[Turn]] = []
    end = time.perf_counter() + LONGEST
    while not done or (len(quiet) < rounds and len(done) < 3 * rounds and time.perf_counter() < end):
        done.append([timed(work) for work in works])
        if alone or not any(turn.others > BUSY for turn in done[-1]):
            quiet.append(done[-1])
    kept = quiet or done
    seconds = [[turns[w].cpu if alone else turns[w].wall for turns in kept] for w in range(len(works))]
    return Turns(seconds, len(quiet), len(done))


def matmul_rate(repeats: int = 20) -> float:
    """Floating-point operations per second of a float32 matrix product of 1024 x 1024, at best."""
    a, b, out = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1024, 1024)
    turns = alternate([partial(torch.mm, a, b, out=out)] * repeats, 1)
    return 2 * 1024**3 / min(map(min, turns.seconds))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; numbers with three digits."""
    lines = ["| " + " | ".join(head) + " |", "|:--" + "|--:" * (len(head) - 1) + "|"]
    for row in rows:
        cells = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def note(text: str) -> None:
    """A line on progress."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Setting:
    """What the command line asks for."""

    events: int
    rounds: int
    members: tuple[int, ...]
    batches: tuple[int, ...]
    activations: tuple[str, ...]
    pause: float

    def rest(self) -> None:
        """Leave the machine to others for a while."""
        time.sleep(self.pause)


# -- (a) wall seconds for the same steps -------------------------------------------------------------------------------


def same_steps(setting: Setting, threads: int = 2) -> str:
    """Table (a): one epoch of each."""
    torch.set_num_threads(threads)
    sample = make_sample(setting.events, 1)
    rows = []
    for activation, batch, members in product(setting.activations, setting.batches, setting.members):
        rows.append(_same_steps(setting, sample, activation, batch, members))
        note(f"(a) {activation}, batch {batch}, {members} members: {rows[-1][5]:.3g}")
    head = [
        "activation", "batch", "members", "plain ms/step", "ours ms/step", "ours / plain, medians", "minima", "bar",
        "per member / plain", "of the sgemm rate", "quiet rounds",
    ]  # fmt: skip
    return table(head, rows)


def _same_steps(setting: Setting, sample: Sample, activation: str, batch: int, members: int) -> list[object]:
    training, stack = Training(epochs=1, batch=batch, patience=None), mlp(activation)
    steps = math.ceil(len(sample.x) / batch)
    works: list[Callable[[], object]] = [
        lambda: plain(sample, training, network(activation)),
        lambda: ours(sample, training, members, stack),
    ]
    works[1]()  # its buffers are there afterwards
    setting.rest()
    rate = matmul_rate()
    turns = alternate(works, setting.rounds)
    one, all_ = turns.median(0), turns.median(1)
    bar = BARS.get((batch, members), "") if activation == "relu" and torch.get_num_threads() == 2 else ""
    speed = flops(members, steps * batch) / all_ / rate
    return [activation, batch, members, 1e3 * one / steps, 1e3 * all_ / steps, all_ / one,
            turns.least(1) / turns.least(0), bar, all_ / one / members, f"{speed:.0%}",
            f"{turns.quiet} of {turns.rounds}"]  # fmt: skip


# -- (b) CPU seconds to the same loss ----------------------------------------------------------------------------------


class Point(NamedTuple):
    """One setting of one side: CPU seconds per member, mean excess loss over members or runs, and its error."""

    side: str
    batch: int
    epochs: int
    cpu: float
    loss: float
    error: float


def learning_rate(batch: int) -> float:
    """The same rule for both sides: near the best of a scan at every batch size from 256 to 2,048."""
    return 1.2e-2 * math.sqrt(min(batch / 512, 4))


def same_loss(setting: Setting, ensembles: Sequence[int], epochs: Sequence[int], batches: Sequence[int]) -> str:
    """Tables (b): the cheapest settings that reach the target, and the grid."""
    torch.set_num_threads(1)
    sample, held = make_sample(setting.events, 1), make_sample(100_000, 2)
    points = []
    for members, length, batch in product((0, *ensembles), epochs, batches):
        rate = learning_rate(batch)
        training = Training(epochs=length, batch=batch, learning_rate=rate, patience=None)
        points.append(_point(sample, held, training, members, setting.activations[0]))
        note("(b) {}, batch {}, {} epochs: {:.2f} CPU s, {:.5f} +- {:.5f}".format(*points[-1]))
        setting.rest()
    return _judged(points) + "\n\n" + _grid(points)


def _point(sample: Sample, held: Sample, training: Training, members: int, activation: str) -> Point:
    if members:
        return _ours_point(sample, held, training, members, mlp(activation))
    return _plain_point(sample, held, training, activation)


def _plain_point(sample: Sample, held: Sample, training: Training, activation: str, runs: int = 3) -> Point:
    found = []
    for seed in range(runs):
        torch.manual_seed(seed)
        net = network(activation)
        turn = timed(partial(plain, sample, training, net, schedule=True))
        with torch.no_grad():
            found.append((turn.cpu, float(excess(net(held.x)[:, 0].double(), held.g))))
    cpu, loss = np.array(found).T
    return Point("plain", training.batch, training.epochs, float(np.median(cpu)), *_mean(loss))


def _ours_point(sample: Sample, held: Sample, training: Training, members: int, stack: Stack) -> Point:
    found: list[Ensemble] = []
    turn = timed(lambda: found.append(ours(sample, training, members, stack)))
    # the classes' totals differ by chance: log odds are the log ratio and the log of the totals' quotient
    offset = math.log(float(sample.y.sum() / (1 - sample.y).sum()))
    loss = excess(torch.from_numpy(found[0].log(Inputs(held.x))) + offset, held.g).numpy()
    return Point(f"{members} members", training.batch, training.epochs, turn.cpu / members, *_mean(loss))


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _judged(points: list[Point]) -> str:
    best = min((point for point in points if point.side == "plain"), key=lambda point: point.loss)
    rows = []
    for slack in (0.0, 0.05, 0.25):
        target = (best.loss + best.error) * (1 + slack)
        reached = [p for p in points if p.loss <= target]
        cheapest = {p.side: p for p in sorted(reached, key=lambda p: -p.cpu)}
        for side in dict.fromkeys(p.side for p in points):
            p = cheapest.get(side)
            cells: list[object] = ["-"] * 5
            if p is not None:
                cells = [p.batch, p.epochs, 1e3 * p.loss, p.cpu, p.cpu / cheapest["plain"].cpu]
            rows.append([f"{1e3 * target:.2f}", side, *cells, CPU_BAR if side != "plain" and not slack else ""])
    head = ["10³ target", "", "batch", "epochs", "10³ excess loss", "CPU s per member", "over plain", "bar"]
    return table(head, rows)


def _grid(points: list[Point]) -> str:
    rows = ([p.side, p.batch, p.epochs, p.cpu, f"{1e3 * p.loss:.2f} ± {1e3 * p.error:.2f}"] for p in points)
    return table(["", "batch", "epochs", "CPU s per member", "10³ excess loss"], rows)


# -- (c) what else one could do ----------------------------------------------------------------------------------------


class _Fresh(Workspace):
    """Buffers that are never used again."""

    def give(self, tensor: Tensor) -> None:
        """Forget it."""


class _Layers(Stack):
    """The batched products under torch's own autograd, compiled or not."""

    def __init__(self, *, compiled: bool) -> None:
        self.like = mlp()
        self.forward: Callable[..., Tensor] = nets._plain_layers
        if compiled:
            self.forward = torch.compile(nets._plain_layers, dynamic=False)

    def initial(self, seed: int, members: Sequence[int]) -> State:
        """As the library's."""
        return self.like.initial(seed, members)

    def __call__(self, state: State, batch: Batch, *, training: bool = False) -> Tensor:
        """Outputs (K, B)."""
        return self.forward(batch.flat, "relu", False, list(state.values()))[:, 0]


def _variants() -> dict[str, Stack]:
    fresh = mlp()
    fresh.work = _Fresh()  # type: ignore[attr-defined]
    return {
        "bmm, own backward pass, kept buffers (the library)": mlp(),
        "the same, fresh buffers": fresh,
        "bmm, autograd": _Layers(compiled=False),
        "bmm, autograd, torch.compile": _Layers(compiled=True),
        "vmap": ModuleStack(network, by="vmap"),
        "loop over members": ModuleStack(network),
    }


def layouts(setting: Setting, threads: int, batch: int = 512, members: int = 8) -> str:
    """Table (c): ways to evaluate the members, and ways to run the plain loop."""
    torch.set_num_threads(threads)
    sample = make_sample(setting.events // 2, 1)
    training = Training(epochs=1, batch=batch, patience=None)
    works: dict[str, Callable[[], object]] = {"plain, one run": lambda: plain(sample, training, network())}
    works["plain, fused AdamW"] = lambda: plain(sample, training, network(), fused=True)
    compiled = cast(nn.Module, torch.compile(network(), dynamic=False))
    works["plain, torch.compile"] = lambda: plain(sample, training, compiled)
    for name, stack in _variants().items():
        works[name] = partial(ours, sample, training, members, stack)
    works["the library, an epoch with 20% held out and validated"] = lambda: ours(
        sample, training, members, mlp(), validation=0.2
    )
    return _compared(setting, works, threads, math.ceil(len(sample.x) / batch))


def chunks(setting: Setting, threads: int, members: int = 16) -> str:
    """Table (c): networks that go through the forward and backward pass together."""
    torch.set_num_threads(threads)
    sample, parts = make_sample(setting.events // 2, 1), []
    for batch in (256, 512, 1024, 2048):
        works: dict[str, Callable[[], object]] = {}
        for chunk in (1, 2, 4, 8, 16, None):
            training, stack = Training(epochs=1, batch=batch, patience=None, chunk=chunk), mlp()
            name = f"batch {batch}, " + ("the library's choice" if chunk is None else f"chunks of {chunk}")
            works[name] = partial(ours, sample, training, members, stack)
        parts.append(_compared(setting, works, threads, math.ceil(len(sample.x) / batch)))
    return "\n\n".join(parts)


def _compared(setting: Setting, works: dict[str, Callable[[], object]], threads: int, steps: int) -> str:
    for work in works.values():
        work()  # compiles, and fills the buffers
    setting.rest()
    turns = alternate(list(works.values()), setting.rounds)
    rows = [
        [name, 1e3 * turns.median(w) / steps, 1e3 * turns.least(w) / steps, turns.median(w) / turns.median(0)]
        for w, name in enumerate(works)
    ]
    note(f"(c) {threads} threads: {len(works)} works, {turns.quiet} of {turns.rounds} rounds quiet")
    return table(
        [
            f"{threads} threads",
            ("CPU" if threads == 1 else "wall") + " ms/step, median",
            "minimum",
            "over the first line",
        ],
        rows,
    )


# -- the program -------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=("a", "b"), default=["a", "b"])
    parser.add_argument("--explore", action="store_true", help="part (c) too")
    parser.add_argument("--quick", action="store_true", help="fewer events, rounds and settings")
    parser.add_argument("--rounds", type=int, default=7, help="quiet rounds wanted")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024], help="of part (a)")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of part (a)")
    parser.add_argument("--activations", nargs="+", choices=tuple(ACTIVATIONS), default=list(ACTIVATIONS),
                        help="of part (a); part (b) takes the first")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="of part (a)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between bursts, on a machine that is shared")
    return parser.parse_args()


def load() -> str:
    """The load average of the last minute."""
    return f"load average {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def main() -> None:
    """Run the parts and print their tables."""
    options = arguments()
    quick = options.quick
    setting = Setting(
        events=40_000 if quick else 200_000,
        rounds=3 if quick else options.rounds,
        members=(1, 8) if quick else tuple(options.members),
        batches=tuple(options.batches),
        activations=("relu",) if quick else tuple(options.activations),
        pause=options.pause,
    )
    print(f"{machine.describe()}; {setting.events} events; {load()} at the start")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print(f"sgemm 1024, {threads} threads: {matmul_rate() / 1e9:.0f} Gflop/s")
    if "a" in options.parts:
        kind = "CPU" if options.threads == 1 else "wall"
        print(f"\n(a) {kind} seconds, {options.threads} threads\n")
        print(f"{same_steps(setting, options.threads)}\n\n{load()}")
    if "b" in options.parts:
        grid = ([8], (8, 16), (512, 1024)) if quick else ([8, 16], (2, 3, 4, 6, 8), (256, 512, 1024, 2048))
        print(f"\n(b) CPU seconds to equal held-out loss, one thread\n\n{same_loss(setting, *grid)}")
    for threads in (1, 2) if options.explore else ():
        print(f"\n(c) layouts, 8 members, batch 512\n\n{layouts(setting, threads)}")
        print(f"\n(c) chunks, 16 members\n\n{chunks(setting, threads)}\n\n{load()}")


if __name__ == "__main__":
    main()
