"""Arithmetic of recipes: `eval(num_epochs - 1)`.

An expression is numbers, names of variables, `+ - * / // ** %`, unary minus and abs, float, int, max, min, round.
Python's parser reads it and nothing of Python's runs it: every node is checked against that list and computed here,
with integers below 2**63, bounded powers and finite results, so that a downloaded recipe can't do anything else.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from zoo.errors import RecipeError

Number = int | float

MAX_CHARS = 500
MAX_DEPTH = 50
MAX_MAGNITUDE = 2**63
NUMERIC = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")  # YAML 1.2 core schema

_CALL = re.compile(r"\s*eval\((.*)\)\s*", re.DOTALL)
_ALPHABET = re.compile(r"[0-9A-Za-z_.+\-*/%(), \t\n]*")

_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: Mapping[str, Callable[[Number], Number]] = {"abs": abs, "float": float, "int": int, "round": round}


def expression_in(text: str) -> str | None:
    """The expression of a text that is exactly `eval(expression)`; None for any other text."""
    found = _CALL.fullmatch(text)
    return found[1].strip() if found else None


def names_in(expression: str) -> tuple[str, ...]:
    """The variables that an expression names, each once, in order; RecipeError where it is no arithmetic."""
    with _refusals(expression):
        body = _parse(expression)
    called = {id(node.func) for node in ast.walk(body) if isinstance(node, ast.Call)}
    names = (node.id for node in ast.walk(body) if isinstance(node, ast.Name) and id(node) not in called)
    return tuple(dict.fromkeys(names))


def evaluate(expression: str, variables: Mapping[str, object]) -> object:
    """Value of an expression: an int or a finite float, or a variable's value as it is where only a name stands.

    Raises RecipeError where the expression is more than arithmetic, is too large, names a variable that is unknown or
    not a number, or has no finite value.
    """
    with _refusals(expression):
        body = _parse(expression)
        if isinstance(body, ast.Name) and body.id in variables:
            return variables[body.id]
        return _value(body, variables, 0)


class _NotArithmeticError(Exception):
    """The expression is outside the language."""


@contextmanager
def _refusals(expression: str) -> Iterator[None]:
    """Turns what goes wrong inside into a RecipeError that shows the expression."""
    shown = ascii(expression[:80])
    if len(expression) > MAX_CHARS:
        raise RecipeError(f"the expression {shown}... has more than {MAX_CHARS} characters")
    try:
        yield
    except ArithmeticError as error:
        raise RecipeError(f"{shown} has no value: {error}") from error
    except _NotArithmeticError as error:
        raise RecipeError(f"{shown} is not allowed: {error}") from error


def _parse(expression: str) -> ast.expr:
    stray = _ALPHABET.sub("", expression, count=1)
    if stray:
        raise _NotArithmeticError(f"{stray[0]!a} has no meaning in arithmetic")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return ast.parse(" ".join(expression.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError, Warning) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _NotArithmeticError(f"it can't be read as arithmetic ({reason})") from error


def _value(node: ast.expr, variables: Mapping[str, object], depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise _NotArithmeticError(f"it is nested more than {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=value):
            return _bounded(value)
        case ast.Name(id=name):
            return _variable(name, variables)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _bounded(-_value(operand, variables, depth + 1))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, variables, depth + 1)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, variables, depth + 1), _value(right, variables, depth + 1))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, [_value(arg, variables, depth + 1) for arg in args])
    raise _NotArithmeticError(f"{type(node).__name__} is more than numbers, variables, + - * / // ** % and functions")


def _variable(name: str, variables: Mapping[str, object]) -> Number:
    if name not in variables:
        raise _NotArithmeticError(f"there is no variable {name}")
    value = variables[name]
    if isinstance(value, str) and NUMERIC.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotArithmeticError(f"the variable {name} is {ascii(value)[:40]}, not a number")
    return _bounded(value)


def _binary(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow):
        return _power(left, right)
    if type(op) not in _OPERATORS:
        raise _NotArithmeticError(f"the operator {type(op).__name__} is not one of + - * / // ** %")
    return _bounded(_OPERATORS[type(op)](left, right))


def _power(base: Number, exponent: Number) -> Number:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and abs(base) > 1 and (int(base).bit_length() - 1) * exponent > MAX_MAGNITUDE.bit_length():
        raise OverflowError(f"{base} ** {exponent} is larger than 2**63")
    return _bounded(base**exponent)


def _call(name: str, args: list[Number]) -> Number:
    if name in ("min", "max") and len(args) > 1:
        return min(args) if name == "min" else max(args)
    if name in _FUNCTIONS and len(args) == 1:
        return _bounded(_FUNCTIONS[name](args[0]))
    if name == "round" and len(args) == 2 and isinstance(args[1], int) and 0 <= args[1] <= 20:
        return _bounded(round(args[0], args[1]))
    raise _NotArithmeticError(
        f"{name} with {len(args)} arguments is none of abs(x), float(x), int(x), min(x, y, ...), max(x, y, ...), "
        "round(x), round(x, digits from 0 to 20)"
    )


def _bounded(value: object) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotArithmeticError(f"{ascii(value)[:40]} is not a real number")
    if isinstance(value, int) and abs(value) > MAX_MAGNITUDE:
        raise OverflowError("an integer is larger than 2**63")
    if not math.isfinite(value):
        raise OverflowError("a number is not finite")
    return value
