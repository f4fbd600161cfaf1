"""csrc/pieces_tables.[ch]: polynomials in pieces for the float32 bodies of csrc/activations.h.

    python tools/pieces.py

With u = x + base, a piece is what has the same exponent of u and the same first bits of its
fraction, so pieces halve their width from octave to octave: base puts the narrow ones where a
function changes fast. Each piece has a polynomial in t, the distance from its middle. Coefficients
are fitted by least squares at Chebyshev nodes, relative to the function; those that keep few bits
are rounded first, so that others take up most of what is lost. No sum is left to a linear algebra
library and no power to NumPy, whose last bits depend on the machine: the tables do not.
"""

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import numpy as np

mp.mp.dps = 40
CSRC = Path(__file__).resolve().parent.parent / "csrc"
NODES = 12
LEAST = 2.0**-126  # that is normal
FLOAT, DOUBLE = 32, 64


class Table(NamedTuple):
    text: str
    function: Callable[[mp.mpf], mp.mpf]
    kind: int
    about: float  # base is the middle of its piece, so that around x = 0, too, t is exact; or 0
    first: float  # u where the table begins
    last: float  # and where the piece is with which it ends
    bits: int  # of the fraction of u that say which piece
    ends: Sequence[float] = ()  # c0 and c1 of the last piece: of all that is beyond, too
    left_of: str = ""  # the table whose rows these follow, for what is to the left of it

    @property
    def base(self) -> float:
        if not self.about:
            return 0.0
        piece = float_word(mp.mpf(self.about)) >> 23 - self.bits
        return float_of((2 * piece + 1) << 22 - self.bits)


def logistic(x):
    return 1 / (1 + mp.exp(-x))


def density(x):
    return logistic(x) * logistic(-x)


def gate_slope(y, x_slope_of_y):
    """d/dx of x sigma(y(x)), of y and x y'(x)."""
    return logistic(y) * (1 + x_slope_of_y * logistic(-y))


def cubic(x):
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf(44715) / 10**6 * x**3)


def cubic_slope(x):
    return 2 * mp.sqrt(2 / mp.pi) * (x + 3 * mp.mpf(44715) / 10**6 * x**3)


def softplus(x):
    return mp.log1p(mp.exp(x))


def tanh_log1pexp_slope(x):
    t = mp.tanh(softplus(x))
    return t + x * (1 - t * t) * logistic(x)


QUICK = mp.mpf(1702) / 1000

ONE = (1.0, 0.0)
LINE = (0.0, 1.0)  # x itself
LESS_1 = (-1.0, 1.0)

TABLES = {
    "normal": Table("Phi(x)", mp.ncdf, FLOAT, 4.625, 0.25, 11.0, 8, ONE),
    "logistic": Table("sigma(x)", logistic, FLOAT, 31.0, 16.0, 53.5, 10, ONE),
    "log1pexp": Table("log(1 + e^x)", softplus, FLOAT, 31.0, 16.0, 50.5, 10, LINE),
    "logistic_1702": Table(
        "sigma(1.702 x)", lambda x: logistic(QUICK * x), FLOAT, 8.0, 2.0, 21.25, 9, ONE
    ),
    "logistic_cubic": Table(
        "sigma(2 sqrt(2 / pi) (x + 0.044715 x^3))",
        lambda x: logistic(cubic(x)), FLOAT, 4.625, 0.25, 10.75, 8, ONE,
    ),
    "logistic_density": Table("sigma(x) sigma(-x)", density, FLOAT, 32.0, 16.0, 32.0, 10),
    "sech2": Table("1 / cosh(x)^2", lambda x: 4 * density(2 * x), FLOAT, 16.0, 6.0, 16.0, 10),
    "tanh": Table("tanh(x)", mp.tanh, FLOAT, 0.0, 2.0**-6, 11.25, 6, ONE),
    "x_less_tanh": Table(
        "x - tanh(x)", lambda x: x - mp.tanh(x), FLOAT, 0.0, 2.0**-14, 10.5, 7, LESS_1
    ),
    "normal_slope": Table(
        "Phi(x) + x phi(x)",
        lambda x: mp.ncdf(x) + x * mp.npdf(x), DOUBLE, 4.625, 0.25, 11.875, 7, ONE,
    ),
    "logistic_slope": Table(
        "sigma(x) (1 + x sigma(-x))", lambda x: gate_slope(x, x), DOUBLE, 17.0, 3.0, 43.5, 8, ONE
    ),
    "tanh_log1pexp": Table(
        "tanh(log(1 + e^x))", lambda x: mp.tanh(softplus(x)), DOUBLE, 13.0, 2.0, 25.5, 8, ONE
    ),
    "tanh_log1pexp_slope": Table(
        "d/dx x tanh(log(1 + e^x))", tanh_log1pexp_slope, DOUBLE, 13.0, 2.0, 27.0, 8, ONE
    ),
    "logistic_1702_slope": Table(
        "d/dx x sigma(1.702 x)",
        lambda x: gate_slope(QUICK * x, QUICK * x), DOUBLE, 15.0, 6.0, 31.0, 9, ONE,
    ),
    "logistic_cubic_slope": Table(
        "d/dx x sigma(2 sqrt(2 / pi) (x + 0.044715 x^3))",
        lambda x: gate_slope(cubic(x), cubic_slope(x)), DOUBLE, 4.625, 0.25, 11.25, 8, ONE,
    ),
}  # fmt: skip


def to_the_left(name: str, about: float, first: float, last: float, bits: int) -> Table:
    pieces = {"about": about, "first": first, "last": last, "bits": bits}
    return TABLES[name]._replace(**pieces, ends=(), left_of=name)


TABLES |= {
    f"{name}_left": to_the_left(name, *pieces)
    for name, *pieces in (
        ("normal", 13.875, 3.5, 9.5, 11),
        ("logistic_1702", 32.0, 16.0, 26.0, 11),
        ("normal_slope", 22.5, 8.0, 18.125, 10),
        ("logistic_cubic_slope", 15.0, 4.375, 10.625, 10),
    )
}
BEYOND = 2.0**14  # u up to which tables with an end are used: t is exact


# ---- one piece -----------------------------------------------------------------------------------


CHEBYSHEV = [mp.cos(mp.pi * (2 * i + 1) / (2 * NODES)) for i in range(NODES)]
NODE_POWERS = np.array([[float(node**p) for node in CHEBYSHEV] for p in range(5)])


@cache
def projection(powers: tuple[int, ...]) -> list[list[float]]:
    """What values at the nodes are multiplied by for the coefficients that fit them best."""
    basis = mp.matrix([[node**p for p in powers] for node in CHEBYSHEV])
    return [[float(c) for c in row] for row in ((basis.T * basis) ** -1 * basis.T).tolist()]


class Fit:
    """f / f(middle) - 1 at Chebyshev nodes of a piece, less the coefficients that are settled."""

    def __init__(self, function, middle: float, width: float) -> None:
        nodes = [mp.mpf(width) / 2 * node for node in CHEBYSHEV]
        at_middle = function(mp.mpf(middle))
        ends = [function(middle + side * mp.mpf(width) / 2) for side in (-1, 1)]
        beside_zero = ends[0] * ends[1] <= 0 and abs(at_middle) <= 2**-10 * width
        scale = mp.mpf(1) if beside_zero else at_middle
        self.at_middle, self.scale, self.half = at_middle, float(scale), float(width) / 2
        self.rest = np.array([float((function(middle + t) - at_middle) / scale) for t in nodes])

    def solve(self, *powers: int) -> dict[int, float]:
        """The coefficients of these powers that fit what is left best."""
        solved = [math.fsum(row * self.rest) for row in projection(powers)]
        return {p: self.scale * c / self.half**p for p, c in zip(powers, solved, strict=True)}

    def without(self, power: int, coefficient: float) -> "Fit":
        other = copy.copy(self)
        of_unit = coefficient / self.scale * self.half**power
        other.rest = self.rest - of_unit * NODE_POWERS[power]
        return other

    def middle(self) -> mp.mpf:
        """c0 that makes the largest error smallest."""
        return self.at_middle + self.scale * (self.rest.max() + self.rest.min()) / 2

    def error(self, c0: mp.mpf) -> float:
        return np.abs(self.rest - float((c0 - self.at_middle) / self.scale)).max()


def float_word(c: mp.mpf) -> int:
    """The nearest float32; 0 for a subnormal, with which arithmetic may be slow."""
    value = np.float32(float(c))
    return int(value.view(np.uint32)) if abs(value) >= LEAST else 0


def float_of(word: int) -> float:
    return float(np.uint32(word).view(np.float32))


def double_word(c: mp.mpf) -> int:
    return int(np.float64(float(c)).view(np.uint64))


def double_of(word: int) -> float:
    return float(np.uint64(word).view(np.float64))


def float_piece(fit: Fit) -> tuple[list[int], float]:
    """c0, c1, c2, and in one word what c0 lacks (with c3's bits behind its own) and c3."""
    ideal = fit.solve(0, 1, 2, 3)
    c1s = [np.nextafter(np.float32(ideal[1]), np.float32(to)) for to in (-np.inf, ideal[1], np.inf)]
    c3 = float_word(ideal[3]) >> 16
    c3s = [c3 + step for step in range(-3, 5)] if c3 & 0x7FFF > 0x100 else [0]
    return min((float_rest(fit, c1, c3) for c1 in c1s for c3 in c3s), key=lambda r: r[1])


def float_rest(fit: Fit, c1: np.float32, c3: int) -> tuple[list[int], float]:
    fit = fit.without(1, float(c1)).without(3, float_of(c3 << 16))
    c2 = float_word(fit.solve(0, 2)[2])
    fit = fit.without(2, float_of(c2))
    c0 = fit.middle()
    lacking = c0 - float_of(float_word(c0))
    near = max(float_word(lacking) >> 16, float_word(LEAST) >> 16)
    low = min(
        (near + step << 16 | c3 for step in (0, 1, -1) if near + step & 0x7F80),
        key=lambda word: abs(float_of(word) - lacking),
    )
    words = [float_word(c0), float_word(c1), c2, low]
    return words, fit.error(mp.mpf(float_of(words[0])) + float_of(low))


def double_piece(fit: Fit) -> tuple[list[int], float]:
    """c0, c1, c2, and c4, whose lower half is the upper one of c3."""
    c3 = double_word(fit.solve(0, 1, 2, 3, 4)[3]) + (1 << 31) >> 32
    fit = fit.without(3, double_of(c3 << 32))
    c4 = double_word(fit.solve(0, 1, 2, 4)[4]) >> 32 << 32 | c3
    fit = fit.without(4, double_of(c4))
    rest = fit.solve(0, 1, 2)
    fit = fit.without(1, rest[1]).without(2, rest[2])
    c0 = double_word(fit.middle())
    words = [c0, double_word(rest[1]), double_word(rest[2]), c4]
    return words, fit.error(mp.mpf(double_of(c0)))


# ---- the tables ----------------------------------------------------------------------------------


def numbers(table: Table) -> range:
    """The pieces, by the first bits of u."""
    first, last = (float_word(mp.mpf(u)) >> 23 - table.bits for u in (table.first, table.last))
    return range(first, last + 1)


def piece(name: str, number: int) -> tuple[list[int], float]:
    table = TABLES[name]
    low, high = (mp.mpf(float_of(n << 23 - table.bits)) for n in (number, number + 1))
    middle = (low + high) / 2 - table.base
    fit = Fit(table.function, middle, high - low)
    if table.ends and number == numbers(table)[-1]:
        return last_piece(table, fit, middle)
    return float_piece(fit) if table.kind == FLOAT else double_piece(fit)


def last_piece(table: Table, fit: Fit, middle: mp.mpf) -> tuple[list[int], float]:
    word = float_word if table.kind == FLOAT else double_word
    c0, c1 = table.ends
    c0 += c1 * middle
    return [word(c0), word(c1), 0, 0], fit.without(1, c1).error(mp.mpf(c0))


HEAD = "/* Made by tools/pieces.py. */"


def describe(name: str, table: Table, count: int, error: float) -> list[str]:
    end = BEYOND if table.ends else float_of(numbers(table)[-1] + 1 << 23 - table.bits)
    return [
        "",
        f"/* {table.text}, {table.first - table.base:.4g} <= x < {end - table.base:.4g};"
        f" error 2^{error:.1f} */",
        f"#define FA_BASE_{name} {table.base!r}f",
        f"#define FA_FIRST_{name} {table.first!r}f",
        f"#define FA_END_{name} {end!r}f",
        f"#define FA_BITS_{name} {table.bits}",
        f"#define FA_COUNT_{name} {count}",
    ]


def main() -> None:
    header = [HEAD, "#ifndef FASTACT_PIECES_TABLES_H", "#define FASTACT_PIECES_TABLES_H", ""]
    header += ["#include <stdint.h>"]
    data = [HEAD, '#include "pieces_tables.h"']
    with ProcessPoolExecutor() as pool:
        for name, kind in ((n, t.kind) for n, t in TABLES.items() if not t.left_of):
            parts, rows = [n for n, t in TABLES.items() if name in (n, t.left_of)], []
            for part in parts:
                table = TABLES[part]
                found = list(pool.map(partial(piece, part), numbers(table), chunksize=32))
                error = math.log2(max(error for _, error in found))
                header += describe(part, table, len(found), error)
                rows += [words for words, _ in found]
                print(f"{part:26}{len(found):6} pieces, error 2^{error:.1f}", flush=True)
            array = f"const uint{kind}_t fa_{name}_pieces[FA_ROWS_{name}][4]"
            header += [
                f"#define FA_ROWS_{name} ({' + '.join(f'FA_COUNT_{part}' for part in parts)})",
                f"extern {array};",
            ]
            data += ["", f"_Alignas(64) {array} = {{"]
            data += ["    {" + ", ".join(f"0x{w:0{kind // 4}x}" for w in ws) + "}," for ws in rows]
            data += ["};"]
    header += ["", "#endif"]
    (CSRC / "pieces_tables.h").write_text("\n".join(header) + "\n")
    (CSRC / "pieces_tables.c").write_text("\n".join(data) + "\n")


if __name__ == "__main__":
    main()
