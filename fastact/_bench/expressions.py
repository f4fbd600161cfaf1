"""A formula of the table as numexpr spells it: `a if c else b` is where(c, a, b), and so on."""

from __future__ import annotations

import ast
import re
from collections.abc import Container

import numpy as np

EXTREMES: dict[str, type[ast.cmpop]] = {"max": ast.Gt, "min": ast.Lt}


class ForNumexpr(ast.NodeTransformer):
    """Constants become float32 variables: a literal would make numexpr use float64."""

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values
        self.constants: dict[str, np.float32] = {}

    def constant(self, value: float) -> ast.Name:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.float32(value)
        return ast.Name(name)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self.constant(ast.literal_eval(node))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.constant(self.values[node.id]) if node.id in self.values else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return call("where", node.test, node.body, node.orelse)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        pairs = [ast.Compare(a, [op], [b]) for a, op, b in zip(sides, node.ops, sides[1:])]  # noqa: B905
        whole: ast.expr = pairs[0]
        for pair in pairs[1:]:
            whole = ast.BinOp(whole, ast.BitAnd(), pair)
        return whole

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if (order := EXTREMES.get(ast.unparse(node.func))) is None:
            return node
        a, b = node.args  # numexpr's maximum would make float64 of float32
        return call("where", ast.Compare(a, [order()], [b]), a, b)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if (value := number(node)) is not None:
            return self.constant(value)
        if isinstance(node.op, ast.Pow):  # an integer power: numexpr multiplies
            node.left = self.visit(node.left)
            return node
        return self.generic_visit(node)


def number(node: ast.expr) -> float | None:
    """The value of an expression without a variable."""
    try:
        return float(eval(compile(ast.Expression(node), "", "eval"), {}))
    except NameError:
        return None


def call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name), list(args), [])


def definitions(formula: str) -> tuple[str, dict[str, float]]:
    """`a * x, a = 1.5` is the expression `a * x` where a is 1.5."""
    head, *rest = re.split(r", (?=\w+ = |Phi )", formula)
    found = (re.fullmatch(r"(\w+) = ([\d.]+)", text) for text in rest)
    return head, {match[1]: float(match[2]) for match in found if match}


def for_numexpr(
    name: str, formula: str, values: dict[str, float], known: Container[str]
) -> tuple[str | None, dict[str, np.float32]]:
    """The expression in x (and gate) and its constants; None where numexpr lacks a function."""
    if name in known:
        return f"{name}(x)", {}
    head, defined = definitions(formula)
    translator = ForNumexpr({**values, "pi": np.pi, **defined})
    tree = ast.parse(re.sub(r"\|(.*?)\|", r"abs(\1)", head), mode="eval")
    source = ast.unparse(ast.fix_missing_locations(translator.visit(tree)))
    called = re.findall(r"(\w+)\(", source)
    return (source if all(f in known for f in called) else None), translator.constants
