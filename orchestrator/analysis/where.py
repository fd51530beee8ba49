"""Chooses rows of a table by a condition such as `method_name == 'at' and seed in [0, 1]`. Runs no code.

The condition is parsed as a Python expression, and only comparisons, `and`, `or`, `not`, `in`, numbers, texts, lists of
these and names of columns are read; everything else is refused before anything is looked at.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.errors import UserError, suggest

Mask = NDArray[np.bool_]

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
GRAMMAR = "comparisons of columns with numbers or 'texts', in [...], and, or, not; a name with a dot in `backticks`"
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`([^`]*)`""")
"""A text, which is left alone, or a column's name in backticks."""
MAX_LENGTH = 2000


def where(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows of a table for which a condition holds, numbered anew.

    Args:
        table: Any.
        condition: Such as `regularizer != 'none' and average_flatness < 2`. A column whose name is no Python name
            stands in backticks. An absent value is equal to nothing, and neither below nor above anything.

    Raises:
        UserError: The condition cannot be read, does more than compare, or names a column that is not there.
    """
    columns: dict[str, str] = {}

    def plain_name(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        name = f"_column_{len(columns)}"
        columns[name] = found[1]
        return name

    if len(condition) > MAX_LENGTH:
        raise UserError(f"--where: {len(condition)} characters; at most {MAX_LENGTH} are read")
    text = QUOTED.sub(plain_name, condition.strip())
    try:
        tree = ast.parse(text, mode="eval").body
        mask = _Condition(table, columns).holds(tree)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        message = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds odd characters"
        raise UserError(f"--where {condition}: cannot be read ({message}); allowed: {GRAMMAR}") from error
    except UserError as error:
        raise UserError(f"--where {condition}: {error}") from error
    return table[mask].reset_index(drop=True)


class _Condition:
    """Looks up what the parts of a condition say of the rows of a table."""

    def __init__(self, table: pd.DataFrame, columns: dict[str, str]) -> None:
        self.table = table
        self.columns = columns

    def holds(self, node: ast.expr) -> Mask:
        """Of each row whether a condition holds."""
        match node:
            case ast.BoolOp(ast.And(), values):
                return _all([self.holds(value) for value in values])
            case ast.BoolOp(ast.Or(), values):
                return ~_all([~self.holds(value) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ~self.holds(operand)
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                found = [self.compared(a, op, b) for a, op, b in zip(sides, ops, sides[1:], strict=False)]
                return _all(found)
        raise UserError(f"'{ast.unparse(node)}' is no comparison; allowed: {GRAMMAR}")

    def compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Mask:
        """One comparison."""
        a, b = self.value(left), self.value(right)
        if not isinstance(a, pd.Series) and isinstance(b, pd.Series) and type(op) in MIRRORED:
            return self.compared(right, MIRRORED[type(op)](), left)
        if not isinstance(a, pd.Series):
            raise UserError(f"'{ast.unparse(left)}' stands where a column is expected")
        name = self.name(left)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(b, list):
                raise UserError(f"'in' needs a list, such as {name} in [{_example(a)}]")
            absent = _all([np.ones(len(a), dtype=np.bool_), *(~self.equal(name, a, each) for each in b)])
            return ~absent if isinstance(op, ast.In) else absent
        if type(op) not in COMPARISONS:
            raise UserError(f"'is' is not allowed; compare with == or !=; allowed: {GRAMMAR}")
        if isinstance(b, list):
            raise UserError(f"a list is compared with 'in', such as {name} in [{_example(a)}]")
        if isinstance(op, ast.Eq | ast.NotEq):
            equal = self.equal(name, a, b)
            return equal if isinstance(op, ast.Eq) else ~equal
        if not _is_number(a) or not _is_number(b):
            raise UserError(f"only numbers are below or above one another, in '{ast.unparse(left)}' and its other side")
        return np.asarray(COMPARISONS[type(op)](_floats(a), _floats(b)), dtype=bool)

    def equal(self, name: str, column: "pd.Series[Any]", other: Any) -> Mask:
        """Of each row whether a column has a value; text is compared with text, numbers with numbers."""
        if _is_number(column) != _is_number(other):
            kind = "numbers" if _is_number(column) else "text, which stands in quotes"
            raise UserError(f"the column '{name}' holds {kind}: {name} == {_example(column)}")
        if _is_number(column):
            return np.asarray(_floats(column) == _floats(other), dtype=bool)
        texts = column.astype(object).to_numpy()
        others = other.astype(object).to_numpy() if isinstance(other, pd.Series) else np.full(len(texts), other, object)
        return np.array([a == b and isinstance(a, str) for a, b in zip(texts, others, strict=True)], dtype=bool)

    def value(self, node: ast.expr) -> Any:
        """A column, a number, a text, or a list of numbers and texts."""
        match node:
            case ast.Name():
                return self.column(node)
            case ast.Constant(bool() | int() | float() | str() as value):
                return value
            case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, ast.Constant(int() | float() as value)):
                return -value if isinstance(sign, ast.USub) else value
            case ast.List(elements) | ast.Tuple(elements) | ast.Set(elements):
                values = [self.value(element) for element in elements]
                if any(isinstance(value, pd.Series | list) for value in values):
                    raise UserError("a list holds numbers and 'texts' only")
                return values
        raise UserError(f"'{ast.unparse(node)}' is not allowed; allowed: {GRAMMAR}")

    def column(self, node: ast.Name) -> "pd.Series[Any]":
        name = self.name(node)
        if name not in self.table:
            hint = suggest(name, map(str, self.table))
            raise UserError(f"there is no column '{name}': {hint} (a text stands in quotes, '{name}')")
        return self.table[name]

    def name(self, node: ast.expr) -> str:
        text = node.id if isinstance(node, ast.Name) else ast.unparse(node)
        return self.columns.get(text, text)


def _all(masks: list[Mask]) -> Mask:
    """Where all hold."""
    found: Mask = np.logical_and.reduce(masks)
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, pd.Series):
        return pd.api.types.is_numeric_dtype(value)
    return isinstance(value, int | float)


def _floats(value: Any) -> Any:
    return value.astype("float64").to_numpy(dtype=np.float64) if isinstance(value, pd.Series) else float(value)


def _example(column: "pd.Series[Any]") -> str:
    """A value that the column has, as it is written in a condition."""
    values = column.dropna()
    if not len(values):
        return "0" if _is_number(column) else "'...'"
    value = values.iloc[0]
    return f"{value:g}" if _is_number(column) else repr(str(value))
