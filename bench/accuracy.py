"""How wrong is each activation?  Errors in ULP against oracle.c, an independent C oracle.

    python bench/accuracy.py             a fixed sample, on every instruction set: minutes
    python bench/accuracy.py --quick     a seventh of it
    python bench/accuracy.py --full      float32: all 2^32 inputs; float64: 1e8 a function

What is measured is the installed fastact, by calls as a user makes them. --full goes through every
input with the best instruction set, holds the others that have fused multiply-add to the same bits,
and measures the baseline on the sample. It writes docs/accuracy.json as it goes and, interrupted,
goes on where it stopped; accuracy_report.py makes docs/accuracy.md of it. The JSON carries a hash
of the sources that each function's figures belong to: a change to one asks for its sweep alone. A
change to what all share asks for all results again, but only where they differ from those on record
for the oracle's judgement.
Exit status 1: a promise is broken.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fastact as fa

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD = ROOT / "docs" / "accuracy.json"
KERNELS = [
    "activations.def",
    "activations.h",
    "vmath.h",
    "pairs.h",
    "working.h",
    "half.inc",
    "kernels.inc",
]
KERNELS += ["narrow.h", "pieces.h", "power.h", "raised.h"]
KERNELS += [f"isa{name}" for name in (".inc", "_list.inc", "_real.inc")]
KERNELS += [f"isa_{name}.c" for name in ("baseline", "avx2", "avx512", "neon")]
STRIDE = 251  # of the sample: 2^32 / 251 > 2^24 bit patterns
THIN = 7  # --quick: odd, so that all last bits come up
CHUNK = 2**22
FULL_DOUBLES, SAMPLE_DOUBLES, SHORT = 10**8, 10**6, 2**18
FLOATS = {"float32": np.float32, "float64": np.float64}
FORMATS = {"float16": (11, -14, 15), "bfloat16": (8, -126, 127)}
FORMATS |= {"float32": (24, -126, 127), "float64": (53, -1022, 1023)}
TOLERANCE = {"float32": 2.0**-33, "float64": 2.0**-52}  # of |dy|, around a zero of the derivative
BREAKPOINTS = [0.0, 0.03, 0.25, 0.5, 0.75, 1.0, 1.3, 2.0, 2.5, 3.0, 3.7, 5.0, 5.5, 6.0, 8.3, 10.0]
BREAKPOINTS += [12.9, 13.1, 13.4, 14.1, 16.6, 17.3, 20.0, 37.6, 38.5, 87.3, 88.7, 103.2, 103.97]
BREAKPOINTS += [708.4, 709.8, 745.2, 1e10, 1e20, 1e30, 1e38]
KINDS = ["", "far from the exact result", "zero, or not", "not NaN", "a step back"]


COUNTS = ["count", "summed", "misrounded", "excused", "failures"]


class Format(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("digits", "min_exponent", "max_exponent")]


class Rules(ctypes.Structure):
    _fields_ = [
        ("bound", ctypes.c_double),
        ("tolerance", ctypes.c_double),
        ("certify", ctypes.c_int64),
        ("ordered", ctypes.c_int),
        ("zero", ctypes.c_int),
    ]


class Report(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("max", "max_x", "max_y", "sum")),
        *((name, ctypes.c_int64) for name in COUNTS),
        *((name, ctypes.c_double) for name in ("fail_x", "fail_m", "fail_y")),
        ("fail_kind", ctypes.c_int64),
        ("bins", ctypes.c_float * 256),
    ]


# ---- the oracle ------------------------------------------------------------------------------


def build_oracle() -> ctypes.CDLL:
    folder = tempfile.mkdtemp()
    target = Path(folder, "oracle.so")
    command = shlex.split(os.environ.get("CC", "gcc"))  # "ccache gcc", perhaps
    command += ["-O3", "-std=gnu11", "-fopenmp", "-shared", "-fPIC"]
    command += ["-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-unused-parameter"]
    command += [str(HERE / "oracle.c"), "-o", str(target)]
    command += ["-lquadmath"] * (platform.machine() == "x86_64") + ["-lm"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    library.oracle_name.restype = ctypes.c_char_p
    library.digest_float.restype = library.digest_double.restype = ctypes.c_uint64
    return library


class Oracle:
    def __init__(self) -> None:
        self.library = build_oracle()
        self.index = {}
        while name := self.library.oracle_name(len(self.index)):
            self.index[name.decode()] = len(self.index)

    def check(self, report, name, slope, x, m, y, params, dtype, rules) -> None:
        kind = np.float32 if dtype == "float32" else np.float64
        x, y = np.ascontiguousarray(x, kind), np.ascontiguousarray(y, kind)
        m = None if m is None else np.ascontiguousarray(m, np.float64)
        values = (ctypes.c_double * 2)(*params)
        check = self.library.check_float if kind is np.float32 else self.library.check_double
        check(
            self.index[name], int(slope), x.ctypes.data_as(ctypes.c_void_p),
            None if m is None else m.ctypes.data_as(ctypes.c_void_p),
            y.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size), values,
            ctypes.byref(Format(*FORMATS[dtype])), ctypes.byref(rules), ctypes.byref(report),
        )  # fmt: skip

    def digest(self, y: np.ndarray) -> int:
        digest = self.library.digest_float if y.itemsize == 4 else self.library.digest_double
        return digest(y.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(y.size))


# ---- inputs ----------------------------------------------------------------------------------


def patterns(step: int):
    """float32 bit patterns in ascending order, a chunk at a time."""
    first = np.arange(0, CHUNK * step, step, dtype=np.uint64).astype(np.uint32)
    for start in range(0, 2**32, CHUNK * step):
        count = min(CHUNK, -(-(2**32 - start) // step))
        yield (first[:count] + np.uint32(start)).view(np.float32)


def beside_breakpoints(dtype, params, neighbours=512) -> np.ndarray:
    """Floats around the breakpoints and the parameters, of both signs; the ends of the format."""
    info = np.finfo(dtype)
    centres = [*BREAKPOINTS, *params, info.tiny, info.max]
    word = np.uint32 if dtype is np.float32 else np.uint64
    with np.errstate(over="ignore"):
        middles = np.abs(np.array(centres, dtype)).view(word).astype(np.int64)
    words = middles[:, None] + np.arange(-neighbours, neighbours + 1)
    x = words[words >= 0].astype(word).view(dtype)
    return np.concatenate([x, -x, np.array([np.inf, -np.inf, np.nan], dtype)])


def doubles(count: int, seed: int) -> np.ndarray:
    """Random bit patterns, all exponents near 1, the range of most activations, and the tails.

    The same on every machine, as the digests of a record are compared between them: no exp2, which
    NumPy rounds as the processor suggests, and no uniform, whose product and sum a compiler fuses.
    """
    rng, quarter = np.random.default_rng(seed), count // 4
    return np.concatenate(
        [
            rng.integers(0, 2**64, quarter, dtype=np.uint64).view(np.float64),
            scaled(rng, quarter, -60, 12),
            rng.random(quarter) * 80 - 40,
            rng.random(count - 3 * quarter) * 1520 - 760,
        ]
    )


def scaled(rng: np.random.Generator, count: int, lowest: int, highest: int) -> np.ndarray:
    """Numbers of either sign from [2^lowest, 2^highest), as many of each exponent."""
    sign = rng.choice([-1.0, 1.0], count)
    return sign * np.ldexp(1 + rng.random(count), rng.integers(lowest, highest, count))


def half_patterns(dtype: str) -> np.ndarray:
    if dtype == "float16":
        return np.arange(2**16, dtype=np.uint16).view(np.float16)
    import ml_dtypes

    return np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)


def any_factor(count: int, dtype, seed: int) -> np.ndarray:
    """dy of many magnitudes and both signs."""
    return scaled(np.random.default_rng(seed), count, -20, 20).astype(dtype)


# ---- measurements ----------------------------------------------------------------------------


def defaults(function) -> tuple:
    return tuple(0.25 if p is None else p for p in function.parameters.values())


def backward(function, dy, x, params):
    result = function.backward(dy, x, *params)
    return result[0] if isinstance(result, tuple) else result


def typed(function, params, dtype):
    """Parameters as fastact takes them: a learned one in the dtype of x."""
    return tuple(
        np.asarray(p, dtype) if name in function.learned else p
        for name, p in zip(function.parameters, params, strict=True)
    )


def bound_of(function, slope: bool, dtype: str, any_dy: bool) -> float:
    if dtype in ("float16", "bfloat16"):
        return 0.5 + 1e-6
    if dtype == "float32":
        return (1.0 if any_dy else 0.51) if slope else function.max_ulp
    return 2.0 if slope else 1.0


def rules_for(function, slope, dtype, any_dy=False, ordered=False) -> Rules:
    bound = bound_of(function, slope, dtype, any_dy)
    tolerance = TOLERANCE.get(dtype, 0.0) if slope else 0.0
    return Rules(bound, tolerance, 1021, ordered, 1)


def row_of(report: Report, seconds: float, **what) -> dict:
    row = what | {
        "max_ulp": round(report.max, 5),
        "mean_ulp": round(report.sum / max(report.summed, 1), 5),
        "worst_x": float(report.max_x).hex(),
        "worst_y": float(report.max_y).hex(),
        "inputs": report.count,
        "misrounded": report.misrounded,
        "excused": report.excused,
        "failures": report.failures,
        "seconds": round(seconds, 1),
    }
    if report.failures:
        fail = report.fail_x, report.fail_m, report.fail_y
        row["first_failure"] = [KINDS[report.fail_kind], *(float(v).hex() for v in fail)]
    return row


class Measurement:
    """Everything that is asked of one instruction set; `rows` go to `done` as they come."""

    def __init__(self, isa: str, full: bool, known: set, former: dict, done, thin: int) -> None:
        self.oracle, self.isa, self.full, self.thin = Oracle(), isa, full, thin
        self.known, self.former, self.done, self.dy = known, former, done, np.ones(0)

    def run(self, names: list[str]) -> None:
        missing = [name for name in [*fa.activations, *fa.gated] if name not in self.oracle.index]
        if missing:
            sys.exit(f"oracle.c has no definition of {', '.join(missing)}")
        for name in names:
            if name in fa.gated:
                for dtype in FLOATS:
                    self.gated(name, dtype)
                continue
            for slope in (False, True):
                for dtype in ("float16", "bfloat16"):
                    self.half(name, slope, dtype)
                for dtype in FLOATS:
                    self.other_parameters(name, slope, dtype)
                self.doubles(name, slope)
                self.exhaustive(name, slope)

    def new(self, **what) -> bool:
        self.what = {"isa": self.isa, **what}
        self.began = time.perf_counter()
        if key_of(self.what) in self.known:
            return False
        former = self.former.get(key_of(self.what | {"isa": arithmetic_of(self.isa)}))
        if former and digest_of(self.oracle, former) == former["digest"]:
            self.done(former | {"isa": self.isa})
            return False
        return True

    def finish(self, report, **more) -> None:
        self.done(row_of(report, time.perf_counter() - self.began, **self.what, **more))

    def part(self, report, name, slope, x, dtype, params, rules, dy=None):
        """Compute one array and check it; the result."""
        function = fa.activations[name]
        given = typed(function, params, x.dtype)
        with np.errstate(all="ignore"):
            if slope:
                y = backward(function, self.ones(x) if dy is None else dy, x, given)
            else:
                y = function(x, *given)
            wide = (x, y) if dtype in FLOATS else (x.astype(np.float64), y.astype(np.float64))
        self.oracle.check(report, name, slope, wide[0], dy, wide[1], params, dtype, rules)
        return y

    def ones(self, x) -> np.ndarray:
        if self.dy.dtype != x.dtype or self.dy.size < x.size:
            self.dy = np.ones(x.size, x.dtype)
        return self.dy[: x.size]

    def exhaustive(self, name, slope) -> None:
        function = fa.activations[name]
        every = 1 if self.full else STRIDE * self.thin
        inputs = "all" if self.full else f"every {every}th, breakpoints"
        if not self.new(name=name, slope=slope, dtype="float32", of=inputs):
            return
        report, params, digest = Report(), defaults(function), 0
        rules = rules_for(function, slope, "float32", ordered=not slope)
        for x in patterns(every):
            y = self.part(report, name, slope, x, "float32", params, rules)
            digest = (digest * 3 + self.oracle.digest(y)) % 2**64
        rules.ordered = 0
        near = beside_breakpoints(np.float32, params)
        self.part(report, name, slope, near, "float32", params, rules)
        bins = [round(float(b), 3) for b in report.bins]
        self.finish(report, digest=f"{digest:016x}", bins=bins)

    def doubles(self, name, slope) -> None:
        function = fa.activations[name]
        count = FULL_DOUBLES if self.full else SAMPLE_DOUBLES // self.thin
        if not self.new(name=name, slope=slope, dtype="float64", of=f"{count:.0e} inputs"):
            return
        report, params, digest = Report(), defaults(function), 0
        rules = rules_for(function, slope, "float64")
        for seed, left in enumerate(range(count, 0, -CHUNK)):
            x = doubles(min(left, CHUNK), seed)
            y = self.part(report, name, slope, x, "float64", params, rules)
            digest = (digest * 3 + self.oracle.digest(y)) % 2**64
        near = beside_breakpoints(np.float64, params)
        self.part(report, name, slope, near, "float64", params, rules)
        self.finish(report, digest=f"{digest:016x}")

    def half(self, name, slope, dtype) -> None:
        function = fa.activations[name]
        if not self.new(name=name, slope=slope, dtype=dtype, of="all"):
            return
        report, rules = Report(), rules_for(function, slope, dtype)
        rules.certify = 1
        self.part(report, name, slope, half_patterns(dtype), dtype, defaults(function), rules)
        self.finish(report)

    def other_parameters(self, name, slope, dtype) -> None:
        """A small sample of odd parameters, and for the backward of any dy."""
        function = fa.activations[name]
        if not self.new(name=name, slope=slope, dtype=dtype, of="other parameters, any dy"):
            return
        report, count = Report(), SHORT // self.thin
        rules = rules_for(function, slope, dtype, any_dy=True)
        kind = FLOATS[dtype]
        for params in [defaults(function)] + [
            (value,) * len(function.parameters) for value in (0.03125, 3.75) if function.parameters
        ]:
            x = np.concatenate(
                [
                    np.random.default_rng(1).standard_normal(count).astype(kind) * 8,
                    beside_breakpoints(kind, params, 64),
                ]
            )
            with np.errstate(all="ignore"):
                x = np.concatenate([x, doubles(count, 9).astype(kind)])
            dy = any_factor(x.size, kind, 2) if slope else None
            self.part(report, name, slope, x, dtype, params, rules, dy)
        self.finish(report)

    def gated(self, name, dtype) -> None:
        """y = x f(gate), dx = dy f(gate), dgate = dy x f'(gate), at dy = 1."""
        if not self.new(name=name, slope=False, dtype=dtype, of="sample, three results"):
            return
        kind, function, report = FLOATS[dtype], fa.gated[name], Report()
        with np.errstate(all="ignore"):
            if dtype == "float64":
                gate = doubles(8 * SHORT // self.thin, 3)
            else:
                gate = np.concatenate(list(patterns(2003 * self.thin)))
            gate = np.concatenate([gate, beside_breakpoints(kind, (), 64)])
            gate = gate[np.isfinite(gate)]
            x = any_factor(gate.size, kind, 4)
            y = function(x, gate)
            dx, dgate = function.backward(np.ones_like(x), x, gate)
        for slope, m, got in ((False, x, y), (False, None, dx), (True, x, dgate)):
            rules = rules_for(function, slope, dtype, any_dy=slope)
            rules.zero = dtype == "float32"  # float64 products may underflow on the way
            self.oracle.check(report, name, slope, gate, m, got, (), dtype, rules)
        self.finish(report)


def key_of(row: dict) -> str:
    return " ".join(str(row[k]) for k in ("isa", "name", "slope", "dtype", "of"))


# ---- the record ------------------------------------------------------------------------------


def code_of(path: Path) -> str:
    text = path.read_text()
    if path.name == "setup.py":
        return re.search(r"NUMERICS = .*?\n\n", text, flags=re.DOTALL)[0]
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def owners(block: str) -> set[str]:
    """The functions whose bodies these lines are: all that is defined there bears their names."""
    defined = re.findall(r"FA_INLINE [\w ]+?\**(?:FN\()?fa_(\w+)", block)
    defined += re.findall(r"#define FA_(?:FAST_|SIDES_|EXACT_)?(\w+)", block)
    names = sorted((*fa.activations, *fa.gated), key=len, reverse=True)
    found = {next((n for n in names if f"{d}_".startswith(f"{n}_")), None) for d in defined}
    return set() if None in found else found


def tables() -> dict[str, str]:
    """A hash of each table of polynomials."""
    header, data = (code_of(ROOT / "csrc" / f"pieces_tables.{end}") for end in "hc")
    return {
        name: digest(rows + "".join(re.findall(rf"FA_[A-Z]+_{name}(?:_left)?\b.*", header)))
        for name, rows in re.findall(r"fa_(\w+)_pieces\b(.*?);", data, flags=re.DOTALL)
    }


def sources() -> dict[str, str]:
    """For each function a hash of what its figures depend on, less comments and white space: the
    kernels, the oracle, and of bodies and tables its own and those that it is made of."""
    files = [ROOT / "csrc" / name for name in KERNELS if name != "activations.h"]
    shared = [
        code_of(path) for path in (*files, HERE / "oracle.h", HERE / "oracle.c", ROOT / "setup.py")
    ]
    own, looked_up = {name: "" for name in (*fa.activations, *fa.gated)}, tables()
    for block in re.split(r"\n\s*\n", code_of(ROOT / "csrc" / "activations.h")):
        found, used = owners(block), re.findall(r"_PIECES\(\w+, (\w+),", block)
        for name in found:
            own[name] += block + "".join(looked_up[table] for table in used)
        if not found:
            shared.append(block)
    common = " ".join(" ".join(shared).split())
    return {name: digest(common + with_parts(name, own)) for name in own}


def with_parts(name: str, own: dict[str, str]) -> str:
    """The bodies of a function, and of others whose names stand in them."""
    parts, text = {name}, own[name]
    while more := {n for n in own if n not in parts and re.search(rf"\bfa_{n}_", text)}:
        parts |= more
        text = " ".join(own[n] for n in sorted(parts))
    return " ".join(text.split())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def judge() -> str:
    """A hash of the oracle: figures of another one do not count, whatever the results."""
    return digest(" ".join(code_of(HERE / f"oracle.{end}") for end in "hc"))


def load() -> dict:
    """What the record has of functions that are still the same, and of others' libraries."""
    record, current = {"rows": []}, sources()
    if RECORD.exists():
        record = json.loads(RECORD.read_text())
    known = record.get("sources", {})
    same = {name for name, value in current.items() if known.get(name) == value}
    peers = record.get("oracle") == judge()
    rows = [r for r in record["rows"] if r["name"] in same or (peers and "peer" in r)]
    return {"oracle": judge(), "sources": current, "rows": rows}


def arithmetic_of(isa: str) -> str:
    """Instruction sets with fused multiply-add have one, and the same bits."""
    return isa if isa == "baseline" else "fused"


def results_on_record() -> dict:
    """Rows of any sources whose results can be compared, by what they are of."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if record.get("oracle") != judge():
        return {}
    rows = [r for r in record["rows"] if "digest" in r]
    return {key_of(r | {"isa": arithmetic_of(r["isa"])}): r for r in rows}


def save(record: dict) -> None:
    rows = ",\n".join(json.dumps(row) for row in record["rows"])
    head = json.dumps({key: record[key] for key in ("oracle", "sources")})[:-1]
    RECORD.write_text(f'{head}, "rows": [\n{rows}\n]}}\n')


def show(row: dict) -> None:
    direction = "backward" if row["slope"] else "forward"
    verdict = f"FAIL {row['failures']}: {row['first_failure']}" if row["failures"] else "ok"
    print(
        f"{row['isa']:9}{row['name']:17}{direction:9}{row['dtype']:9}{row['of']:26}"
        f"{row['max_ulp']:8.4f} mean {row['mean_ulp']:.4f} {row['seconds']:6.1f} s  {verdict}",
        flush=True,
    )


def measure_here(full: bool, names: list[str], out: str | None, thin: int = 1) -> int:
    """This process's instruction set."""
    record = load() if full else {"rows": []}
    former, failed = results_on_record() if full else {}, []

    def done(row):
        show(row)
        record["rows"].append(row)
        if row["failures"]:
            failed.append(key_of(row))
        if full:
            save(record)

    known = {key_of(row) for row in record["rows"]}
    Measurement(fa.config()["isa"], full, known, former, done, thin).run(names)
    if out:
        Path(out).write_text(json.dumps(record))
    return 1 if failed else 0


def inputs_again(row: dict):
    """The arrays of a row that has a digest."""
    if row["dtype"] == "float32":
        return patterns(1 if row["of"] == "all" else STRIDE)
    count = FULL_DOUBLES if row["of"] == f"{FULL_DOUBLES:.0e} inputs" else SAMPLE_DOUBLES
    return (doubles(min(n, CHUNK), seed) for seed, n in enumerate(range(count, 0, -CHUNK)))


def digest_of(oracle: Oracle, row: dict) -> str:
    """What this process computes for the inputs of a row."""
    function, digest = fa.activations[row["name"]], 0
    for x in inputs_again(row):
        given = typed(function, defaults(function), x.dtype)
        with np.errstate(all="ignore"):
            if row["slope"]:
                y = backward(function, np.ones_like(x), x, given)
            else:
                y = function(x, *given)
        digest = (digest * 3 + oracle.digest(y)) % 2**64
    return f"{digest:016x}"


def measure_bits(names: list[str]) -> int:
    """Hold this process's instruction set to the digests of the record, and add what it finds."""
    record, isa, oracle, wrong = load(), fa.config()["isa"], Oracle(), 0
    known = {key_of(row) for row in record["rows"]}
    for row in [r for r in record["rows"] if "digest" in r and r["isa"] != "baseline"]:
        if row["name"] not in names:
            continue
        new = {key: row[key] for key in ("name", "slope", "dtype", "of", "inputs")} | {"isa": isa}
        if key_of(new) in known:
            continue
        new["same_bits"] = digest_of(oracle, row) == row["digest"]
        wrong |= not new["same_bits"]
        verdict = "the same bits" if new["same_bits"] else "FAIL: other bits"
        print(isa, key_of(row), verdict, flush=True)
        record["rows"].append(new)
        save(record)
    return int(wrong)


def measure_full(names: list[str]) -> int:
    """This process's instruction set in full, then the others against it."""
    status = measure_here(True, names, None)
    for isa in fa.config()["isas"]:
        if isa == fa.config()["isa"]:
            continue
        environment = {**os.environ, "FASTACT_ISA": isa}
        command = [sys.executable, __file__, "--here", *names]
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command += ["--out", file.name] if isa == "baseline" else ["--bits"]
            failed = subprocess.run(command, env=environment, check=False).returncode
            status |= failed
            if isa == "baseline" and not failed:
                record, rows = load(), json.loads(Path(file.name).read_text())["rows"]
                known = {key_of(row) for row in record["rows"]}
                record["rows"] += [row for row in rows if key_of(row) not in known]
                save(record)
    return status


def compare_bits(rows: list[dict]) -> int:
    """Instruction sets with fused multiply-add must agree in every bit."""
    seen, wrong = {}, 0
    for row in rows:
        if "digest" in row and row["isa"] != "baseline":
            what = tuple(row[k] for k in ("name", "slope", "dtype", "of"))
            first = seen.setdefault(what, row)
            if first["digest"] != row["digest"]:
                print(f"FAIL {what}: {row['isa']} and {first['isa']} differ in bits")
                wrong = 1
    return wrong


def measure_all(arguments) -> int:
    """The sample on every instruction set, one process each."""
    status, rows = 0, []
    for isa in fa.config()["isas"]:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [sys.executable, __file__, "--here", "--out", file.name, *arguments.names]
            command += ["--quick"] if arguments.quick else []
            done = subprocess.run(command, env={**os.environ, "FASTACT_ISA": isa}, check=False)
            status |= done.returncode
            rows += json.loads(Path(file.name).read_text())["rows"] if not done.returncode else []
    return status | compare_bits(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="activations (default: all)")
    parser.add_argument("--full", action="store_true", help="all inputs, into docs/accuracy.json")
    parser.add_argument("--quick", action="store_true", help="a seventh of the sample")
    parser.add_argument("--here", action="store_true", help="the active instruction set alone")
    parser.add_argument(
        "--bits", action="store_true", help="with --here: compare bits with the record"
    )
    parser.add_argument("--out", help="with --here: where to write the rows")
    arguments = parser.parse_args()
    names = arguments.names or [*fa.activations, *fa.gated]
    if unknown := [n for n in names if n not in fa.activations and n not in fa.gated]:
        parser.error(f"unknown: {', '.join(unknown)}")
    if arguments.bits:
        return measure_bits(names)
    if arguments.here:
        return measure_here(False, names, arguments.out, THIN if arguments.quick else 1)
    return measure_full(names) if arguments.full else measure_all(arguments)


if __name__ == "__main__":
    sys.exit(main())
