"""csrc/pieces_tables.h: polynomials in pieces for the float32 bodies of csrc/activations.h.

    python tools/pieces.py

A function of z >= 0 is cut into 8 pieces of one width, around its multiples 0, 1, ... 7; in each a
polynomial in t = z - k width approximates it.  What is made small is the largest error, relative,
or near a zero of the function relative to LEAST: C. L. Lawson, Contributions to the theory of
linear least maximum approximation (1961).  Of the last coefficients, whose share is small, only the
upper half is kept: AVX2 looks halves up.  Each is rounded before the ones below it are fitted,
which take up most of what was lost.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import numpy as np

mp.mp.dps = 40
TARGET = Path(__file__).resolve().parent.parent / "csrc" / "pieces_tables.h"
PIECES, DEGREE, WHOLE = 8, 9, 5  # WHOLE: the first coefficients, with all their digits
LEAST = 2.0**-8
NODES, ROUNDS = 60, 60


class Table(NamedTuple):
    text: str
    function: Callable[[mp.mpf], mp.mpf]
    width: float


def normal_tail(z):
    return mp.erfc(z / mp.sqrt(2)) / 2


TABLES = {
    "normal_tail": Table("Phi(-z)", normal_tail, 0.5625),
    "normal_slope": Table("Phi(-z) - z phi(z)", lambda z: normal_tail(z) - z * mp.npdf(z), 0.625),
    "log1pexp": Table("log(1 + e^-z)", lambda z: mp.log1p(mp.exp(-z)), 1.25),
}


def upper_half(c: float) -> float:
    """c rounded to the 21 bits that its first 32 hold."""
    word = int(np.float64(c).view(np.uint64)) + (1 << 31)
    return float(np.uint64(word >> 32 << 32).view(np.float64))


def fit(x: np.ndarray, f: np.ndarray, weight: np.ndarray, degree: int) -> np.ndarray:
    """Coefficients in x, |x| <= 1, that make the largest |error * weight| small."""
    shares, powers = np.full(x.size, 1 / x.size), np.vander(x, degree + 1, increasing=True)
    best, least = np.zeros(degree + 1), np.inf
    for _ in range(ROUNDS):
        scale = weight * np.sqrt(shares)
        c = np.linalg.lstsq(powers * scale[:, None], f * scale, rcond=None)[0]
        error = np.abs((powers @ c - f) * weight)
        if error.max() < least:
            best, least = c, error.max()
        shares = shares * (error + 1e-3 * error.max())
        shares /= shares.sum()
    return best


def piece(table: Table, k: int) -> tuple[list[float], float]:
    """Its coefficients in t, and the error that is left."""
    half = table.width / 2
    low = 0.0 if k == 0 else -1.0
    x = (low + 1) / 2 + (1 - low) / 2 * np.cos(np.pi * np.arange(NODES) / (NODES - 1))
    exact = [table.function(mp.mpf(k * table.width) + mp.mpf(t)) for t in half * x]
    weight = np.array([1 / max(abs(float(f)), LEAST * near_zero(table)) for f in exact])
    rest, c = list(exact), [0.0] * (DEGREE + 1)
    for j in range(DEGREE, -1, -1):
        if j >= WHOLE:
            c[j] = upper_half(fit(x, np.array(rest, float), weight, j)[j] / half**j)
            rest = [f - c[j] * mp.mpf(t) ** j for f, t in zip(rest, half * x, strict=True)]
    lower = fit(x, np.array(rest, float), weight, WHOLE - 1)
    c[:WHOLE] = [v / half**j for j, v in enumerate(lower)]
    error = [
        abs(mp.polyval(c[::-1], mp.mpf(t)) - f) * w
        for t, f, w in zip(half * x, exact, weight, strict=True)
    ]
    return c, float(max(error))


def near_zero(table: Table) -> bool:
    """Does the function have a zero?"""
    return table.function(mp.mpf(PIECES * table.width)) < 0


def rows(name: str, table: Table) -> str:
    fits = [piece(table, k) for k in range(PIECES)]
    error = max(error for _, error in fits)
    about = f"{table.text}, z < {(PIECES - 0.5) * table.width:g}; error 2^{np.log2(error):.1f}"
    if near_zero(table):
        about += f", absolute 2^{np.log2(error * LEAST):.1f} around the zero"
    lines = [f"/* {about} */", f"FA_PIECES fa_{name}_pieces = {{"]
    lines.append(f"    {1 / table.width!r}, {table.width!r}, {{")
    for j in range(DEGREE + 1):
        words = [f"0x{int(np.float64(c[j]).view(np.uint64)):016x}" for c, _ in fits]
        lines.append("        FA_EIGHT(")
        lines += [f"            {', '.join(words[i : i + 4])}," for i in range(0, PIECES, 4)]
        lines[-1] = lines[-1].removesuffix(",") + "),"
    return "\n".join([*lines, "    }", "};"])


def text() -> str:
    head = "/* Made by tools/pieces.py: bit patterns of float64, [power of t][piece]. */"
    return "\n\n".join([head, *(rows(name, table) for name, table in TABLES.items())]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
