"""Cuts, aliases and weights written as text: ``"pmu > 0.3 and abs(costh) < 0.9"``, ``"hypot(px, py)"``.

The text is parsed as a Python expression and its tree is walked here; nothing in it is ever executed, and only names
of columns, numbers, operators and the functions listed below can occur.  Values are flat columns (N,), ragged columns,
or numbers; a ragged column with a flat one gives a ragged one, each event's number going with all its entries.

Comparisons follow IEEE: NaN compares false (except in ``!=``), and 1/0 is infinite without a warning.  Integers
narrower than 64 bits are widened before arithmetic, so that ``nhits - 1`` of an unsigned column is -1 where nhits is 0.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import closest
from ..events import Flat, Ragged

__all__ = ["FUNCTIONS", "Expression"]

Value = Any  # Flat, Ragged, or a number

_ELEMENTWISE: dict[str, tuple[Callable[..., Any], int]] = {
    **{name: (getattr(np, name), 1) for name in (
        "sqrt", "cbrt", "exp", "expm1", "log", "log10", "log2", "log1p", "abs", "sign", "floor", "ceil", "rint",
        "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh",
        "isnan", "isfinite")},
    **{name: (getattr(np, "arc" + name[1:]), 1) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    **{name: (getattr(np, name), 2) for name in ("hypot", "arctan2", "minimum", "maximum")},
    "atan2": (np.arctan2, 2), "min": (np.minimum, 2), "max": (np.maximum, 2), "pow": (np.power, 2),
    "bitand": (np.bitwise_and, 2), "where": (np.where, 3),
}  # fmt: skip
_PER_EVENT = ("count", "sum", "any", "all")
_CONSTANTS = {"pi": np.pi, "True": True, "False": False}

FUNCTIONS: tuple[str, ...] = (*sorted(_ELEMENTWISE), *_PER_EVENT)
"""The functions that may be called: element by element, and over the entries of each event."""

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide, ast.Mod: np.mod, ast.Pow: np.power, ast.USub: np.negative, ast.UAdd: np.positive,
    ast.Not: np.logical_not, ast.And: np.logical_and, ast.Or: np.logical_or,
    ast.Eq: np.equal, ast.NotEq: np.not_equal, ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}  # fmt: skip
_CONDITIONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.BitAnd: np.logical_and, ast.BitOr: np.logical_or, ast.Invert: np.logical_not, ast.BitXor: np.logical_xor
}  # fmt: skip
_AS_IT_IS = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.where, np.bitwise_and)


@dataclass(frozen=True)
class Expression:
    """A parsed expression; ``role`` (``"cut"``, ``"weight"``, ``"alias 'r'"``) begins its error messages.

    >>> Expression.parse("cut", "0 < x and x**2 < y + 1").names
    ('x', 'y')
    """

    role: str
    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @classmethod
    def parse(cls, role: str, text: str, known: Callable[[str], bool] = lambda name: False) -> Expression:
        """Parse ``text``; text that is as a whole a ``known`` column's name is that column, whatever it contains.

        Raises
        ------
        ValueError
            for a syntax error, or anything that is not a column, a number, an operator or a listed function.
        TypeError
            where the text is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"{role}: expected an expression as a string, found {type(text).__name__}")
        if known(text.strip()):
            return cls(role, text, ast.Name(text.strip()), (text.strip(),))
        tree = _parsed(role, text)
        names: dict[str, None] = {}
        try:
            _check(tree, names)
        except _Refused as refused:
            raise ValueError(f"{role} {text!r}: {refused}") from None
        return cls(role, text, tree, tuple(names))

    def __call__(self, lookup: Callable[[str], Value]) -> Value:
        """The value, with the columns that ``lookup`` gives for the names."""
        try:
            with np.errstate(all="ignore"):
                return _value(self.tree, lookup)
        except (_Refused, ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.role} {self.text!r}: {error}") from None


class _Refused(ValueError):
    """A part of an expression that is not allowed; the message says which."""


def _parsed(role: str, text: str) -> ast.expr:
    source = text.replace("&&", " and ").replace("||", " or ").strip()
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = f" at {source[error.offset - 1 :][:12]!r}" if isinstance(error, SyntaxError) and error.offset else ""
        hint = "; for 'not' write 'not', '!' is not known here" if "!" in source.replace("!=", "") else ""
        found = f"found a syntax error{at}{hint}"
        raise ValueError(f"{role} {text!r}: expected an expression over columns, {found}") from None


def _name(node: ast.expr) -> str | None:
    """The column that a node names: ``x``, ``hits.x``, ``x[0]``; None for other nodes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _name(node.value)
        return head and f"{head}.{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and type(node.slice.value) is int:
        head = _name(node.value)
        return head and f"{head}[{node.slice.value}]"
    return None


def _check(node: ast.expr, names: dict[str, None]) -> None:
    """Collect the names under ``node``, or raise ``_Refused`` for what may not be there."""
    name = _name(node)
    if name is not None:
        if name not in _CONSTANTS:
            names[name] = None
        return
    for part in _parts(node):
        _check(part, names)


def _parts(node: ast.expr) -> Iterable[ast.expr]:
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, (bool, int, float)):
            raise _Refused(f"expected numbers, found {node.value!r}")
        return ()
    if isinstance(node, ast.Compare):
        return _compared(node)
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, (ast.BinOp, ast.UnaryOp)):
        if type(node.op) not in _OPERATORS and type(node.op) not in _CONDITIONS:
            raise _Refused(f"the operator {type(node.op).__name__} is not known here")
        return (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
    if isinstance(node, ast.Call):
        return _called(node)
    raise _Refused(f"{ast.unparse(node)!r} may not be used; allowed are columns, numbers, operators and functions")


def _compared(node: ast.Compare) -> Iterable[ast.expr]:
    for operator, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(operator, (ast.In, ast.NotIn)):
            if len(node.ops) > 1 or not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
                raise _Refused("expected numbers in brackets after 'in', such as 'pdg in (211, -211)'")
            return (node.left, *right.elts)
        if type(operator) not in _OPERATORS:
            raise _Refused(f"the comparison {type(operator).__name__} is not known here")
    return (node.left, *node.comparators)


def _called(node: ast.Call) -> Iterable[ast.expr]:
    name = _name(node.func)
    if name not in FUNCTIONS:
        shown = name or ast.unparse(node.func)
        raise _Refused(f"{shown!r} is not a function that may be called; {closest(shown, FUNCTIONS)}")
    expected = 1 if name in _PER_EVENT else _ELEMENTWISE[name][1]
    if node.keywords or len(node.args) != expected or any(isinstance(a, ast.Starred) for a in node.args):
        raise _Refused(f"expected {expected} argument(s) in {name}(...), found {ast.unparse(node)!r}")
    return node.args


def _value(node: ast.expr, lookup: Callable[[str], Value]) -> Value:
    name = _name(node)
    if name is not None:
        return _CONSTANTS[name] if name in _CONSTANTS else lookup(name)
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        parts = [_value(part, lookup) for part in node.values]
        return functools.reduce(functools.partial(_apply, _OPERATORS[type(node.op)]), parts)
    if isinstance(node, ast.BinOp):
        return _operate(node.op, _value(node.left, lookup), _value(node.right, lookup))
    if isinstance(node, ast.UnaryOp):
        return _operate(node.op, _value(node.operand, lookup))
    if isinstance(node, ast.Compare):
        return _compare(node, lookup)
    if not isinstance(node, ast.Call):  # _check lets no other node pass
        raise _Refused(f"{ast.unparse(node)!r} may not be used")
    arguments = [_value(argument, lookup) for argument in node.args]
    called = _name(node.func) or ""
    return _per_event(called, arguments[0]) if called in _PER_EVENT else _apply(_ELEMENTWISE[called][0], *arguments)


def _operate(operator: ast.operator | ast.unaryop, *values: Value) -> Value:
    if type(operator) not in _CONDITIONS:
        return _apply(_OPERATORS[type(operator)], *values)
    for value in values:
        if _dtype(value) != np.bool_:
            # 'x > 0 & y < 1' means 'x > (0 & y) < 1': refuse it where & does not stand between conditions
            raise _Refused(
                "expected conditions on both sides of & and | (and after ~): put each comparison in brackets, or write "
                "'and', 'or', 'not'; for bits of an integer use bitand(flags, 4)"
            )
    return _apply(_CONDITIONS[type(operator)], *values)


def _compare(node: ast.Compare, lookup: Callable[[str], Value]) -> Value:
    left = _value(node.left, lookup)
    if isinstance(node.ops[0], (ast.In, ast.NotIn)):
        numbers = [_value(part, lookup) for part in node.comparators[0].elts]  # type: ignore[attr-defined]
        equal = [_apply(np.equal, left, number) for number in numbers]
        found = functools.reduce(functools.partial(_apply, np.logical_or), equal, _apply(np.not_equal, left, left))
        return found if isinstance(node.ops[0], ast.In) else _apply(np.logical_not, found)
    found = None
    for operator, comparator in zip(node.ops, node.comparators, strict=True):
        right = _value(comparator, lookup)
        true = _apply(_OPERATORS[type(operator)], left, right)
        found = true if found is None else _apply(np.logical_and, found, true)
        left = right
    return found


def _dtype(value: Value) -> np.dtype[Any]:
    return value.values.dtype if isinstance(value, Ragged) else np.asarray(value).dtype


def _widened(value: Value) -> Value:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iub" and value.dtype != np.uint64:
        return value.astype(np.int64)
    return value


def _apply(function: Callable[..., Any], *values: Value) -> Value:
    """``function`` element by element, flat columns repeated along the ragged ones."""
    lists = [value for value in values if isinstance(value, Ragged)]
    if not lists:
        return _call(function, *values)
    offsets = lists[0].offsets
    for other in lists[1:]:
        if other.offsets is not offsets and not np.array_equal(other.offsets, offsets):
            raise _Refused("expected ragged columns with equal numbers of entries in each event")
    counts = np.diff(offsets)
    spread = [
        v.values if isinstance(v, Ragged) else np.repeat(v, counts) if isinstance(v, np.ndarray) else v for v in values
    ]
    return Ragged(np.asarray(_call(function, *spread)), offsets)


def _call(function: Callable[..., Any], *values: Value) -> Any:
    if function in _AS_IT_IS or function in (np.logical_and, np.logical_or, np.logical_not, np.logical_xor):
        return function(*values)
    if not any(isinstance(value, np.ndarray) for value in values):
        values = tuple(float(value) for value in values)  # numbers alone: 9**9**9 of integers would never end
    return function(*(_widened(value) for value in values))


def _per_event(name: str, value: Value) -> Flat:
    """count, sum, any, all of each event's entries; 0 and false, or true for all, where it has none."""
    if not isinstance(value, Ragged):
        raise TypeError(f"expected a ragged column in {name}(...), found one number per event")
    if name == "count":
        return value.counts
    if name in ("any", "all"):
        true = np.asarray(value.values, dtype=np.bool_)
        per_event = _sums((true if name == "any" else ~true).astype(np.int64), value.offsets) > 0
        return per_event if name == "any" else ~per_event
    return _sums(_widened(value.values), value.offsets)


def _sums(values: Flat, offsets: Flat) -> Flat:
    sums = np.zeros(len(offsets) - 1, values.dtype)
    filled = np.diff(offsets) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(values, offsets[:-1][filled])
    return sums


def filled(value: Value, length: int) -> Value:
    """``value``, a lone number repeated for each event."""
    return value if isinstance(value, Ragged) or np.ndim(value) else np.full(length, value)
