r"""A toy generator of charged-current muon-neutrino interactions on argon, with its exact cross-sections.

A neutrino of energy E (along z) meets a nucleon at rest, of mass :math:`M_t = M - E_b`, bound by E_b.  The muon leaves
with momentum p at angle theta and energy :math:`E_\mu`; with the energy transfer :math:`q_0 = E - E_\mu`,

.. math:: Q^2 = 2E(E_\mu - p\cos\theta) - m^2, \qquad W^2 = M_t^2 + 2 M_t q_0 - Q^2

exactly, W the mass of the hadrons.  Each class c of interactions is a strength times a line shape of unit integral,

.. math:: \frac{d^2\sigma_c}{dQ^2\,dW^2} = S_c(E, Q^2)\, f_c(W^2 | Q^2) \qquad\text{per nucleon of argon},

inside of phase space: :math:`E_b < q_0 \le E - \epsilon`, :math:`\epsilon = (Q^2 + m^2)/4E + E m^2/(Q^2 + m^2)` (which
is :math:`|\cos\theta| \le 1`), and W^2 > 0.  Given (E, Q^2) this is an interval of W^2, so that
:math:`d\sigma_c/dQ^2 = S_c [F_c(W^2_{hi}) - F_c(W^2_{lo})]` in closed form, F_c the cumulative line shape.

=================  =========================================  =================================================
class              strength S                                 line shape f
=================  =========================================  =================================================
0  quasi-elastic   (22/40) LS(E, Q2; M_A) R(Q2)               :math:`W^2 = M^2 + 2 \bar q p_F u`, Fermi gas
1  two nucleons    (22/40) X LS(E, Q2; 1 GeV) exp(-Q2/GeV^2)  :math:`W^2 = (1.08\,GeV)^2 + (0.25\,GeV^2) u`
2  resonance       N (G_F^2 cos^2 theta_C / 2 pi)             Breit-Wigner in W^2 of the Delta, from
                   (1 - y + y^2/2) (1 + Q2/M_R^2)^-4          (M + m_pi)^2 to (2 GeV)^2
=================  =========================================  =================================================

- LS is the cross-section of Llewellyn Smith (Phys. Rept. 3 (1972) 261; in the notation of Formaggio, Zeller, Rev. Mod.
  Phys. 84 (2012) 1307, arXiv:1305.7513) for a neutron, with dipole form factors.
- R = 1 - a exp(-Q2/0.15 GeV^2) stands for Pauli blocking and the random-phase approximation.
- Fermi motion: quasi-free scattering has :math:`W^2 \approx M^2 + 2 q_3 p_z`.  In a Fermi gas of momentum p_F the
  component p_z = u p_F has the density (3/4)(1 - u^2), abs(u) < 1, used for both line shapes in u; q_3 is taken at the
  peak, :math:`\bar q^2 = Q^2 + Q^4/4M^2 + (0.1\,GeV)^2`, whose last term keeps forward scattering from being sharp.
- y = (M_Delta^2 - M_t^2 + Q^2)/(2 M_t E), the inelasticity at the resonance, at most 1.  N is a size, M_R = 1.05 GeV.

The two models `MODELS` differ in M_A, X, N, a and p_F.

**Hadrons** (for the detector).  Quasi-elastic: a proton of kinetic energy q_0 - E_b along the momentum transfer (the
nucleus takes the momentum that is left).  Two nucleons: q_0 - E_b is shared by two protons, uniformly, one thrown
isotropically and one opposite, both added to the direction of the momentum transfer.  Resonance: decay at rest into
nucleon and pion, isotropic, boosted exactly; p pi+ : p pi0 : n pi+ = 162 : 44 : 22 by isospin in argon.  Neutrons
and neutral pions leave no columns.

**Everything is known.**  Rates are two-dimensional integrals of :math:`\phi\,d\sigma/dQ^2`; `differential` and
`bin_average` are the flux-averaged :math:`d^2\sigma/dp\,d\cos\theta`, with the Jacobian
:math:`dQ^2 dW^2 = (4 E M_t p^2/E_\mu)\,dp\,d\cos\theta`; events at other parameters are weights, the ratio of
:math:`\phi S`, since no line shape depends on a knob.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter

import nuinfer as nu
from nuinfer.unfolding.binning import Binning

from .flux import E_MAX, E_MIN, NOMINAL, Flux

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUASI_ELASTIC, TWO_NUCLEON, RESONANCE = range(3)
CLASSES = ("quasi-elastic", "two nucleons", "resonance")
NUCLEON, MUON, PION = 0.93892, 0.105658, 0.13957  # masses, GeV
DELTA, DELTA_WIDTH, W_MAX = 1.232, 0.117, 2.0  # GeV
PAIR_CENTRE, PAIR_HALF = 1.08**2, 0.25  # GeV^2
FERMI_CONSTANT, COS2_CABIBBO, HBARC2 = 1.16638e-5, 0.9493, 0.389379e-27  # GeV^-2, 1, cm^2 GeV^2
G2 = HBARC2 * FERMI_CONSTANT**2 * COS2_CABIBBO  # cm^2/GeV^2
NEUTRONS = 22 / 40  # of the nucleons
SUPPRESSION_SCALE, RESONANCE_AXIAL_MASS, PAIR_AXIAL_MASS = 0.15, 1.05, 1.0  # GeV^2, GeV, GeV
CHANNELS = np.cumsum([162, 44, 22]) / 228  # p pi+, p pi0, n pi+
Q2_MAX = 10.0  # GeV^2, above 2 M_t E + M_t^2 at 5 GeV


@dataclass(frozen=True)
class Model:
    """The physics parameters: M_A (GeV), X, N, a, p_F (GeV), E_b (GeV); knobs are in standard deviations.

    >>> round(MODELS["A"].shifted(axial_mass=1.0).axial_mass, 4)
    1.1052
    """

    axial_mass: float
    two_nucleon: float
    resonance: float
    suppression: float
    fermi: float = 0.22
    binding: float = 0.03

    @classmethod
    def of(cls, model: Model | str) -> Model:
        """A model itself, or by its name, ``"A"`` or ``"B"``; ``KeyError`` for another."""
        if isinstance(model, Model):
            return model
        if model not in MODELS:
            raise KeyError(f"model: expected one of {', '.join(MODELS)}, found {model!r}")
        return MODELS[model]

    @property
    def target(self) -> float:
        """M_t (GeV)."""
        return NUCLEON - self.binding

    def shifted(
        self, *, axial_mass: float = 0.0, two_nucleon: float = 0.0, resonance: float = 0.0, low_q2: float = 0.0
    ) -> Model:
        """At other values of the knobs: factors e^0.1, e^0.4, e^0.15 for one sigma; a by 0.5 in its logit.

        So no value of a knob makes a weight negative.
        """
        logit = np.log(self.suppression / (1 - self.suppression)) + 0.5 * low_q2
        return replace(
            self,
            axial_mass=self.axial_mass * float(np.exp(0.1 * axial_mass)),
            two_nucleon=self.two_nucleon * float(np.exp(0.4 * two_nucleon)),
            resonance=self.resonance * float(np.exp(0.15 * resonance)),
            suppression=float(1 / (1 + np.exp(-logit))),
        )


MODELS = {
    "A": Model(axial_mass=1.00, two_nucleon=0.30, resonance=1.6, suppression=0.3),
    "B": Model(axial_mass=1.15, two_nucleon=0.50, resonance=1.4, suppression=0.6, fermi=0.24),
}

# -- cross-sections ----------------------------------------------------------------------------------------------------


def llewellyn_smith(energy: ArrayLike, q2: ArrayLike, axial_mass: float) -> Floats:
    r"""Quasi-elastic d sigma/dQ^2 on a free neutron at rest, cm^2/GeV^2: E (\*), Q^2 (\*) -> (\*).

    Below zero, which the formula gets where no free neutron scatters, it is 0.
    """
    e, q2 = np.asarray(energy, np.float64), np.asarray(q2, np.float64)
    eta, mass2 = q2 / (4 * NUCLEON**2), (MUON / NUCLEON) ** 2
    electric = (1 + q2 / 0.71) ** -2
    magnetic = 4.706 * electric
    f1, f2 = (electric + eta * magnetic) / (1 + eta), (magnetic - electric) / (1 + eta)
    ga = 1.267 * (1 + q2 / axial_mass**2) ** -2
    gp = 2 * NUCLEON**2 * ga / (PION**2 + q2)
    small = (f1 + f2) ** 2 + (ga + 2 * gp) ** 2 - 4 * (1 + eta) * gp**2
    a = (1 + eta) * ga**2 - (1 - eta) * f1**2 + eta * (1 - eta) * f2**2 + 4 * eta * f1 * f2 - mass2 / 4 * small
    a *= mass2 + 4 * eta
    b, c = 4 * eta * ga * (f1 + f2), (ga**2 + f1**2 + eta * f2**2) / 4
    x = 4 * e / NUCLEON - 4 * eta - mass2  # (s - u) / M^2
    factor = G2 * NUCLEON**2 / (8 * np.pi)
    return np.asarray(np.maximum(factor / e**2 * (a + b * x + c * x**2), 0.0))


def strength(kind: int, energy: ArrayLike, q2: ArrayLike, model: Model) -> Floats:
    r"""S_c, cm^2/GeV^2 per nucleon of argon: E (\*), Q^2 (\*) -> (\*)."""
    e, q2 = np.asarray(energy, np.float64), np.asarray(q2, np.float64)
    if kind == QUASI_ELASTIC:
        return np.asarray(NEUTRONS * llewellyn_smith(e, q2, model.axial_mass) * low_q2_factor(q2, model))
    if kind == TWO_NUCLEON:
        return np.asarray(NEUTRONS * model.two_nucleon * llewellyn_smith(e, q2, PAIR_AXIAL_MASS) * np.exp(-q2))
    y = np.minimum((DELTA**2 - model.target**2 + q2) / (2 * model.target * e), 1.0)
    size = model.resonance * G2 / (2 * np.pi)
    return np.asarray(size * (1 - y + y**2 / 2) * (1 + q2 / RESONANCE_AXIAL_MASS**2) ** -4)


def low_q2_factor(q2: Floats, model: Model) -> Floats:
    """R(Q^2)."""
    return np.asarray(1 - model.suppression * np.exp(-q2 / SUPPRESSION_SCALE))


def line_density(kind: int, w2: Floats, q2: Floats, model: Model) -> Floats:
    r"""f_c(W^2 | Q^2), GeV^-2: (\*), (\*) -> (\*)."""
    if kind == RESONANCE:
        low, high = _breit_wigner_limits()
        width = DELTA * DELTA_WIDTH
        inside = (w2 > (NUCLEON + PION) ** 2) & (w2 < W_MAX**2)
        return np.where(inside, width / ((w2 - DELTA**2) ** 2 + width**2) / (high - low), 0.0)
    centre, half = _gas(kind, q2, model)
    return np.asarray(0.75 / half * np.maximum(1 - ((w2 - centre) / half) ** 2, 0.0))


def line_cumulative(kind: int, w2: Floats, q2: Floats, model: Model) -> Floats:
    r"""F_c(W^2 | Q^2): (\*), (\*) -> (\*)."""
    if kind == RESONANCE:
        low, high = _breit_wigner_limits()
        angle = np.arctan((w2 - DELTA**2) / (DELTA * DELTA_WIDTH))
        return np.asarray((np.clip(angle, low, high) - low) / (high - low))
    centre, half = _gas(kind, q2, model)
    u = np.clip((w2 - centre) / half, -1, 1)
    return np.asarray((2 + 3 * u - u**3) / 4)


def line_quantile(kind: int, level: Floats, q2: Floats, model: Model) -> Floats:
    r"""The inverse of `line_cumulative`, W^2 (GeV^2): (\*), (\*) -> (\*)."""
    if kind == RESONANCE:
        low, high = _breit_wigner_limits()
        return np.asarray(DELTA**2 + DELTA * DELTA_WIDTH * np.tan(low + level * (high - low)))
    centre, half = _gas(kind, q2, model)
    return np.asarray(centre + half * 2 * np.sin(np.arcsin(2 * level - 1) / 3))  # 3 sin x - 4 sin^3 x = sin 3x


def _gas(kind: int, q2: Floats, model: Model) -> tuple[float, Floats]:
    """Centre and half width of a line shape in u."""
    if kind == TWO_NUCLEON:
        return PAIR_CENTRE, np.full_like(q2, PAIR_HALF)
    return NUCLEON**2, 2 * model.fermi * np.sqrt(q2 + q2**2 / (4 * NUCLEON**2) + 0.1**2)


def _breit_wigner_limits() -> tuple[float, float]:
    """The arc tangents between which the Breit-Wigner lies."""
    low, high = ((edge**2 - DELTA**2) / (DELTA * DELTA_WIDTH) for edge in (NUCLEON + PION, W_MAX))
    return float(np.arctan(low)), float(np.arctan(high))


def phase_space(energy: Floats, q2: Floats, model: Model) -> tuple[Floats, Floats]:
    r"""Limits of W^2 (GeV^2) for given E, Q^2: (\*), (\*) -> (\*), (\*); the upper is the lower where there is none."""
    t, mass2 = model.target, MUON**2
    most = energy - (q2 + mass2) / (4 * energy) - energy * mass2 / (q2 + mass2)  # of q_0
    low = np.maximum(t**2 + 2 * t * model.binding - q2, 0.0)
    return low, np.maximum(t**2 + 2 * t * most - q2, low)


def _levels(kind: int, energy: Floats, q2: Floats, model: Model) -> tuple[Floats, Floats]:
    """F_c at both limits of phase space."""
    low, high = (line_cumulative(kind, edge, q2, model) for edge in phase_space(energy, q2, model))
    return low, high


def dsigma_dq2(kind: int, energy: ArrayLike, q2: ArrayLike, model: Model | str) -> Floats:
    r"""d sigma_c/dQ^2, cm^2/GeV^2 per nucleon of argon: E (\*), Q^2 (\*) -> (\*)."""
    model, e, q2 = Model.of(model), np.asarray(energy, np.float64), np.asarray(q2, np.float64)
    low, high = _levels(kind, e, q2, model)
    return np.asarray(strength(kind, e, q2, model) * (high - low))


# -- integrals ---------------------------------------------------------------------------------------------------------

_Q2_KNEE = 0.05  # GeV^2: coordinates are ln E and ln(1 + Q^2/knee), in which all densities are smooth


def _q2_of(b: Floats) -> tuple[Floats, Floats]:
    """Q^2 and dQ^2/db of the coordinate b."""
    return _Q2_KNEE * np.expm1(b), _Q2_KNEE * np.exp(b)


def _b_of(q2: float) -> float:
    return float(np.log1p(q2 / _Q2_KNEE))


def _nodes(low: ArrayLike, high: ArrayLike, n: int) -> tuple[Floats, Floats]:
    r"""Gauss-Legendre points and weights (\*, n) between ``low`` and ``high`` (\*)."""
    x, w = _legendre(n)
    a, b = (np.asarray(edge, np.float64)[..., None] for edge in (low, high))
    return a + (b - a) / 2 * (1 + x), (b - a) / 2 * w


_legendre = lru_cache(np.polynomial.legendre.leggauss)  # n^3 operations: once for each n


def total(kind: int, energy: ArrayLike, model: Model | str, *, points: int = 400) -> Floats:
    r"""sigma_c(E), cm^2 per nucleon of argon, by Gauss-Legendre quadrature: GeV (\*) -> (\*)."""
    e = np.asarray(energy, np.float64)
    b, weight = _nodes(0.0, _b_of(Q2_MAX), points)
    q2, slope = _q2_of(b)
    return np.asarray(dsigma_dq2(kind, e[..., None], q2, model) @ (weight * slope))


def rates(model: Model | str, flux: Flux = NOMINAL, *, points: int = 400) -> Floats:
    """Interactions per POT and nucleon (3,) of each class, integral of phi sigma_c dE; to a relative 1e-6."""
    return _rates(Model.of(model), flux, points).copy()


@lru_cache(16)
def _rates(model: Model, flux: Flux, points: int) -> Floats:
    log, weight = _nodes(np.log(E_MIN), np.log(E_MAX), points)
    e = np.exp(log)
    return np.array([total(kind, e, model, points=points) @ (flux.density(e) * e * weight) for kind in range(3)])


def differential(
    model: Model | str, p: ArrayLike, cosine: ArrayLike, *, flux: Flux = NOMINAL, points: int = 400
) -> Floats:  # fmt: skip
    r"""Flux-averaged d^2 sigma_c/dp dcos theta of each class, cm^2/GeV per nucleon of argon: (\*), (\*) -> (3, \*).

    Averaged over the whole flux, 0.2 to 5 GeV.  The integral over E is Gauss-Legendre in the square root of
    E - E_mu - E_b, ``points`` of them.
    """
    model = Model.of(model)
    p, c = (a[..., None] for a in np.broadcast_arrays(np.asarray(p, np.float64), np.asarray(cosine, np.float64)))
    muon = np.hypot(p, MUON)
    low = np.maximum(muon + model.binding, E_MIN)
    root, weight = _nodes(np.zeros(p.shape[:-1]), np.sqrt(np.maximum(E_MAX - low, 0.0))[..., 0], points)
    e = low + root**2
    q2, w2 = transfer(e, p, c, model)
    jacobian = 4 * e * model.target * p**2 / muon
    weight = weight * 2 * root * flux.density(e) * jacobian * (w2 > 0) / flux.integral()
    return np.stack([(weight * _at(kind, e, q2, w2, model)).sum(-1) for kind in range(3)])


def _at(kind: int, energy: Floats, q2: Floats, w2: Floats, model: Model) -> Floats:
    return strength(kind, energy, q2, model) * line_density(kind, w2, q2, model)


def bin_average(
    model: Model | str, p_edges: ArrayLike, cos_edges: ArrayLike, *, flux: Flux = NOMINAL, points: int = 400,
    inner: int = 12,
) -> Floats:  # fmt: skip
    """`differential`, all classes together, averaged over B bins: edges (B, 2), (B, 2) -> (B,).

    ``inner`` Gauss-Legendre points in each direction: to a relative 1e-4 (edges of phase space cross the bins).  The
    average is over the bin as it stands, also beyond the 5 GeV where the flux ends.

    Raises
    ------
    ValueError
        for edges of another shape, not finite, p below 0 or cos theta outside of -1 to 1.
    """
    p_edges, cos_edges = np.asarray(p_edges, np.float64), np.asarray(cos_edges, np.float64)
    _check_edges(p_edges, cos_edges)
    found = [_bin_average(Model.of(model), p, c, flux, points, inner) for p, c in zip(p_edges, cos_edges, strict=True)]
    return np.array(found)


def binned(model: Model | str, bins: Binning, *, flux: Flux = NOMINAL) -> Floats:
    """`bin_average` (B,) in bins of ``p_true`` and ``cos_true``; ``ValueError`` for bins of other columns."""
    if sorted(bins.names) != ["cos_true", "p_true"]:
        raise ValueError(f"bins: expected the columns p_true and cos_true, found {', '.join(bins.names)}")
    p, c = (bins.cells[:, bins.names.index(name)] for name in ("p_true", "cos_true"))
    return bin_average(model, p, c, flux=flux)


def _bin_average(model: Model, p: Floats, c: Floats, flux: Flux, points: int, inner: int) -> float:
    (x, wx), (y, wy) = _nodes(p[0], p[1], inner), _nodes(c[0], c[1], inner)
    found = differential(model, x[:, None], y, flux=flux, points=points).sum(0)
    return float(wx @ found @ wy / (wx.sum() * wy.sum()))


def _check_edges(p: Floats, c: Floats) -> None:
    if p.ndim != 2 or p.shape[1:] != (2,) or p.shape != c.shape:
        raise ValueError(f"edges: expected two arrays (B, 2), lower and upper of each bin, found {p.shape}, {c.shape}")
    if not (np.isfinite(p).all() and (np.diff(p) > 0).all() and (p >= 0).all()):
        raise ValueError(f"p_edges: expected finite, rising momenta from 0, found {p.tolist()}")
    if not ((np.abs(c) <= 1).all() and (np.diff(c) > 0).all()):
        raise ValueError(f"cos_edges: expected rising edges from -1 to 1, found {c.tolist()}")


def transfer(energy: Floats, p: Floats, cosine: Floats, model: Model) -> tuple[Floats, Floats]:
    """Q^2 and W^2 (GeV^2) of a muon, exactly."""
    muon = np.hypot(p, MUON)
    q2 = 2 * energy * (muon - p * cosine) - MUON**2
    return q2, model.target**2 + 2 * model.target * (energy - muon) - q2


# -- events ------------------------------------------------------------------------------------------------------------


def generate(
    model: Model | str, n: int, seed: int, *, flux: Flux = NOMINAL, classes: tuple[int, ...] = (0, 1, 2)
) -> nu.Events:  # fmt: skip
    """``n`` interactions in random order, drawn from phi(E) d^3 sigma exactly (by rejection under cells).

    Each has the weight sum of `rates` / n, interactions per POT and nucleon of argon.  Columns: ``enu``,
    ``interaction`` (0, 1, 2), ``q2``, ``q0``, ``w``, ``p_true``, ``cos_true`` in GeV, and momenta (GeV, z along the
    beam) ``muon_x``, ``muon_y``, ``muon_z``, and so on of ``proton``, ``second`` (the other proton of two nucleons)
    and ``pion`` (positive), zero where there is none.

    Raises
    ------
    ValueError
        for ``n`` below 1 or no classes; ``KeyError`` for an unknown model.
    """
    model = Model.of(model)
    if n < 1 or not set(classes) <= {0, 1, 2} or not classes:
        raise ValueError(f"generate: expected n of at least 1 and classes of 0, 1, 2, found n = {n}, {classes}")
    rng = np.random.default_rng([seed, 31, *classes])
    rate = rates(model, flux)[list(classes)]
    numbers = rng.multinomial(n, rate / rate.sum())
    kind = np.repeat(np.array(classes, np.int64), numbers)
    drawn = [_draw(k, m, model, flux, rng) for k, m in zip(classes, numbers, strict=True)]
    order = rng.permutation(n)
    energy, q2, w2 = (np.concatenate(part)[order] for part in zip(*drawn, strict=True))
    muon, kind = _muon(energy, q2, w2, model), kind[order]
    columns = {**muon, "interaction": kind, **_particles(muon, kind, model, rng)}
    return nu.Events(columns, weight=np.full(n, rate.sum() / n))


def _draw(kind: int, n: int, model: Model, flux: Flux, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """E, Q^2 and W^2 (n,) of one class."""
    cells = _cells(kind, model, flux)
    parts = [np.empty((2, 0))]
    while (missing := n - sum(part.shape[1] for part in parts)) > 0:
        parts.append(cells.accepted(int(1.3 * missing) + 100, rng)[:, :missing])
    energy, q2 = np.concatenate(parts, 1)
    low, high = _levels(kind, energy, q2, model)
    return energy, q2, line_quantile(kind, low + (high - low) * rng.random(n), q2, model)


class _Cells:
    """A density in (ln E, b) under one height in each of 120 x 120 cells, to draw from by rejection."""

    size, fine = 120, 4

    def __init__(self, kind: int, model: Model, flux: Flux) -> None:
        self.kind, self.model, self.flux = kind, model, flux
        self.low = np.array([np.log(E_MIN), 0.0])
        self.step = (np.array([np.log(E_MAX), _b_of(Q2_MAX)]) - self.low) / self.size
        self.height = self._heights()
        self.cumulative = np.cumsum(self.height.ravel()) / self.height.sum()

    def density(self, log: Floats, b: Floats) -> Floats:
        e, (q2, slope) = np.exp(log), _q2_of(b)
        return np.asarray(self.flux.density(e) * e * slope * dsigma_dq2(self.kind, e, q2, self.model))

    def _heights(self) -> Floats:
        """Above the density in each cell: 1.1 times the largest of 5 x 5 points, or 5% of a neighbour's.

        At the edge of phase space the points may miss a corner; the neighbours cover it.  `accepted` checks it.
        """
        at = np.arange(self.size * self.fine + 1) / self.fine
        log, b = (low + step * at for low, step in zip(self.low, self.step, strict=True))
        top = maximum_filter(self.density(log[:, None], b), self.fine + 1, mode="nearest")
        middle = slice(self.fine // 2, None, self.fine)
        top = top[middle, middle]
        return np.asarray(np.maximum(1.1 * top, 0.05 * maximum_filter(top, 3, mode="nearest")))

    def accepted(self, n: int, rng: np.random.Generator) -> Floats:
        """E and Q^2 (2, m) of the accepted among ``n`` trials."""
        cell = np.minimum(np.searchsorted(self.cumulative, rng.random(n), side="right"), self.size**2 - 1)
        at = np.stack(np.divmod(cell, self.size)) + rng.random((2, n))
        log, b = self.low[:, None] + self.step[:, None] * at
        ratio = self.density(log, b) / self.height.ravel()[cell]
        if ratio.max(initial=0.0) > 1:
            raise RuntimeError(
                f"{CLASSES[self.kind]}: a density {ratio.max():.3f} times that of its cell; use more cells"
            )
        keep = rng.random(n) < ratio
        return np.stack([np.exp(log[keep]), _q2_of(b[keep])[0]])


_cells = lru_cache(16)(_Cells)  # pseudo-experiments share them


def _muon(energy: Floats, q2: Floats, w2: Floats, model: Model) -> dict[str, Floats]:
    """The muon and the transfers from (E, Q^2, W^2), by the inverse of `transfer`."""
    q0 = (w2 - model.target**2 + q2) / (2 * model.target)
    muon = energy - q0
    p = np.sqrt(muon**2 - MUON**2)
    cosine = np.clip((2 * energy * muon - MUON**2 - q2) / (2 * energy * p), -1, 1)  # clips rounding at the edge only
    return {"enu": energy, "q2": q2, "q0": q0, "w": np.sqrt(w2), "p_true": p, "cos_true": cosine}


def _particles(events: dict[str, Floats], kind: Ints, model: Model, rng: np.random.Generator) -> dict[str, Floats]:
    """Momenta of muon, proton, second and pion, by column."""
    n = len(events["enu"])
    direction = _direction(events["cos_true"], 2 * np.pi * rng.random(n))
    muon = events["p_true"][:, None] * direction
    q = np.array([0.0, 0.0, 1.0]) * events["enu"][:, None] - muon
    free = events["q0"] - model.binding
    proton, second, pion = (np.zeros((n, 3)) for _ in range(3))
    for chosen, maker in ((QUASI_ELASTIC, _one), (TWO_NUCLEON, _two), (RESONANCE, _decay)):
        rows = kind == chosen
        given = _decay_input(events, rows, model) if chosen == RESONANCE else free[rows]
        proton[rows], second[rows], pion[rows] = maker(q[rows], given, rng)
    named = {"muon": muon, "proton": proton, "second": second, "pion": pion}
    return {f"{name}_{axis}": value[:, k] for name, value in named.items() for k, axis in enumerate("xyz")}


Momenta = tuple[Floats, Floats, Floats]


def _one(q: Floats, free: Floats, rng: np.random.Generator) -> Momenta:
    proton = _unit(q) * _momentum(free)[:, None]
    return proton, np.zeros_like(q), np.zeros_like(q)


def _two(q: Floats, free: Floats, rng: np.random.Generator) -> Momenta:
    thrown, share = _isotropic(len(q), rng), rng.random(len(q))
    first, second = (_unit(_unit(q) + sign * thrown) for sign in (1, -1))
    return first * _momentum(share * free)[:, None], second * _momentum((1 - share) * free)[:, None], np.zeros_like(q)


def _decay_input(events: dict[str, Floats], rows: NDArray[np.bool_], model: Model) -> Floats:
    return np.stack([events["w"][rows], events["q0"][rows] + model.target], 1)


def _decay(q: Floats, given: Floats, rng: np.random.Generator) -> Momenta:
    """A state of mass W and energy (n, 2), momentum q (n, 3), into nucleon and pion."""
    w, energy = given.T
    nucleon = (w**2 + NUCLEON**2 - PION**2) / (2 * w)
    k = np.sqrt(np.maximum(nucleon**2 - NUCLEON**2, 0.0))[:, None] * _isotropic(len(q), rng)
    proton, pion = _boosted(k, nucleon, q, energy, w), _boosted(-k, w - nucleon, q, energy, w)
    channel = np.searchsorted(CHANNELS, rng.random(len(q)), side="right")
    return proton * (channel < 2)[:, None], np.zeros_like(q), pion * (channel != 1)[:, None]


def _boosted(k: Floats, rest: Floats, q: Floats, energy: Floats, w: Floats) -> Floats:
    """Momentum (n, 3) of a particle of momentum k and energy ``rest`` in the frame of a state (energy, q) of mass w."""
    along = (k * q).sum(1) / (w * (energy + w)) + rest / w
    return np.asarray(k + along[:, None] * q)


def _momentum(kinetic: Floats) -> Floats:
    return np.sqrt(kinetic**2 + 2 * kinetic * NUCLEON)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _isotropic(n: int, rng: np.random.Generator) -> Floats:
    return _direction(2 * rng.random(n) - 1, 2 * np.pi * rng.random(n))


def _direction(cosine: Floats, azimuth: Floats) -> Floats:
    """Unit vectors (n, 3)."""
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], 1)


# -- weights -----------------------------------------------------------------------------------------------------------


def weight_factor(
    events: nu.Events, model: Model | str, *, to: Model | str | None = None, flux: Flux | None = None
) -> Floats:
    """What turns events (N,) of ``model`` and the nominal flux into those of ``to`` and ``flux``: phi' S' / (phi S).

    At fixed kinematics and class, so that a weighted sample has the rates and all distributions of the other model.
    ``to`` may differ from ``model`` in M_A, X, N and a only.  Neutral currents (``interaction`` 3) count as resonance.

    Raises
    ------
    ValueError
        for another p_F or E_b, which change the line shapes.
    """
    model, to = Model.of(model), Model.of(model if to is None else to)
    if (to.fermi, to.binding) != (model.fermi, model.binding):
        raise ValueError(f"weights: expected the fermi and binding of {model}, found {to}; generate events anew")
    energy, q2 = events["enu"], events["q2"]
    factor = np.ones(len(events))
    for kind in range(3) if to != model else ():
        rows = np.minimum(events["interaction"], RESONANCE) == kind
        ends = (strength(kind, energy[rows], q2[rows], m) for m in (to, model))
        factor[rows] = np.divide(*ends)
    return factor if flux is None else factor * flux.density(energy) / NOMINAL.density(energy)
