"""The classifiers of a hunt and the scores of all events, as a process of its own (`benchmarks.hunt` starts it).

Three ways to the same: ``batched`` is what `nuinfer.anomaly.hunting.hunt` does, ``separate`` trains one network after
the other with this library, ``plain`` with the torch loop that one writes by hand.  Each network is trained on the
events of four folds in signal region and sidebands, and scores all events of the fifth.

    python -m benchmarks.ours_hunt EVENTS.npz RESULT.npz --mode batched --windows 0 4 --members 10 --folds 5
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from nuinfer import hashing, metrics
from nuinfer.anomaly.bump import Exponential
from nuinfer.anomaly.hunting.classifiers import Learner
from nuinfer.anomaly.hunting.search import Search
from nuinfer.anomaly.regions import Window, sliding_windows
from nuinfer.anomaly.templates import Sidebands
from nuinfer.events import Events
from nuinfer.nets import MLP
from nuinfer.ratio import fit_ratio
from nuinfer.train import Training

FEATURES = ["x0", "x1", "x2", "x3"]
NETWORK = MLP(width=32, depth=2)
EPOCHS, BATCH, SEED = 10, 512, 1
TRAINING = Training(epochs=EPOCHS, batch=BATCH)


def windows_of() -> tuple[Window, ...]:
    """The nine."""
    return sliding_windows((2.7, 6.0), width=0.3, step=0.25, sideband=0.5)[:9]


def batched(events: Events, windows: list[Window], members: int, folds: int) -> Any:
    """All networks of the windows by the hunt's own training (W, N)."""
    learner = Learner(network=NETWORK, members=members, folds=folds, validation=0.0, training=TRAINING)
    search = Search.checked(
        "m", FEATURES, windows, background=Exponential(1), template=Sidebands(), learner=learner, efficiencies=[1.0],
        range=None, bins=40, fewest=1, allow_resonance=False,
    )  # fmt: skip
    (found,) = search.run([events], seed=SEED, progress=False)
    return np.stack([window.score for window in found.windows])


def rows_of(events: Events, window: Window) -> tuple[Any, Any]:
    """Signal region and sidebands."""
    mass = events.flat("m")
    return window.in_signal(mass), window.in_sidebands(mass)


def separate(events: Events, windows: list[Window], members: int, folds: int) -> Any:
    """One `fit_ratio` a network."""
    fold, scores = hashing.fold(events.id, folds, SEED, "fold"), np.zeros((len(windows), len(events)))
    for number, window in enumerate(windows):
        signal, side = rows_of(events, window)
        for k in range(folds):
            own = events.select(fold == k)
            for member in range(members):
                ratio = fit_ratio(
                    events.select(signal & (fold != k)), events.select(side & (fold != k)), FEATURES, network=NETWORK,
                    training=TRAINING, validation=0.0, seed=SEED + member, progress=False,
                )  # fmt: skip
                scores[number, fold == k] += np.exp(ratio.log(own)) / members
    return np.log(scores)


def plain(events: Events, windows: list[Window], members: int, folds: int) -> Any:
    """One torch loop a network: index batches of a permutation, AdamW, a cosine."""
    import torch

    x = torch.from_numpy(np.stack([events.flat(name) for name in FEATURES], 1)).float()
    fold, scores = hashing.fold(events.id, folds, SEED, "fold"), np.zeros((len(windows), len(events)))
    for number, window in enumerate(windows):
        signal, side = (torch.from_numpy(np.flatnonzero(part & True)) for part in rows_of(events, window))
        for k in range(folds):
            own = torch.from_numpy(fold == k)
            rows = torch.cat([signal[~own[signal]], side[~own[side]]])
            label = torch.cat([torch.ones(int((~own[signal]).sum())), torch.zeros(int((~own[side]).sum()))])
            for member in range(members):
                net = _trained(x, rows, label, member)
                with torch.no_grad():
                    scores[number, own.numpy()] += net(x[own]).squeeze(1).double().exp().numpy() / members
    return np.log(scores)


def _trained(x: Any, rows: Any, label: Any, member: int) -> Any:
    import torch
    from torch import nn

    torch.manual_seed(SEED + member)
    net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))
    steps = EPOCHS * -(-len(rows) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    positive = label.mean()
    weight = torch.where(label > 0, 0.5 / positive, 0.5 / (1 - positive))
    loss = nn.BCEWithLogitsLoss(reduction="none")
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows))
        for start in range(0, len(rows), BATCH):
            batch = order[start : start + BATCH]
            optimiser.zero_grad()
            (loss(net(x[rows[batch]]).squeeze(1), label[batch]) * weight[batch]).mean().backward()
            optimiser.step()
            schedule.step()
    return net


def main() -> None:
    """Write the scores and the mean area of signal (by the truth) against background in the signal regions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--mode", choices=["batched", "separate", "plain"], default="batched")
    parser.add_argument("--windows", type=int, nargs="+", default=list(range(9)))
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    with np.load(options.events) as file:
        events, truth = Events({name: file[name] for name in ["m", *FEATURES]}), file["truth"]
    windows = [windows_of()[number] for number in options.windows]
    score = globals()[options.mode](events, windows, options.members, options.folds)
    area = []
    for own, window in zip(score, windows, strict=True):
        inside = rows_of(events, window)[0]
        if (truth & inside).sum() > 20:
            area.append(metrics.roc_auc(own[truth & inside], own[~truth & inside]).value)
    np.savez(options.result, area=np.mean(area) if area else np.nan)


if __name__ == "__main__":
    main()
