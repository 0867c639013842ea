"""What every cost here is: -2 log L as a differentiable function of named parameters, for iminuit.

A `DifferentiableCost` gives one scalar tensor for a vector of parameters; value and gradient come from that one forward
pass, kept for as long as the parameters stay the same.  Costs add with ``+``, and parameters of the same name are the
same parameter: that is how channels, and near and far detectors, share their nuisances.

A cost is a model with its data, so it can also say what its data would have been at other parameters: `asimov` without
fluctuations, `sample` with them, global observables included.
"""

from __future__ import annotations

import ast
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from iminuit.cost import Cost, CostSum
from numpy.typing import NDArray
from torch import Tensor

from ..errors import closest

__all__ = ["Coefficient", "DifferentiableCost", "NegativeDensity", "asimov", "parts", "sample", "summed"]

Floats = NDArray[np.float64]
Limits = tuple[float | None, float | None]


class NegativeDensity(ValueError):
    """A density or an expected content is not positive at the parameters given; the message says where."""


class DifferentiableCost(Cost):  # type: ignore[misc]
    """-2 log L of named parameters (errordef 1); one abstract method, `tensor`.

    Parameters
    ----------
    parameters:
        Names, in order, with their limits (lower, upper), None for none; iminuit takes them over.
    """

    def __init__(self, parameters: Mapping[str, Limits | None]) -> None:
        shown = {name: _filled(name, limits) for name, limits in parameters.items()}
        super().__init__(shown, 0)
        self._kept: tuple[tuple[float, ...], Tensor, Tensor] | None = None
        self._slopes: Floats | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in the order of the arguments."""
        return tuple(self._parameters)

    @abstractmethod
    def tensor(self, theta: Tensor) -> Tensor:
        """-2 log L, a float64 scalar, of theta (T,) in float64; differentiable."""

    def asimov(self, values: Mapping[str, float]) -> DifferentiableCost:
        """The same cost with the data that are expected at these parameters, without fluctuations."""
        raise TypeError(f"{self!r} cannot make Asimov data")

    def sample(self, values: Mapping[str, float], rng: np.random.Generator) -> DifferentiableCost:
        """The same cost with data drawn at these parameters."""
        raise TypeError(f"{self!r} cannot draw data")

    def at(self, values: Mapping[str, float]) -> float:
        """The value at named parameters; names that are not this cost's are passed over.

        Raises
        ------
        KeyError
            where a parameter has no value.
        """
        return float(self(*(named(values, name) for name in self.names)))

    def _forward(self, args: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Parameters and value, still joined by their graph; kept for the next call at the same parameters."""
        key = tuple(float(a) for a in args)
        if len(key) != len(self._parameters):
            raise ValueError(f"expected {len(self._parameters)} values, for {', '.join(self.names)}, found {len(key)}")
        if self._kept is None or self._kept[0] != key:
            theta = torch.tensor(key, dtype=torch.float64, requires_grad=True)
            self._kept, self._slopes = (key, theta, self.tensor(theta)), None
        return self._kept[1], self._kept[2]

    def _value(self, args: Sequence[float]) -> float:
        return float(self._forward(args)[1].detach())

    def _grad(self, args: Sequence[float]) -> Floats:
        theta, value = self._forward(args)
        if self._slopes is None:
            if value.requires_grad:
                (found,) = torch.autograd.grad(value, theta)
                self._slopes = np.array(found.numpy())
            else:
                self._slopes = np.zeros(len(theta))
        return self._slopes.copy()

    def _has_grad(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        # a graph does not travel to another process; what it kept is computed again there
        base = {"_parameters": self._parameters, "_verbose": self._verbose}
        return {**self.__dict__, **base, "_kept": None, "_slopes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def parts(cost: Cost) -> tuple[DifferentiableCost, ...]:
    """The costs that a sum adds, or the cost itself.

    Raises
    ------
    TypeError
        for one that is not a `DifferentiableCost`.
    """
    found = tuple(cost) if isinstance(cost, CostSum) else (cost,)
    for part in found:
        if not isinstance(part, DifferentiableCost):
            raise TypeError(f"expected costs of nuinfer.likelihood, found {type(part).__name__}; its data cannot be "
                            f"replaced by Asimov data or pseudo-experiments")  # fmt: skip
    return found


def asimov(cost: Cost, values: Mapping[str, float]) -> Cost:
    """A cost, or a sum of them, with the data and global observables expected at these parameters.

    Its minimum is at ``values``: the median experiment, without fluctuations.  Source: Cowan, Cranmer, Gross, Vitells,
    arXiv 1007.1727, section 3.2.

    Raises
    ------
    KeyError, TypeError
        for a parameter without a value, a cost that cannot make Asimov data.
    """
    return summed([part.asimov(values) for part in parts(cost)])


def sample(cost: Cost, values: Mapping[str, float], rng: np.random.Generator) -> Cost:
    """A cost, or a sum of them, with data and global observables drawn at these parameters: a pseudo-experiment.

    Raises
    ------
    KeyError, TypeError
        for a parameter without a value, a cost that cannot draw data (a mixture without ``generate``).
    """
    return summed([part.sample(values, rng) for part in parts(cost)])


def summed(costs: Sequence[DifferentiableCost]) -> Cost:
    """Their sum; one alone is itself."""
    return costs[0] if len(costs) == 1 else CostSum(*costs)


def checked_limits(limits: Mapping[str, Limits] | None, names: Sequence[str]) -> dict[str, Limits]:
    """(lower, upper) of parameters as floats, None for none, an infinite one too.

    Raises
    ------
    KeyError
        for unknown parameters; ``ValueError`` for limits that are not lower < upper.
    """
    found: dict[str, Limits] = {}
    for name, pair in (limits or {}).items():
        if name not in names:
            raise KeyError(f"limits: no parameter {name!r}; {closest(name, names)}")
        low, high = (None if end is None or math.isinf(end) else float(end) for end in pair)
        _filled(name, pair)
        found[name] = (low, high)
    return found


def _filled(name: str, limits: Limits | None) -> tuple[float, float] | None:
    if limits is None:
        return None
    low, high = (-math.inf if limits[0] is None else limits[0]), (math.inf if limits[1] is None else limits[1])
    if not low < high:
        raise ValueError(f"limits of {name!r}: expected lower < upper, found {limits}")
    return float(low), float(high)


def named(values: Mapping[str, float], name: str) -> float:
    """``values[name]``; ``KeyError`` names the closest."""
    if name not in values:
        raise KeyError(f"no value for the parameter {name!r}; {closest(name, values)}")
    return float(values[name])


# -- functions of parameters -------------------------------------------------------------------------------------------

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "tanh", "abs", "square")
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: torch.add, ast.Sub: torch.sub, ast.Mult: torch.mul, ast.Div: torch.div, ast.Pow: torch.pow,
}  # fmt: skip


class Coefficient:
    """A differentiable function of named parameters: ``"mu - sqrt(mu)"``, a number, or a callable.

    Text is parsed, never executed: names are parameters (``pi`` is the number), the functions are sqrt, exp, log, sin,
    cos, tan, tanh, abs and square.  Text and numbers can be saved; a callable, whose arguments are its parameters,
    takes and returns tensors and has to be given again when a workspace is loaded.

    >>> f = Coefficient("mu - sqrt(mu)")
    >>> f.names, float(f({"mu": torch.tensor(4.0)}))
    (('mu',), 2.0)

    Raises
    ------
    ValueError, TypeError
        for text that is not such a function, or something else than text, number or callable.
    """

    def __init__(self, source: str | float | Callable[..., Any]) -> None:
        self.source = source
        if isinstance(source, str):
            self._tree = _parsed(source)
            self.names = _names(self._tree)
        elif isinstance(source, int | float) and not isinstance(source, bool):
            self.names = ()
        elif callable(source):
            self.names = tuple(inspect.signature(source).parameters)
        else:
            raise TypeError(f"coefficient: expected text such as 'mu - sqrt(mu)', a number or a function of "
                            f"parameters, found {type(source).__name__}")  # fmt: skip

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """The value, a float64 scalar, for scalar tensors by name."""
        if isinstance(self.source, str):
            return torch.as_tensor(_evaluated(self._tree, values), dtype=torch.float64)
        if callable(self.source):
            found = self.source(*(values[name] for name in self.names))
            return torch.as_tensor(found, dtype=torch.float64)
        return torch.tensor(float(self.source), dtype=torch.float64)

    def to_json(self) -> str | float | None:
        """Text or number; None for a callable."""
        return self.source if isinstance(self.source, str | int | float) else None

    def __repr__(self) -> str:
        return f"Coefficient({self.source!r})"


def _names(tree: ast.expr) -> tuple[str, ...]:
    """The parameters in an expression, in the order in which they are written."""
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions]
    ordered = sorted(found, key=lambda node: node.col_offset)
    return tuple(dict.fromkeys(node.id for node in ordered if node.id != "pi"))


def _parsed(text: str) -> ast.expr:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"coefficient {text!r}: expected a function of parameters, found a syntax error") from error
    _check(text, tree)
    return tree


def _check(text: str, node: ast.expr) -> None:
    for part in _parts(text, node):
        _check(text, part)


def _parts(text: str, node: ast.expr) -> Sequence[ast.expr]:
    """The operands of a node; ``ValueError`` for one that may not be there."""
    if isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        return ()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return (node.operand,)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return node.left, node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords and len(node.args) == 1:
        if node.func.id in _UNARY:
            return node.args
        raise ValueError(f"coefficient {text!r}: no function {node.func.id!r}; {closest(node.func.id, _UNARY)}")
    raise ValueError(f"coefficient {text!r}: expected parameters, numbers, + - * / ** and {', '.join(_UNARY)}, found "
                     f"{ast.unparse(node)!r}")  # fmt: skip


def _evaluated(node: ast.expr, values: Mapping[str, Tensor]) -> Any:
    if isinstance(node, ast.Name):
        return torch.tensor(math.pi, dtype=torch.float64) if node.id == "pi" else values[node.id]
    if isinstance(node, ast.Constant):
        return torch.tensor(float(node.value), dtype=torch.float64)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        value = _evaluated(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_evaluated(node.left, values), _evaluated(node.right, values))
    call = node  # _check lets no other node pass
    return _UNARY[call.func.id](_evaluated(call.args[0], values))  # type: ignore[attr-defined]
