"""Activations composed of torch's operations, which torch can differentiate any number of times.

What is evaluated is the formula of the table's row, so that an activation is written nowhere else.
The kernels compute values and first derivatives; this serves second derivatives alone.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import fastact as fa

Value = Tensor | float
Names = Mapping[str, Value]


def _pick(better: Callable, a: Value, b: Value) -> Value:
    """The larger or smaller of two. Where they tie the derivative is that of b, the constant: as in
    the kernels."""
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return a if better(a, b) else b
    return torch.where(better(a, b), a, b)


def _of_numbers(function: Callable, number: Callable) -> Callable:
    return lambda v: function(v) if isinstance(v, Tensor) else number(v)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "max": lambda a, b: _pick(lambda p, q: p > q, a, b),
    "min": lambda a, b: _pick(lambda p, q: p < q, a, b),
    "abs": abs,
    "exp": _of_numbers(torch.exp, math.exp),
    "expm1": _of_numbers(torch.expm1, math.expm1),
    "log": _of_numbers(torch.log, math.log),
    "sqrt": _of_numbers(torch.sqrt, math.sqrt),
    "tanh": _of_numbers(torch.tanh, math.tanh),
    "Phi": torch.special.ndtr,
    "logistic": torch.sigmoid,
    "log_logistic": torch.nn.functional.logsigmoid,
}
# What would overflow, or lose all digits, as it is written in a formula.
REWRITTEN = {
    "a / (1 + exp(u))": "a * logistic(-u)",
    "log(1 + exp(u))": "-log_logistic(-u)",
    "exp(u) - 1": "expm1(u)",
    "(exp(u) - exp(-u)) / (exp(u) + exp(-u))": "tanh(u)",
}
OPERATORS: dict[type, Callable] = {
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


def _parse(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _match(pattern: ast.expr, node: ast.expr, found: dict[str, ast.expr]) -> bool:
    """Whether a node has a pattern's form; a name stands for any expression, each time the same."""
    if isinstance(pattern, ast.Name):
        return ast.dump(found.setdefault(pattern.id, node)) == ast.dump(node)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, ast.Constant):
        return pattern.value == node.value
    if isinstance(pattern, ast.Call):
        return pattern.func.id == node.func.id and _match(pattern.args[0], node.args[0], found)
    if isinstance(pattern, ast.UnaryOp):
        return _match(pattern.operand, node.operand, found)
    return (
        type(pattern.op) is type(node.op)
        and _match(pattern.left, node.left, found)
        and _match(pattern.right, node.right, found)
    )


RULES = [(_parse(written), better) for written, better in REWRITTEN.items()]


class _Rewriter(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> ast.AST:
        for pattern, better in RULES:
            found: dict[str, ast.expr] = {}
            if isinstance(node, ast.expr) and _match(pattern, node, found):
                return _substitute(_parse(better), {k: self.visit(v) for k, v in found.items()})
        return self.generic_visit(node)


def _substitute(expression: ast.expr, found: dict[str, ast.AST]) -> ast.AST:
    class Substitution(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return found.get(node.id, node)

    return Substitution().visit(expression)


@functools.cache
def _formula(text: str) -> tuple[ast.expr, dict[str, float]]:
    """The expression of a row's formula, and the constants that are given behind it."""
    expression, *rest = re.split(r", (?![^(]*\))", text)
    constants = dict(part.split(" = ") for part in rest if " = " in part)
    expression = re.sub(r"\|([^|]+)\|", r"abs(\1)", expression)
    return _Rewriter().visit(_parse(expression)), {k: float(v) for k, v in constants.items()}


def _evaluate(node: ast.expr, names: Names) -> Value:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names[node.id]
        case ast.UnaryOp():
            return -_evaluate(node.operand, names)
        case ast.BinOp():
            operator = OPERATORS[type(node.op)]
            return operator(_evaluate(node.left, names), _evaluate(node.right, names))
        case ast.Call():
            return FUNCTIONS[node.func.id](*[_evaluate(argument, names) for argument in node.args])
        case ast.Compare():
            return _compare(node, names)
        case ast.IfExp():
            return _choose(node, names)
    raise NotImplementedError(ast.unparse(node))


def _compare(node: ast.Compare, names: Names) -> Tensor:
    values = [_evaluate(operand, names) for operand in (node.left, *node.comparators)]
    tests = [
        OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False)
    ]
    return functools.reduce(lambda a, b: a & b, tests)


def _choose(node: ast.IfExp, names: Names) -> Tensor:
    """A branch sees 0 where the other one is taken: an overflow there would make its derivative, 0
    times infinity, NaN."""
    test = _evaluate(node.test, names)

    def branch(expression: ast.expr, taken: Tensor) -> Value:
        return _evaluate(expression, {
            name: torch.where(taken, value, 0) if isinstance(value, Tensor) else value
            for name, value in names.items()
        })  # fmt: skip

    return torch.where(test, branch(node.body, test), branch(node.orelse, ~test))


def value(name: str, x: Tensor, **arguments: Value) -> Tensor:
    """An activation's value, by its formula; half precision is computed as float32."""
    function = fa.gated[name] if name in fa.gated else fa.activations[name]
    expression, constants = _formula(function.formula)
    names = {"x": x, "pi": math.pi, **constants, **arguments}
    if x.dtype in (torch.float16, torch.bfloat16):
        names = {k: v.float() if isinstance(v, Tensor) else v for k, v in names.items()}
    return _evaluate(expression, names).to(x.dtype)
