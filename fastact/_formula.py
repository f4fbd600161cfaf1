"""A row's formula, evaluated with the operations of any library of arrays.

The kernels compute values and first derivatives. Where a library is to differentiate once more, it
needs the activation in operations of its own: the formula says which, so that an activation is
written nowhere else. Only fastact.torch and fastact.jax import this.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import fastact as fa

Value = Any  # a library's array, or a number


class Library(NamedTuple):
    """What a formula asks of a library."""

    array: type | tuple[type, ...]
    where: Callable[[Value, Value, Value], Value]
    functions: Mapping[str, Callable[[Value], Value]]  # of an array, by the formulas' names


# What would overflow, or lose all digits, as it is written in a formula.
REWRITTEN = {
    "a / (1 + exp(u))": "a * logistic(-u)",
    "log(1 + exp(u))": "-log_logistic(-u)",
    "exp(u) - 1": "expm1(u)",
    "(exp(u) - exp(-u)) / (exp(u) + exp(-u))": "tanh(u)",
}
OPERATORS: dict[type, Callable[[Value, Value], Value]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


# ---- text to expression --------------------------------------------------------------------------


def _parse(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _match(pattern: ast.expr, node: ast.expr, found: dict[str, ast.expr]) -> bool:
    """Whether a node has a pattern's form; a name stands for any expression, each time the same."""
    match pattern, node:
        case ast.Name(id=name), _:
            return ast.dump(found.setdefault(name, node)) == ast.dump(node)
        case ast.Constant(value=one), ast.Constant(value=other):
            return bool(one == other)
        case ast.UnaryOp(operand=one), ast.UnaryOp(operand=other):
            return _match(one, other, found)
        case (
            ast.Call(func=ast.Name(id=one), args=[inner]),
            ast.Call(func=ast.Name(id=other), args=[argument]),
        ):
            return one == other and _match(inner, argument, found)
        case ast.BinOp(), ast.BinOp():
            return (
                type(pattern.op) is type(node.op)
                and _match(pattern.left, node.left, found)
                and _match(pattern.right, node.right, found)
            )
    return False


RULES = [(_parse(written), better) for written, better in REWRITTEN.items()]


class _Rewriter(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        for pattern, better in RULES:
            found: dict[str, ast.expr] = {}
            if isinstance(node, ast.expr) and _match(pattern, node, found):
                parts = {name: self.visit(part) for name, part in found.items()}
                return _Substitution(parts).visit(_parse(better))
        return self.generic_visit(node)


class _Substitution(ast.NodeTransformer):
    def __init__(self, parts: Mapping[str, ast.expr]) -> None:
        self.parts = parts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.parts.get(node.id, node)


@functools.cache
def _read(text: str) -> tuple[ast.expr, dict[str, float]]:
    """The expression of a row's formula, and the constants that are given behind it."""
    expression, *rest = re.split(r", (?![^(]*\))", text)
    constants = dict(part.split(" = ") for part in rest if " = " in part)
    expression = re.sub(r"\|([^|]+)\|", r"abs(\1)", expression)
    tree = cast("ast.expr", _Rewriter().visit(_parse(expression)))
    return tree, {name: float(number) for name, number in constants.items()}


# ---- expression to value -------------------------------------------------------------------------


class _Evaluation:
    """One formula on one library's arrays."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def __call__(self, node: ast.expr, names: Mapping[str, Value]) -> Value:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return names[name]
            case ast.UnaryOp(operand=operand):
                return -self(operand, names)
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](self(left, names), self(right, names))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.call(name, [self(argument, names) for argument in arguments])
            case ast.Compare():
                return self.compare(node, names)
            case ast.IfExp():
                return self.choose(node, names)
        raise NotImplementedError(ast.unparse(node))

    def is_array(self, value: Value) -> bool:
        return isinstance(value, self.library.array)

    def call(self, name: str, arguments: list[Value]) -> Value:
        if name == "max":
            return self.pick(operator.gt, *arguments)
        if name == "min":
            return self.pick(operator.lt, *arguments)
        if name == "abs":
            return abs(arguments[0])
        is_array = self.is_array(arguments[0])
        return (self.library.functions[name] if is_array else getattr(math, name))(*arguments)

    def pick(self, better: Callable[[Value, Value], Value], a: Value, b: Value) -> Value:
        """The larger or smaller of two. Where they tie the derivative is that of b, the constant:
        as in the kernels."""
        if self.is_array(a) or self.is_array(b):
            return self.library.where(better(a, b), a, b)
        return a if better(a, b) else b

    def compare(self, node: ast.Compare, names: Mapping[str, Value]) -> Value:
        values = [self(operand, names) for operand in (node.left, *node.comparators)]
        pairs = zip(node.ops, values[:-1], values[1:], strict=True)
        tests = [OPERATORS[type(op)](a, b) for op, a, b in pairs]
        return functools.reduce(operator.and_, tests)

    def choose(self, node: ast.IfExp, names: Mapping[str, Value]) -> Value:
        """A branch sees 0 where the other one is taken: an overflow there would make its
        derivative, 0 times infinity, NaN."""
        test = self(node.test, names)

        def branch(expression: ast.expr, taken: Value) -> Value:
            seen = {
                name: self.library.where(taken, value, 0) if self.is_array(value) else value
                for name, value in names.items()
            }
            return self(expression, seen)

        return self.library.where(test, branch(node.body, test), branch(node.orelse, ~test))


def evaluate(library: Library, function: fa.Activation, x: Value, **arguments: Value) -> Value:
    """An activation's value, by its formula."""
    expression, constants = _read(function.formula)
    return _Evaluation(library)(expression, {"x": x, "pi": math.pi, **constants, **arguments})
