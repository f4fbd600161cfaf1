"""The tables of csrc/pieces.h are what tools/pieces.py makes, and hold where they say they do."""

import importlib.util
import os
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT, once

pytestmark = once

if not (ROOT / "tools" / "pieces.py").exists():
    pytest.skip("needs the source tree", allow_module_level=True)
pytest.importorskip("mpmath")


def load():
    spec = importlib.util.spec_from_file_location("pieces", ROOT / "tools" / "pieces.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pieces"] = module
    spec.loader.exec_module(module)
    return module


pieces = load()
HEADER = (ROOT / "csrc" / "pieces_tables.h").read_text()
NUMBERS = {
    name: float(value.rstrip("f"))
    for name, value in re.findall(r"#define (FA_\w+) ([\d.]+\S*)", HEADER)
}
ARRAYS = {
    name: [[int(word, 16) for word in row.split(",")] for row in re.findall(r"\{(0x.*?)\}", rows)]
    for name, rows in re.findall(
        r"fa_(\w+)_pieces\[.*?\]\[4\] = \{\n(.*?)\n\};",
        (ROOT / "csrc" / "pieces_tables.c").read_text(),
        flags=re.DOTALL,
    )
}


def rows_of(name):
    """Those of a table to the left of another follow the rows of that one."""
    behind = pieces.TABLES[name].left_of
    count = int(NUMBERS[f"FA_COUNT_{name}"])
    return ARRAYS[behind][-count:] if behind else ARRAYS[name][:count]


ROWS = {name: rows_of(name) for name in pieces.TABLES}
tables = pytest.mark.parametrize("name", pieces.TABLES)


def test_no_table_is_left_over_and_none_is_missing():
    assert [*ARRAYS] == [name for name, table in pieces.TABLES.items() if not table.left_of]
    for name, rows in ARRAYS.items():
        parts = [n for n, table in pieces.TABLES.items() if name in (n, table.left_of)]
        assert rows == [row for part in parts for row in ROWS[part]]


LEFT = [name for name, table in pieces.TABLES.items() if table.left_of]


@pytest.mark.parametrize("name", LEFT)
def test_a_table_to_the_left_reaches_the_one_it_belongs_to(name):
    table, main = pieces.TABLES[name], pieces.TABLES[pieces.TABLES[name].left_of]
    end = NUMBERS[f"FA_END_{name}"] - table.base
    assert table.first - table.base < main.first - main.base < end


@tables
def test_a_table_is_what_the_tool_makes(name):
    table, numbers = pieces.TABLES[name], pieces.numbers(pieces.TABLES[name])
    assert len(ROWS[name]) == len(numbers) == NUMBERS[f"FA_COUNT_{name}"]
    for field, value in (("BASE", table.base), ("FIRST", table.first), ("BITS", table.bits)):
        assert NUMBERS[f"FA_{field}_{name}"] == value
    for place in {0, len(numbers) // 3, len(numbers) // 2, len(numbers) - 1}:
        assert ROWS[name][place] == pieces.piece(name, numbers[place])[0]


SOME = """
import sys
sys.path.insert(0, sys.argv[1])
import pieces
for name, table in pieces.TABLES.items():
    print(name, *(pieces.piece(name, pieces.numbers(table)[k]) for k in (5, 300, 500)))
"""


def test_a_table_does_not_depend_on_the_processor():
    """It did while LAPACK solved for the coefficients, in the last bits."""

    def some(**chosen):
        command = [sys.executable, "-c", SOME, ROOT / "tools"]
        return subprocess.check_output(command, env={**os.environ, **chosen}, text=True)

    assert some() == some(OPENBLAS_CORETYPE="Prescott")


@tables
def test_zero_is_the_middle_of_a_piece_and_every_middle_a_short_number(name):
    """So x less the middle is exact: in float32 for any x of the piece."""
    table = pieces.TABLES[name]
    for number in pieces.numbers(table)[::17]:
        ends = [pieces.float_of(n << 23 - table.bits) - table.base for n in (number, number + 1)]
        middle = Fraction(ends[0] + ends[1]) / 2
        assert float(np.float32(float(middle))) == middle
        for x in (np.nextafter(np.float32(ends[0]), np.float32(ends[1])), np.float32(ends[1])):
            t = x - np.float32(float(middle))
            assert Fraction(float(t)) == Fraction(float(x)) - middle
    if table.base == 0:
        return
    word = int(np.float32(table.base).view(np.uint32))
    low, high = (pieces.float_of((word >> 23 - table.bits) + n << 23 - table.bits) for n in (0, 1))
    assert (low + high) / 2 == table.base


def value(table, row, t):
    """The polynomial of a row, exactly."""
    t = Fraction(float(t))
    if table.kind == pieces.FLOAT:
        c = [pieces.float_of(word) for word in (row[0], row[1], row[2])]
        c += [pieces.float_of(row[3] << 16 & 0xFFFFFFFF), pieces.float_of(row[3])]
        return Fraction(c[0]) + Fraction(c[4]) + sum(Fraction(c[k]) * t**k for k in (1, 2, 3))
    c = [pieces.double_of(word) for word in row]
    c.insert(3, pieces.double_of(row[3] << 32 & (1 << 64) - 1))
    return sum(Fraction(c[k]) * t**k for k in range(5))


@tables
def test_polynomials_are_close_to_their_function(name):
    """Away from a zero of it, to 2^-30.5: with the last rounding 0.51 ULP."""
    table, numbers = pieces.TABLES[name], pieces.numbers(pieces.TABLES[name])
    for place in range(0, len(numbers), 41):
        ends = [pieces.float_of(n + numbers[place] << 23 - table.bits) for n in (0, 1)]
        middle, half = (ends[0] + ends[1]) / 2 - table.base, (ends[1] - ends[0]) / 2
        for share in (-1.0, -0.6, 0.0, 0.3, 1.0):
            exact = table.function(pieces.mp.mpf(middle + share * half))
            got = value(table, ROWS[name][place], share * half)
            error = abs(pieces.mp.mpf(got.numerator) / got.denominator - exact)
            assert error <= max(2**-30.5 * abs(exact), 2**-38.5), (middle, share)


def test_a_wrong_word_is_found():
    name = next(iter(pieces.TABLES))
    row = [word ^ (1 << 9) * (k == 1) for k, word in enumerate(ROWS[name][700])]
    assert row != pieces.piece(name, pieces.numbers(pieces.TABLES[name])[700])[0]
    table, half = pieces.TABLES[name], 2.0**-8
    assert abs(value(table, row, half) - value(table, ROWS[name][700], half)) >= 2**-30
