r"""What binned methods unfold: the signal part of the data in reco bins, with its covariance by source.

With data d_r, background b_r, and of the simulation the signal S_r and the fakes F_r in bin r,

.. math:: m_r = d_r - b_r - F_r \quad\text{(subtract)}, \qquad
          m_r = (d_r - b_r)\, \frac{S_r}{S_r + F_r} \quad\text{(scale)}.

"subtract" keeps the fakes' absolute yield, which has to be that of the data's exposure; "scale" keeps their fraction in
each bin, and lets them follow the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import check_finite
from ..events import Events, flag
from ..histograms import Contents
from .binning import Binning
from .response import Response

__all__ = ["Counts", "Fakes", "Measured", "check_fakes"]

Floats = NDArray[np.float64]
Fakes = Literal["subtract", "scale"]
#: Events, a histogram (``hist.Hist`` or anything UHI), or contents (R,).
Counts = Any


@dataclass(frozen=True, eq=False)
class Measured:
    """The signal (R,) and what it comes from.

    ``covariances`` (R, R) by source: "data", and "background" where there is one; what the fakes' own statistics add is
    ``by_fakes`` and ``by_signal`` (R,), the derivatives by the simulated F_r and S_r.
    """

    signal: Floats
    covariances: dict[str, Floats]
    by_fakes: Floats
    by_signal: Floats

    @property
    def covariance(self) -> Floats:
        """Of data and background (R, R)."""
        return np.asarray(sum(self.covariances.values()))

    def precision(self, response: Response) -> Floats:
        """The inverse (R, R) of the covariance of data and background.

        Raises
        ------
        ValueError
            where it has none: for bins without variance (named), or combinations of bins without.
        """
        total = self.covariance
        bad = np.flatnonzero(~(np.diag(total) > 0))
        if len(bad):
            shown = "; ".join(f"bin {r} ({response.reco.label(int(r))})" for r in bad[:3])
            raise ValueError(f"covariance: expected a variance of each bin, found none in {len(bad)} of {len(total)} "
                             f"({shown}); merge reco bins, or give the expected covariance=")  # fmt: skip
        sigma = np.sqrt(np.diag(total))
        correlation = total / np.outer(sigma, sigma)
        if np.linalg.eigvalsh(correlation)[0] < 1e-12:
            raise ValueError("covariance: expected one that has an inverse, found combinations of bins without "
                             "variance; is it of more bins than throws?")  # fmt: skip
        return np.asarray(np.linalg.inv(correlation) / np.outer(sigma, sigma))

    @classmethod
    def of(
        cls, data: Counts, response: Response, *, background: Counts = None, fakes: Fakes = "subtract",
        covariance: ArrayLike | None = None,
    ) -> Measured:  # fmt: skip
        """The signal part of the data.

        Parameters
        ----------
        data:
            Events, a histogram, or contents (R,) of the response's reco bins.
        background:
            The same, expected in the data; its own statistical variance is known of events and of histograms with
            variances, and 0 otherwise.
        fakes:
            See the module.
        covariance:
            Of the data (R, R), or their variances (R,).  None: Poisson of contents, the sums of squared weights of
            events and of histograms with variances.

        Raises
        ------
        ValueError
            for other bins, contents that are not finite, a covariance that is not one, or more background and fakes
            than data.
        """
        check_fakes(fakes)
        found, variance = contents("data", data, response.reco)
        matrix = np.diag(variance if variance is not None else np.maximum(found, 0.0))
        covariances = {"data": matrix if covariance is None else _covariance(covariance, len(found))}
        if background is not None:
            expected, spread = contents("background", background, response.reco)
            found = found - expected
            covariances["background"] = np.diag(np.zeros(len(found)) if spread is None else spread)
        signal, other = response.both.sum(1), response.fakes
        measured = cls._subtracted(found, covariances, other) if fakes == "subtract" else cls._scaled(
            found, covariances, signal, other
        )  # fmt: skip
        if not measured.signal.sum() > 0:
            raise ValueError(f"data after subtraction of background and fakes: expected a positive yield, found "
                             f"{measured.signal.sum():g}; are background and simulation scaled to the data's "
                             f"exposure?")  # fmt: skip
        return measured

    @classmethod
    def _subtracted(cls, found: Floats, covariances: dict[str, Floats], fakes: Floats) -> Measured:
        return cls(found - fakes, covariances, np.full(len(found), -1.0), np.zeros(len(found)))

    @classmethod
    def _scaled(cls, found: Floats, covariances: dict[str, Floats], signal: Floats, fakes: Floats) -> Measured:
        total = signal + fakes
        seen = total > 0
        purity = np.divide(signal, total, out=np.ones(len(found)), where=seen)
        slope = np.divide(found, total**2, out=np.zeros(len(found)), where=seen)
        scaled = {name: c * np.outer(purity, purity) for name, c in covariances.items()}
        return cls(found * purity, scaled, -slope * signal, slope * fakes)


def contents(what: str, given: Counts, binning: Binning) -> tuple[Floats, Floats | None]:
    """Contents (B,) of events, a histogram or an array in these bins, and their variances, None if not known."""
    if isinstance(given, Events):
        rows = given.select(flag(given, "pass_reco")) if "pass_reco" in given else given
        return binning.fill(rows)
    if isinstance(given, Mapping):
        raise TypeError(
            f"{what}: expected events, a histogram or an array, found {type(given).__name__}; add up several"
        )
    found = Contents.of(what, given, negative=True)
    if found.values.size != binning.size:
        raise ValueError(f"{what}: expected contents of {binning!r}, found {found.values.size} bins")
    _check_axes(what, found, binning)
    return found.values, found.variances


def _check_axes(what: str, found: Contents, binning: Binning) -> None:
    """Raise where a histogram's edges are not those of the bins; categories may number them."""
    if found.axes is None or binning.grid is None or all(isinstance(axis, tuple) for axis in found.axes):
        return
    pairs = zip(binning.grid, found.axes, strict=False)  # as many of both where the shapes are equal
    axes = tuple(axis if isinstance(axis, tuple) else own for own, axis in pairs)
    Contents(found.values, None, binning.shape, axes).check_same(what, found)


def _covariance(given: ArrayLike, bins: int) -> Floats:
    found = np.asarray(given, np.float64)
    if found.shape not in ((bins,), (bins, bins)):
        raise ValueError(f"covariance: expected ({bins}, {bins}), or variances ({bins},), found shape {found.shape}")
    check_finite("covariance", found)
    matrix = np.diag(found) if found.ndim == 1 else found
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * np.abs(matrix).max()):
        raise ValueError("covariance: expected a symmetric matrix; is it the covariance, and not a correlation?")
    low = float(np.linalg.eigvalsh(matrix)[0])
    if low < -1e-9 * np.abs(matrix).max():
        raise ValueError(f"covariance: expected no negative eigenvalue, found {low:g}; a sum of covariances has none")
    return matrix


def check_fakes(fakes: str) -> None:
    """Raise ``ValueError`` for a rule that there is not."""
    if fakes not in get_args(Fakes):
        raise ValueError(f"fakes: expected 'subtract' or 'scale', found {fakes!r}")
