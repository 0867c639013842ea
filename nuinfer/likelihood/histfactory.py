"""HistFactory models as pyhf keeps them: workspaces in JSON, read into costs and written from them.

A workspace says the same as a `nuinfer.likelihood.BinnedMixture` with counts and constraints, in these words:

============================  =================================================================================
pyhf                          here
============================  =================================================================================
normfactor                    a factor of the coefficient, ``"mu"`` or ``"mu * k"``
lumi                          the factor ``lumi`` of the coefficient, with ``Normal("lumi", 1.0, sigma)``
normsys                       ``norms``, code 4, with ``Normal(name)``
histosys                      ``shapes``, code 4p, with ``Normal(name)``
staterror                     ``variance`` with statistics "lite": the sum over samples of its squares
shapesys                      ``uncorrelated``, and ``variance`` with statistics "full"
shapefactor                   ``free``
============================  =================================================================================

The factors of bins bear the names of pyhf's parameters, ``staterror_SR[0]``; pyhf also has those of bins without an
uncertainty, fixed at 1.  Both directions are plain dictionaries, and pyhf itself is not needed.

Source: Heinrich, Feickert, Stark, Cranmer, pyhf, JOSS 6 (2021) 2823; schema 1.0.0.
"""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray
from torch import Tensor

from ..errors import closest
from .constraints import Constraint, Normal
from .costs import Coefficient, Limits, parts
from .gammas import LIMITS, Row
from .samples import Template
from .templates import BinnedCost, BinnedMixture

__all__ = ["Imported", "from_pyhf", "to_pyhf"]

Floats = NDArray[np.float64]
Json = dict[str, Any]


# -- out ---------------------------------------------------------------------------------------------------------------


def to_pyhf(cost: Cost, *, poi: str, measurement: str = "measurement") -> Json:
    """The pyhf workspace of a cost, as a dictionary that ``json.dump`` takes.

    Parameters
    ----------
    cost:
        ``model(data) + Normal("jes") + ...``: one `BinnedCost` and the constraints of all its nuisances.
    poi:
        The parameter of interest.
    measurement:
        The name of the measurement.

    Notes
    -----
    Limits with both ends become bounds; pyhf gives the others its own, 0 to 10 for factors and -5 to 5 for nuisances.

    Examples
    --------
    >>> model = BinnedMixture({"SR": {"S": Template(contents=[2.0, 8.0], coefficient="mu"),
    ...                               "B": Template(contents=[50.0, 20.0], norms={"rate": 0.1})}})
    >>> spec = to_pyhf(model({"SR": [55, 31]}) + Normal("rate"), poi="mu")
    >>> spec["channels"][0]["samples"][1]["modifiers"]
    [{'name': 'rate', 'type': 'normsys', 'data': {'lo': 0.9, 'hi': 1.1}}]

    Raises
    ------
    ValueError, KeyError
        for what pyhf cannot say: coefficients other than a product of factors, other interpolations than code 4 and 4p,
        constraints that are not normal of unit width and independent, nuisances without one; an unknown ``poi``.
    """
    binned, constraints = _divided(cost)
    model = binned.mixture
    if poi not in model.names:
        raise KeyError(f"poi: no parameter {poi!r}; {closest(poi, model.names)}")
    for option, value, only in (("norm", model.norm_interpolation, "code4"),
                                ("shape", model.shape_interpolation, "code4p")):  # fmt: skip
        if value != only:
            raise ValueError(f"pyhf: a workspace cannot say {option}_interpolation={value!r}; build the model with "
                             f"{only!r}")  # fmt: skip
    samples: dict[str, list[Json]] = {name: [] for name in model.channels}
    for row in model.rows:
        samples[row.channel].append(_sample(row, model))
    config = {"poi": poi, "parameters": _parameters(binned, constraints)}
    return {
        "channels": [{"name": name, "samples": found} for name, found in samples.items()],
        "observations": [{"name": name, "data": n.reshape(-1).tolist()} for name, n in binned.data.items()],
        "measurements": [{"name": measurement, "config": config}],
        "version": "1.0.0",
    }


def _divided(cost: Cost) -> tuple[BinnedCost, dict[str, tuple[float, float]]]:
    """The binned part, and by parameter the outcome and the width of its constraint."""
    each = parts(cost)
    binned = [part for part in each if isinstance(part, BinnedCost)]
    if len(binned) != 1:
        raise ValueError(f"pyhf: expected a cost with one BinnedCost, found {len(binned)}; channels belong into one "
                         f"BinnedMixture")  # fmt: skip
    found: dict[str, tuple[float, float]] = {}
    for part in each:
        if part is binned[0]:
            continue
        for name, observed, sigma in _normal(part):
            if name in found or name not in binned[0].mixture.names:
                raise ValueError(f"pyhf: expected one constraint for each nuisance of the model, found "
                                 f"{'two' if name in found else 'another'} of {name!r}")  # fmt: skip
            found[name] = (observed, sigma)
    return binned[0], found


def _normal(part: object) -> list[tuple[str, float, float]]:
    """Names, outcomes and widths of an independent normal constraint."""
    if type(part) is not Normal:
        raise ValueError(f"pyhf: a workspace has normal constraints only, found {part!r}")
    widths = np.sqrt(np.diag(part.covariance))
    if np.any(part.covariance != np.diag(np.diag(part.covariance))):
        raise ValueError(f"pyhf: a workspace has no correlated constraints, found one of {', '.join(part.names)}; "
                         f"rotate the nuisances to independent ones")  # fmt: skip
    return list(zip(part.names, part.observed.tolist(), widths.tolist(), strict=True))


def _sample(row: Row, model: BinnedMixture) -> Json:
    template = row.template
    modifiers: list[Json] = [
        {"name": name, "type": "lumi" if name == "lumi" else "normfactor", "data": None} for name in _plain_factors(row)
    ]
    for name, pair in template.norms.items():
        down, up = cast(tuple[float, float], pair)
        modifiers.append({"name": name, "type": "normsys", "data": {"lo": down, "hi": up}})
    for name, (low, high) in template.varied.items():
        data = {"lo_data": low.values.tolist(), "hi_data": high.values.tolist()}
        modifiers.append({"name": name, "type": "histosys", "data": data})
    if template.variance is not None and model.statistics != "none":
        lite = model.statistics == "lite"
        own = f"gamma_{row.channel}_{row.process}"
        name = (template.gammas or f"staterror_{row.channel}") if lite else own
        sigma = np.sqrt(np.asarray(template.variance)).tolist()
        modifiers.append({"name": name, "type": "staterror" if lite else "shapesys", "data": sigma})
    for name, given in template.uncorrelated.items():
        modifiers.append({"name": name, "type": "shapesys", "data": np.asarray(given).tolist()})
    modifiers += [{"name": name, "type": "shapefactor", "data": None} for name in template.free]
    return {"name": row.process, "data": template.nominal.values.tolist(), "modifiers": modifiers}


def _plain_factors(row: Row) -> tuple[str, ...]:
    """The names whose product a coefficient is."""
    coefficient = row.template.coefficient
    if isinstance(coefficient, Product):
        return coefficient.names
    source = cast(Coefficient, coefficient).source
    if isinstance(source, int | float) and source == 1:
        return ()
    found = _multiplied(ast.parse(source.strip(), mode="eval").body) if isinstance(source, str) else None
    if found is None or len(set(found)) != len(found) or "pi" in found:
        raise ValueError(f"pyhf: the coefficient of {row.process} in {row.channel} is {source!r}, and a workspace has "
                         f"products of different factors only, such as 'mu' or 'mu * k'")  # fmt: skip
    return tuple(found)


def _multiplied(node: ast.expr) -> list[str] | None:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _multiplied(node.left), _multiplied(node.right)
        return None if left is None or right is None else left + right
    return None


def _parameters(binned: BinnedCost, constraints: Mapping[str, tuple[float, float]]) -> list[Json]:
    """The parameters whose settings are not pyhf's own."""
    model = binned.mixture
    found: dict[str, Json] = {}
    for name in model.nuisances:
        observed, sigma = constraints.get(name, (0.0, math.nan))
        if sigma != 1:
            raise ValueError(f"pyhf: expected Normal({name!r}) of unit width for the nuisance, found "
                             f"{'none' if math.isnan(sigma) else f'the width {sigma:g}'}")  # fmt: skip
        if observed:
            found[name] = {"auxdata": [observed]}
    for name in model.interest:
        if (name == "lumi") != (name in constraints):
            raise ValueError(f"pyhf: expected a normal constraint of the factor 'lumi' and of no other, found "
                             f"{name!r} {'with' if name in constraints else 'without'} one")  # fmt: skip
        if name == "lumi":
            observed, sigma = constraints[name]
            found[name] = {"auxdata": [observed], "sigmas": [sigma], "inits": [observed], "bounds": [[0.0, 10.0]]}
    for name, limits in model.limits.items():
        if name not in model.gammas and None not in limits:
            found.setdefault(name, {})["bounds"] = [list(limits)]
    found.update(_outcomes(binned))
    return [{"name": name, **settings} for name, settings in found.items()]


def _outcomes(binned: BinnedCost) -> dict[str, Json]:
    """Outcomes of the factors' constraints, where they are not those of the simulation itself."""
    pairs = zip(binned.constraints, binned.mixture.constraints, strict=True)
    moved = {
        name: float(value)
        for now, before in pairs
        for name, value, old in zip(now.names, now.observed, before.observed, strict=True)
        if value != old
    }
    start = {name: float(v) for c in binned.mixture.constraints for name, v in zip(c.names, c.observed, strict=True)}
    found: dict[str, Json] = {}
    for group in binned.mixture.groups:
        if not moved.keys() & set(group.names):
            continue
        outcome = np.ones(len(next(iter(group.places.values()))))
        for name in group.names:
            outcome[_base(binned.mixture, name)[1]] = moved.get(name, start[name])
        found[_base(binned.mixture, group.names[0])[0]] = {"auxdata": outcome.tolist()}
    return found


# -- in ----------------------------------------------------------------------------------------------------------------


class Product(Coefficient):
    """A product of parameters whose names need not be words of the language, such as ``k-factor``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.source = " * ".join(names)

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """The product."""
        found = values[self.names[0]]
        for name in self.names[1:]:
            found = found * values[name]
        return found

    def to_json(self) -> None:
        """Nothing: it cannot be parsed again."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A pyhf workspace as a cost: ``Minuit(found.cost, **found.start)``.

    Parameters
    ----------
    cost:
        -2 log L of the observations, with all constraints.
    model:
        The templates.
    poi:
        The parameter of interest, "" for none.
    start:
        Where pyhf starts each parameter.
    fixed:
        The parameters that pyhf holds fixed there: ``minuit.fixed[name] = True``.
    """

    cost: Cost
    model: BinnedMixture
    poi: str
    start: dict[str, float]
    fixed: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Imported({self.model!r}; poi {self.poi!r}; {len(self.fixed)} fixed)"


def from_pyhf(spec: Mapping[str, Any], *, measurement: str | None = None) -> Imported:
    """The cost of a pyhf workspace.

    Parameters
    ----------
    spec:
        What ``json.load`` gives of a workspace's file.
    measurement:
        The name of one of its measurements; None for the first.

    Raises
    ------
    ValueError, KeyError
        for something that is not a workspace, an unknown measurement or kind of modifier, settings of parameters that
        have no counterpart here.
    """
    for key in ("channels", "observations", "measurements"):
        if key not in spec:
            raise ValueError(f"pyhf: expected a workspace with channels, observations and measurements, found no "
                             f"{key!r}")  # fmt: skip
    config = _measurement(spec, measurement)
    channels: dict[str, dict[str, Template]] = {}
    for channel in spec["channels"]:
        templates = {s["name"]: _template(s, f"{channel['name']}, {s['name']}") for s in channel["samples"]}
        if len(templates) != len(channel["samples"]) or channel["name"] in channels:
            raise ValueError(f"pyhf: expected different names of channels and samples, found one twice in or as "
                             f"{channel['name']}")  # fmt: skip
        channels[channel["name"]] = templates
    model = BinnedMixture(channels)
    read = _Settings(model, {str(one["name"]): dict(one) for one in config.get("parameters", [])})
    model = BinnedMixture(channels, limits={name: read.limits(name) for name in model.names})
    binned = model({one["name"]: one["data"] for one in spec["observations"]})
    binned = BinnedCost(model, binned.counts, [read.outcome(c) for c in binned.constraints])
    start = {name: read.start(name) for name in model.names}
    fixed = tuple(name for name in model.names if read.settings.get(_base(model, name)[0], {}).get("fixed", False))
    return Imported(sum(read.constraints(), start=binned), model, str(config.get("poi", "")), start, fixed)


def _measurement(spec: Mapping[str, Any], name: str | None) -> Json:
    known = {one["name"]: one["config"] for one in spec["measurements"]}
    if name is not None and name not in known:
        raise KeyError(f"pyhf: no measurement {name!r}; {closest(name, known)}")
    return dict(known[next(iter(known)) if name is None else name])


def _template(sample: Mapping[str, Any], what: str) -> Template:
    """A sample with its modifiers."""
    by_kind: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
    for modifier in sample["modifiers"]:
        kind, name = modifier["type"], modifier["name"]
        if kind not in by_kind:
            raise ValueError(f"pyhf: {what}: no modifier of type {kind!r}; {closest(kind, _KINDS)}")
        if name in by_kind[kind]:
            raise ValueError(f"pyhf: {what}: expected one {kind} of a name, found two of {name!r}")
        by_kind[kind][name] = modifier["data"]
    if len(by_kind["staterror"]) > 1:
        raise ValueError(f"pyhf: {what}: expected at most one staterror, found {', '.join(by_kind['staterror'])}")
    group = next(iter(by_kind["staterror"]), None)
    return Template(
        contents=sample["data"],
        variance=None if group is None else np.square(np.asarray(by_kind["staterror"][group], np.float64)),
        coefficient=_product([*by_kind["normfactor"], *by_kind["lumi"]]),
        norms={name: (data["lo"], data["hi"]) for name, data in by_kind["normsys"].items()},
        shapes={name: (data["lo_data"], data["hi_data"]) for name, data in by_kind["histosys"].items()},
        uncorrelated=by_kind["shapesys"],
        free=tuple(by_kind["shapefactor"]),
        gammas=group,
    )


_KINDS = ("normfactor", "lumi", "normsys", "histosys", "staterror", "shapesys", "shapefactor")


def _product(names: Sequence[str]) -> Coefficient:
    if not names:
        return Coefficient(1.0)
    words = all(name.isidentifier() and not keyword.iskeyword(name) and name != "pi" for name in names)
    return Coefficient(" * ".join(names)) if words else Product(names)


def _base(model: BinnedMixture, name: str) -> tuple[str, int]:
    """pyhf's parameter, and the place in it."""
    if name not in model.gammas:
        return name, 0
    base, _, place = name.rpartition("[")
    return base, int(place[:-1])


@dataclass(frozen=True, eq=False)
class _Settings:
    """What a measurement says of the parameters, with pyhf's defaults."""

    model: BinnedMixture
    settings: dict[str, Json]

    def __post_init__(self) -> None:
        for name, given in self.settings.items():
            free = name == "lumi" or not ({"sigmas", "factors"} & set(given))
            if not free:
                raise ValueError(f"pyhf: the parameter {name!r} sets the width of its constraint anew; write it into "
                                 f"the modifiers")  # fmt: skip

    def _get(self, name: str, key: str) -> Any:
        base, place = _base(self.model, name)
        given = self.settings.get(base, {}).get(key)
        return None if given is None else given[place]

    def limits(self, name: str) -> Limits:
        """Bounds, those of pyhf where none are given."""
        given = self._get(name, "bounds")
        if given is not None:
            return float(given[0]), float(given[1])
        if name in self.model.gammas:
            return LIMITS
        return (-5.0, 5.0) if name in self.model.nuisances else (0.0, 10.0)

    def start(self, name: str) -> float:
        """The initial value."""
        given = self._get(name, "inits")
        return float(given) if given is not None else 0.0 if name in self.model.nuisances else 1.0

    def outcome(self, constraint: Constraint) -> Constraint:
        """The constraint of factors with the outcome that is given."""
        given = [self._get(name, "auxdata") for name in constraint.names]
        pairs = zip(given, constraint.observed, strict=True)
        return constraint.with_observed([old if new is None else float(new) for new, old in pairs])

    def constraints(self) -> list[Constraint]:
        """One of all nuisances, and that of ``lumi``."""
        found: list[Constraint] = []
        if self.model.nuisances:
            outcome = [float(self._get(name, "auxdata") or 0.0) for name in self.model.nuisances]
            found.append(Normal(self.model.nuisances, outcome))
        if "lumi" in self.model.interest:
            observed, sigma = self._get("lumi", "auxdata"), self._get("lumi", "sigmas")
            if observed is None or sigma is None:
                raise ValueError("pyhf: expected auxdata and sigmas of the parameter 'lumi' in the measurement")
            found.append(Normal("lumi", float(observed), float(sigma)))
        return found
