"""A whole measurement, named, in one place and in one folder: channels with their data, and constraints.

`Workspace.cost` is what iminuit and `nuinfer.intervals` take.  Saved it is a folder: ``workspace.json`` (the index:
processes, coefficients, systematics, constraints, digests of the samples), one safetensors file for each channel's
numbers (its templates, or its reference, and its data, as the likelihood sees them), and one for each `Ratio`.  What
was loaded fits at once, without the events; other events can be put in as long as the ratios are there.  Loading runs
no code: functions of one's own are given again, by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from iminuit.cost import Cost
from numpy.typing import NDArray

from .. import store
from ..errors import CorruptFile, closest
from ..events import Events
from ..histograms import Contents
from ..ratio import Ratio
from .constraints import Constraint, LogNormal, Normal, Poisson, TwoPoint
from .costs import Coefficient, DifferentiableCost, Limits, summed
from .mixture import Generator, LogRatio, Mixture, Process, UnbinnedCost
from .samples import Template
from .table import Table
from .templates import BinnedCost, BinnedMixture

__all__ = ["Workspace"]

Spec = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
_INDEX = "workspace.json"
_FORMAT = 1


class Workspace:
    """Channels by name, each a cost with its data, and the constraints of their nuisances.

    Parameters
    ----------
    channels:
        What mixtures and binned models give when they are called with data.
    constraints:
        Of nuisances; parameters of the same name are the same parameter everywhere.

    Raises
    ------
    ValueError
        for no channels, or two constraints of one parameter.

    Examples
    --------
    >>> from nuinfer.events import Events
    >>> reference = Events({"x": np.linspace(-2, 2, 100)})
    >>> model = Mixture({"S": Process(yields=50, coefficient="mu", norms={"lumi": 0.02, "eff": 0.1})}, reference)
    >>> workspace = Workspace({"near": model(reference)}, [Normal("lumi")])
    >>> workspace.names, workspace.free
    (('mu', 'lumi', 'eff'), ('eff',))
    """

    def __init__(self, channels: Mapping[str, DifferentiableCost], constraints: Iterable[Constraint] = ()) -> None:
        self.channels, self.constraints = dict(channels), tuple(constraints)
        if not self.channels:
            raise ValueError("Workspace: expected at least one channel, found none")
        seen: set[str] = set()
        for constraint in self.constraints:
            again = seen & set(constraint.names)
            if again:
                raise ValueError(f"Workspace: {min(again)!r} has more than one constraint; a parameter is measured "
                                 f"twice only if you combine the two yourself")  # fmt: skip
            seen |= set(constraint.names)

    @property
    def cost(self) -> Cost:
        """-2 log L of everything: the sum of channels and constraints."""
        return summed([*self.channels.values(), *self.constraints])

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters, in the order of `cost`."""
        return tuple(self.cost._parameters)

    @property
    def free(self) -> tuple[str, ...]:
        """Nuisances without a constraint: what only the data determine."""
        constrained = {name for c in self.constraints for name in c.names}
        models = [getattr(channel, "mixture", None) for channel in self.channels.values()]
        found = [name for model in models for name in getattr(model, "nuisances", ())]
        return tuple(name for name in dict.fromkeys(found) if name not in constrained)

    def __repr__(self) -> str:
        free = f"; free: {', '.join(self.free)}" if self.free else ""
        return f"Workspace({', '.join(self.channels)}; {len(self.names)} parameters, {len(self.constraints)} " \
               f"constraints{free})"  # fmt: skip

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to the folder ``path``, whole or not at all; a workspace that is there is replaced.

        Raises
        ------
        FileExistsError
            where ``path`` is something else than a workspace.
        TypeError
            for a channel that has no saved form.
        """
        target = Path(path)
        if target.exists() and not (target / _INDEX).is_file():
            raise FileExistsError(f"{target}: expected a new folder or a workspace, found something else; it stays")
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        folder.mkdir()
        try:
            _Writer(folder).write(self)
            _swap(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        generate: Mapping[str, Generator] | None = None,
        module: Any = None,
    ) -> Workspace:
        """Read what `save` wrote.

        Parameters
        ----------
        functions:
            Log ratios and coefficients that were functions of your own, by the names in ``workspace.json``, such as
            ``"signal region/S"``.  Ratios are only needed for new events, coefficients always.
        generate:
            By channel, what draws its pseudo-experiments.
        module:
            Makes the network of ratios that were fitted with a user's own.

        Raises
        ------
        FileNotFoundError
            where there is no workspace.
        CorruptFile
            for a file that is missing in it, damaged, or does not belong to it.
        KeyError
            for a coefficient whose function is missing, or a channel in ``generate`` that is not there.
        """
        return _Reader(Path(path), functions or {}, generate or {}, module).read()


def _swap(folder: Path, target: Path) -> None:
    """Put ``folder`` in the place of ``target``."""
    if not target.exists():
        folder.rename(target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old)


# -- writing -----------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes files into a folder, each ratio once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ratios: dict[int, str] = {}

    def write(self, workspace: Workspace) -> None:
        channels = {name: self._channel(i, name, c) for i, (name, c) in enumerate(workspace.channels.items())}
        constraints = [_constraint_spec(c) for c in workspace.constraints]
        files = {f.name: _sha256(f) for f in sorted(self.folder.iterdir())}
        index = {"format": _FORMAT, "channels": channels, "constraints": constraints, "files": files}
        text = json.dumps(index, indent=1, allow_nan=False)
        sealed = json.dumps({**index, "sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=1, allow_nan=False)
        store.write_atomically(self.folder / _INDEX, lambda temporary: temporary.write_text(sealed))

    def _channel(self, number: int, name: str, cost: DifferentiableCost) -> Spec:
        file = f"channel-{number}.safetensors"
        if isinstance(cost, UnbinnedCost):
            spec, arrays = self._unbinned(name, cost)
        elif isinstance(cost, BinnedCost):
            spec, arrays = _binned(name, cost)
        else:
            raise TypeError(f"channel {name}: expected a mixture called with data, found {type(cost).__name__}, which "
                            f"has no saved form")  # fmt: skip
        limits = {n: list(pair) for n, pair in cost.mixture.limits.items()}
        store.save(self.folder / file, "channel", {"channel": name}, arrays)
        return {"type": type(cost.mixture).__name__, "file": file, "limits": limits, **spec}

    def _unbinned(self, name: str, cost: UnbinnedCost) -> tuple[Spec, Arrays]:
        mixture = cost.mixture
        arrays = {f"reference.{n}": a for n, a in mixture.reference.arrays().items()}
        # Asimov data are the reference with other weights: what both have is written once
        data = cost.table.arrays()
        own = ("weight",) if cost.table.density is mixture.reference.density else tuple(data)
        arrays |= {f"data.{n}": data[n] for n in own}
        processes = {n: self._process(f"{name}/{n}", p) for n, p in mixture.processes.items()}
        options = {n: getattr(mixture, n) for n in ("interpolation", "normalise", "precision")}
        digests = {"reference": mixture.reference.digest, "data": cost.table.digest}
        return {"processes": processes, "options": options, "digests": digests}, arrays

    def _process(self, name: str, process: Process) -> Spec:
        return {
            "yields": float(process.yields),
            "coefficient": _coefficient_spec(name, process.coefficient),
            "norms": {n: list(pair) for n, pair in process.norms.items()},  # type: ignore[arg-type]
            "ratio": self._ratio(name, process.ratio),
            "shapes": {n: [self._ratio(f"{name}/{n}/{end}", r) for end, r in zip(("down", "up"), pair, strict=True)]
                       for n, pair in process.shapes.items()},
        }  # fmt: skip

    def _ratio(self, name: str, ratio: LogRatio | None) -> Spec | None:
        if ratio is None:
            return None
        if not isinstance(ratio, Ratio):
            return {"function": name}
        if id(ratio) not in self.ratios:
            self.ratios[id(ratio)] = f"ratio-{len(self.ratios)}.safetensors"
            ratio.save(self.folder / self.ratios[id(ratio)])
        return {"ratio": self.ratios[id(ratio)]}


def _coefficient_spec(name: str, coefficient: Any) -> Spec | str | float:
    found: str | float | None = coefficient.to_json()
    return {"function": f"{name}/coefficient"} if found is None else found


def _binned(name: str, cost: BinnedCost) -> tuple[Spec, Arrays]:
    mixture, arrays = cost.mixture, {"counts": cost.counts}
    arrays |= {f"observed.{k}": c.observed for k, c in enumerate(cost.constraints)}
    channels: Spec = {}
    for channel, templates in mixture.channels.items():
        channels[channel] = {}
        for process, template in templates.items():
            key = f"{channel}/{process}"
            channels[channel][process] = _template_spec(f"{name}/{key}", template)
            arrays |= {f"{key}/{n}": a for n, a in _template_arrays(template).items()}
    options = {n: getattr(mixture, n) for n in ("statistics", "norm_interpolation", "shape_interpolation")}
    return {"channels": channels, "options": options}, arrays


def _template_spec(name: str, template: Template) -> Spec:
    return {
        "coefficient": _coefficient_spec(name, template.coefficient),
        "norms": {n: list(pair) for n, pair in template.norms.items()},  # type: ignore[arg-type]
        "contents": template.nominal.described(),
        "shapes": list(template.varied),
        "uncorrelated": list(template.uncorrelated),
        "free": list(template.free),
        "gammas": template.gammas,
    }


def _template_arrays(template: Template) -> Arrays:
    found: Arrays = {f"contents.{n}": a for n, a in template.nominal.arrays().items()}
    if template.variance is not None:
        found["variance"] = np.asarray(template.variance)
    for shape, pair in template.varied.items():
        found |= {f"{shape}/{end}": c.values for end, c in zip(("down", "up"), pair, strict=True)}
    return found | {f"uncorrelated/{n}": np.asarray(a) for n, a in template.uncorrelated.items()}


def _constraint_spec(constraint: Constraint) -> Spec:
    spec: Spec = {"type": type(constraint).__name__, "names": list(constraint.names),
                  "observed": constraint.observed.tolist()}  # fmt: skip
    if isinstance(constraint, TwoPoint):
        return {**spec, "models": list(constraint.models)}
    if isinstance(constraint, Normal):
        return {**spec, "covariance": constraint.covariance.tolist()}
    if isinstance(constraint, LogNormal):
        return {**spec, "kappa": constraint.kappa}
    if isinstance(constraint, Poisson):
        return {**spec, "scale": constraint.scale}
    raise TypeError(f"constraint of {', '.join(constraint.names)}: {type(constraint).__name__} has no saved form")


def _constraint_of(spec: Spec) -> Constraint:
    name, observed = spec["names"][0], spec["observed"]
    if spec["type"] == "TwoPoint":
        return TwoPoint(name, tuple(spec["models"]), observed[0])
    if spec["type"] == "Normal":
        return Normal(spec["names"], observed, covariance=spec["covariance"])
    if spec["type"] == "LogNormal":
        return LogNormal(name, observed, spec["kappa"])
    return Poisson(name, observed, spec["scale"])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- reading -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Reads a folder, each ratio once."""

    def __init__(
        self, folder: Path, functions: Mapping[str, Any], generate: Mapping[str, Generator], module: Any
    ) -> None:
        self.folder, self.functions, self.generate, self.module = folder, functions, generate, module
        self.ratios: dict[str, Ratio] = {}

    def read(self) -> Workspace:
        index = self._index()
        for name in self.generate:
            if name not in index["channels"]:
                raise KeyError(f"generate: no channel {name!r}; {closest(name, index['channels'])}")
        channels = {name: self._channel(name, spec) for name, spec in index["channels"].items()}
        return Workspace(channels, [_constraint_of(spec) for spec in index["constraints"]])

    def _index(self) -> Spec:
        path = self.folder / _INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder}: expected a folder with {_INDEX}, as Workspace.save writes it")
        try:
            index: Spec = json.loads(path.read_text())
            stated = index.pop("sha256")
        except (ValueError, KeyError, AttributeError) as error:
            raise CorruptFile(f"{path}: expected JSON written by nuinfer, found a damaged or another file") from error
        if hashlib.sha256(json.dumps(index, indent=1).encode()).hexdigest() != stated:
            raise CorruptFile(f"{path}: it does not have the sha256 written in it: it was damaged or edited")
        if index["format"] > _FORMAT:
            raise ValueError(f"{path}: made by a newer nuinfer: found format {index['format']}, this one reads up to "
                             f"{_FORMAT}; update nuinfer")  # fmt: skip
        self._check_files(index["files"])
        return index

    def _check_files(self, files: Mapping[str, str]) -> None:
        for name, digest in files.items():
            path = self.folder / name
            if not path.is_file() or _sha256(path) != digest:
                found = "another or a damaged file" if path.is_file() else "none"
                raise CorruptFile(f"{self.folder}: expected the file {name} that was saved with it, found {found}")

    def _channel(self, name: str, spec: Spec) -> DifferentiableCost:
        _, arrays = store.load(self.folder / spec["file"], "channel")
        limits = {n: (pair[0], pair[1]) for n, pair in spec["limits"].items()}
        if spec["type"] == "BinnedMixture":
            return self._binned(spec, arrays, limits)
        interpolation, digests = spec["options"]["interpolation"], spec["digests"]
        processes = {n: self._process(p) for n, p in spec["processes"].items()}
        shapes = dict.fromkeys(shape for p in processes.values() for shape in p.shapes)
        columns = (*processes, "", *shapes)
        reference = Table.of_arrays(store.within("reference.", arrays), interpolation, digests["reference"], columns)
        mixture = Mixture(processes, reference, limits=limits, **spec["options"])
        own = store.within("reference.", arrays) | store.within("data.", arrays)
        data = Table.of_arrays(own, interpolation, digests["data"], columns)
        return UnbinnedCost(mixture, data, self.generate.get(name))

    def _binned(self, spec: Spec, arrays: Arrays, limits: Mapping[str, Limits]) -> BinnedCost:
        channels = {
            channel: {
                process: self._template(one, store.within(f"{channel}/{process}/", arrays))
                for process, one in templates.items()
            }
            for channel, templates in spec["channels"].items()
        }
        mixture = BinnedMixture(channels, limits=limits, **spec["options"])
        constraints = [c.with_observed(arrays[f"observed.{k}"]) for k, c in enumerate(mixture.constraints)]
        return BinnedCost(mixture, arrays["counts"], constraints)

    def _template(self, spec: Spec, arrays: Arrays) -> Template:
        nominal = Contents.of_arrays(spec["contents"], store.within("contents.", arrays))
        shape = nominal.shape
        return Template(
            contents=nominal,
            variance=arrays.get("variance"),
            coefficient=self._coefficient(spec["coefficient"]),
            norms={n: (pair[0], pair[1]) for n, pair in spec["norms"].items()},
            shapes={n: (arrays[f"{n}/down"].reshape(shape), arrays[f"{n}/up"].reshape(shape)) for n in spec["shapes"]},
            uncorrelated={n: arrays[f"uncorrelated/{n}"] for n in spec["uncorrelated"]},
            free=spec["free"],
            gammas=spec["gammas"],
        )

    def _process(self, spec: Spec) -> Process:
        return Process(
            yields=spec["yields"],
            coefficient=self._coefficient(spec["coefficient"]),
            norms={n: (pair[0], pair[1]) for n, pair in spec["norms"].items()},
            ratio=self._ratio(spec["ratio"]),
            shapes={n: self._pair(pair) for n, pair in spec["shapes"].items()},
        )

    def _coefficient(self, spec: Spec | str | float) -> Coefficient:
        if not isinstance(spec, dict):
            return Coefficient(spec)
        name = spec["function"]
        if name not in self.functions:
            raise KeyError(f"the coefficient {name!r} was a function of your own; give it again: functions={{{name!r}: "
                           f"...}}")  # fmt: skip
        return Coefficient(self.functions[name])

    def _pair(self, pair: Sequence[Spec]) -> tuple[Any, Any]:
        return self._ratio(pair[0]), self._ratio(pair[1])

    def _ratio(self, spec: Spec | None) -> LogRatio | None:
        if spec is None:
            return None
        if "function" in spec:
            found: LogRatio = self.functions.get(spec["function"], _Missing(spec["function"]))
            return found
        file = spec["ratio"]
        if file not in self.ratios:
            self.ratios[file] = Ratio.load(self.folder / file, module=self.module)
        return self.ratios[file]


class _Missing:
    """In the place of a function that a workspace was loaded without: what is in its tables does not need it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, events: Events) -> NDArray[np.float64]:
        raise KeyError(f"the log ratio {self.name!r} was a function of your own; for new events give it again: "
                       f"Workspace.load(path, functions={{{self.name!r}: ...}})")  # fmt: skip
