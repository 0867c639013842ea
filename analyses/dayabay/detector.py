r"""What the detectors make of deposited energy: three distortions and the bins of the fit, all linear in the counts.

1. Energy that the positron leaves in the acrylic vessel (IAV) is not seen: a matrix from deposited to scintillator
   energy, whose off-diagonal part a factor for each detector scales, columns normalised again.
2. Scintillator and electronics are nonlinear (LSNL): visible energy is :math:`s_d\, f(E)` with
   :math:`f = f_0 + \sum_k a_k (f_k - f_0)`.  Counts in a bin of visible energy are differences of their cumulative
   distribution at :math:`f^{-1}(E_{edge}/s_d)`.  Within the bins it is straight, as in the official model, or a cubic
   spline: with flat bins the derivatives in the energy scales jump whenever an edge passes another, which a fit of the
   scales cannot use.
3. Energy resolution: normal with :math:`\sigma/E = \sqrt{a^2 + b^2/E + c^2/E^2}`, from the middle of one bin to that
   of another.

Source: Daya Bay Collaboration, arXiv 1610.04802, sections III and V; 1902.08241 for the nonlinearity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from .release import Release

Values = Mapping[str, Tensor]
WithinBins = Literal["flat", "smooth"]
REFINED, LOWEST, HIGHEST = 4, 0.5, 12.1  # steps between points of the nonlinearity's curves; MeV, its ends


class Detector:
    """The fixed parts; counts are (*, 8, n, 240), any n spectra in each of the detectors.

    ``within_bins`` is "flat" or "smooth", of the distribution between edges.
    """

    def __init__(self, release: Release, within_bins: WithinBins = "flat") -> None:
        if within_bins not in ("flat", "smooth"):
            raise ValueError(f"within_bins: expected 'flat' or 'smooth', found {within_bins!r}")
        self.slopes = _spline_slopes(len(release.fine_edges)) if within_bins == "smooth" else None
        edges = torch.from_numpy(release.fine_edges)
        self.edges, self.width = edges, float(edges[1] - edges[0])
        self.centres = (edges[1:] + edges[:-1]) / 2
        iav = torch.from_numpy(release.iav)
        self.kept, self.lost = iav.diagonal().clone(), iav - torch.diag(iav.diagonal())
        self.light, self.visible = _refined(release)
        first = torch.from_numpy(np.searchsorted(release.edges, self.centres.numpy()) - 1)
        self.rebin = torch.stack([(first == i).double() for i in range(len(release.edges) - 1)])

    def response(self, values: Values) -> Tensor:
        """The matrices (*, 8, 26, 240) from deposited energy to the bins of the fit."""
        each = torch.eye(len(self.centres), dtype=torch.float64).expand(8, -1, -1)
        return self.detected(each, values).transpose(-1, -2)

    def detected(self, counts: Tensor, values: Values) -> Tensor:
        """Counts (*, 8, n, 26) in the bins of the fit, efficiencies included."""
        visible = self.nonlinear(self.through_vessel(counts, values["iav"]), values)
        efficiency = values["detector"][..., 0]
        return self.resolved(visible, values["resolution"]) * efficiency[..., None, None]

    def through_vessel(self, counts: Tensor, scale: Tensor) -> Tensor:
        """Counts in scintillator energy, for factors (*, 8) of the energy lost."""
        total = self.kept + scale[..., None] * self.lost.sum(0)
        each = counts / torch.where(total > 0, total, 1.0)[..., None, :]
        return each * self.kept + (each * scale[..., None, None]) @ self.lost.T

    def nonlinear(self, counts: Tensor, values: Values) -> Tensor:
        """Counts in visible energy, for pulls (*, 4) and energy scales of the detectors."""
        curve = self.visible[0] + values["nonlinearity"] @ (self.visible[1:] - self.visible[0])
        at = _inverse(self.edges / values["detector"][..., 1, None], self.light, curve) / self.width
        return _cumulative(counts, at, self.slopes).diff(dim=-1)

    def resolved(self, counts: Tensor, resolution: Tensor) -> Tensor:
        """Counts (*, 8, n, 26) in the bins of the fit, for a, b, c (*, 3)."""
        a, b, c = resolution[..., None].unbind(-2)
        e = self.centres
        sigma = e * torch.sqrt(a**2 + b**2 / e + c**2 / e**2)
        distance = (e[:, None] - e) / sigma[..., None, :]
        kernel = torch.exp(-(distance**2) / 2) * (self.width / np.sqrt(2 * np.pi)) / sigma[..., None, :]
        return counts @ (self.rebin @ kernel).transpose(-1, -2)[..., None, :, :]


def _refined(release: Release) -> tuple[Tensor, Tensor]:
    """Scintillator energies (N,) and visible ones (5, N) on a finer grid, continued in a straight line."""
    x, y = release.nonlinearity_energy, release.nonlinearity * release.nonlinearity_energy
    inner = np.linspace(x[0], x[-1], (len(x) - 1) * REFINED + 1)
    found, ends = CubicSpline(x, y, axis=1)(inner), np.array([LOWEST, HIGHEST])
    slope = np.stack([found[:, 1] - found[:, 0], found[:, -1] - found[:, -2]]) / (inner[1] - inner[0])
    beyond = found[:, [0, -1]] + (ends - inner[[0, -1]]) * slope.T
    grid = np.concatenate([ends[:1], inner, ends[1:]])
    return torch.from_numpy(grid), torch.from_numpy(np.concatenate([beyond[:, :1], found, beyond[:, 1:]], 1))


def _inverse(y: Tensor, x: Tensor, curve: Tensor) -> Tensor:
    """Where the rising curve (*, N) over x (N,) has the values y (*, D, E), straight between its points and beyond."""
    if curve.ndim == 1:
        rows, wanted = curve, y
    else:
        batch = torch.broadcast_shapes(curve.shape[:-1], y.shape[:-2])
        rows, wanted = curve.expand(*batch, -1), y.expand(*batch, -1, -1).flatten(-2)
    with torch.no_grad():
        i = (torch.searchsorted(rows.contiguous(), wanted.contiguous()) - 1).clamp(0, len(x) - 2)
    low, high = (rows[at] if rows.ndim == 1 else rows.gather(-1, at) for at in (i, i + 1))
    found = x[i] + (wanted - low) / (high - low) * (x[i + 1] - x[i])
    return found if rows.ndim == 1 else found.unflatten(-1, y.shape[-2:])


def _spline_slopes(edges: int) -> Tensor:
    """The slopes (E, E) at the edges of the cubic spline through values at them, a unit apart."""
    spline = CubicSpline(np.arange(edges), np.eye(edges))
    return torch.from_numpy(spline(np.arange(edges), 1))


def _cumulative(counts: Tensor, at: Tensor, slopes: Tensor | None) -> Tensor:
    """The cumulative counts (*, D, n, E) of bins (*, D, n, B) at positions (*, D, E) in bins.

    Between the edges it is straight, or with ``slopes`` Hermite's cubic of the spline.
    """
    bins = counts.shape[-1]
    inside = at.clamp(0, bins)
    with torch.no_grad():
        i = inside.floor().clamp(max=bins - 1).long()
    shape = torch.broadcast_shapes(counts.shape[:-2], at.shape[:-2] + at.shape[-2:-1])
    index, t = i[..., None, :].expand(*shape, counts.shape[-2], -1), (inside - i)[..., None, :]
    full = torch.nn.functional.pad(counts.expand(*shape, *counts.shape[-2:]).cumsum(-1), (1, 0))
    low, high = full.gather(-1, index), full.gather(-1, index + 1)
    if slopes is None:
        return low + t * (high - low)
    bent = full @ slopes.T
    first, second = bent.gather(-1, index) - (high - low), bent.gather(-1, index + 1) - (high - low)
    return low + t * (high - low) + t * (1 - t) * ((1 - t) * first - t * second)
