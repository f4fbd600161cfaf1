"""``python -m fastact verify``: is this installation right, on this machine?

Every activation and its fused BatchNorm is computed with every instruction set of the machine, each
in a process of its own, and held to `fastact.reference`: errors in ULP, gradients, the same bits
for any number of threads, for slices, fused or not, and between instruction sets. Nothing here
names an activation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

import fastact
from fastact import reference
from fastact._terminal import colour, fail, progress

DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
# ULP: what is promised of float64, and the rounding of the reference itself, which is float64 too
REFERENCE_ULP = 4.0
PROMISED = {"f32": (None, 0.51), "f64": (1.0 + REFERENCE_ULP, 2.0 + REFERENCE_ULP)}
PROMISED["f16"] = (0.5 + 1e-6, 0.5 + 1e-6)
# Of |dy|, around a zero of the derivative. float64: the reference cancels there too.
NEAR_ZERO = {"f32": 2.0**-33, "f64": 2.0**-50, "f16": 0.0}
COUNT, SEED = 40_000, 1
COLUMNS = ["forward", "backward", "slope", "bits", "fused"]

Report = dict[str, object]


# ---- what is computed ------------------------------------------------------------------------


def inputs(dtype: type) -> np.ndarray:
    """Bit patterns of every kind, common numbers, and the special ones."""
    rng = np.random.default_rng(SEED)
    size = np.dtype(dtype).itemsize
    x = np.concatenate(
        [
            rng.integers(0, 256, COUNT * size, dtype=np.uint8).view(dtype),
            (3 * rng.standard_normal(COUNT)).astype(dtype),
            rng.uniform(-120, 120, COUNT).astype(dtype),
            np.array([0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max], dtype),
        ]
    )
    return np.where(np.isnan(x), dtype(np.nan), x)  # NaNs with a payload are no subject here


def parameters(function) -> tuple:
    return tuple(0.25 if p is None else p for p in function.parameters.values())


def first(result):
    return result[0] if isinstance(result, tuple) else result


def slope_of(function, dy, x, params) -> np.ndarray:
    return first(function.backward(dy, x, *params))


def typed(function, params, dtype) -> tuple:
    """The parameters with a learned one in the dtype of x."""
    named = zip(function.parameters, params, strict=True)
    return tuple(np.asarray(p, dtype) if name in function.learned else p for name, p in named)


def worst_ulp(got, exact, near_zero: float = 0.0) -> tuple[float, int]:
    """The largest error in ULP of got's dtype, and where; one up to near_zero does not count."""
    info = np.finfo(got.dtype)
    lowest, beyond = info.minexp - info.nmant, 2.0 ** (info.maxexp - 1)
    exponent = np.frexp(np.clip(exact, -beyond, beyond))[1] - info.nmant - 1
    top = info.maxexp - info.nmant - 1
    ulp = np.ldexp(1.0, np.clip(np.nan_to_num(exponent), lowest, top))
    # large ones halved: the number after the largest float64, for which infinity stands, is finite
    scale = np.where(np.abs(exact) > 1, 0.5, 1.0)
    got = np.clip(scale * got.astype(np.float64), -beyond, beyond)
    off = np.abs(got - np.clip(scale * exact, -beyond, beyond))
    error = np.where(off <= near_zero * scale, 0.0, off / (scale * ulp))
    error = np.where(np.isnan(got) & np.isnan(exact), 0.0, error)
    error = np.where(np.isnan(error), np.inf, error)
    at = int(np.argmax(error))
    return float(error[at]), at


# ---- the checks of one activation ------------------------------------------------------------


class Examination:
    """The checks of one activation; failures, worst errors and a digest of all bits."""

    def __init__(self, name: str) -> None:
        self.name, self.function = name, fastact.activations[name]
        self.value, self.gradient = reference.activations[name]
        self.failures: list[str] = []
        self.worst = dict.fromkeys(("forward", "backward"), 0.0)
        self.digest = hashlib.sha256()

    def report(self) -> Report:
        with np.errstate(all="ignore"):
            for kind, dtype in DTYPES.items():
                self.errors(kind, dtype)
                self.same_bits(kind, dtype)
                self.fused(kind, dtype)
            self.slope()
        return {
            "name": self.name,
            "failures": self.failures,
            "digest": self.digest.hexdigest(),
            **self.worst,
        }

    def fail(self, column: str, message: str) -> None:
        self.failures.append(f"{column}: {self.name}: {message}")

    def errors(self, kind: str, dtype: type) -> None:
        x, params = inputs(dtype), parameters(self.function)
        given, wide = typed(self.function, params, dtype), x.astype(np.float64)
        results = {
            "forward": (self.function(x, *given), self.value(wide, *params), 0.0),
            "backward": (
                slope_of(self.function, np.ones_like(x), x, given),
                first(self.gradient(np.ones_like(wide), wide, *params)),
                NEAR_ZERO[kind],
            ),
        }
        for (column, (got, exact, near)), bound in zip(
            results.items(), PROMISED[kind], strict=True
        ):
            self.digest.update(np.where(np.isnan(got), dtype(np.nan), got).tobytes())
            error, at = worst_ulp(got, exact, near)
            allowed = (self.function.max_ulp if bound is None else bound) + 1e-6
            if kind == "f32":
                self.worst[column] = max(self.worst[column], error)
            if not error <= allowed:
                values = f"x = {x[at]!r}: {got[at]!r}, exact {exact[at]!r}"
                self.fail(column, f"{kind}, {error:.4g} ULP, {allowed:.4g} promised, {values}")

    def same_bits(self, kind: str, dtype: type) -> None:
        """One thread and many, a slice with a stride and an offset, `out=`."""
        x, given = inputs(dtype), typed(self.function, parameters(self.function), dtype)
        calls: dict[str, Callable] = {
            "forward": lambda x: self.function(x, *given),
            "backward": lambda x: slope_of(self.function, x, x, given),
        }
        wide = np.zeros((x.size, 3), dtype)
        wide[:, 1] = x
        for direction, call in calls.items():
            with fastact.num_threads(1):
                want = call(x)
            many = np.concatenate([x] * 8)  # enough for threads to pay
            if call(many).tobytes() != np.concatenate([want] * 8).tobytes():
                self.fail("bits", f"{kind} {direction}: other bits with other threads")
            if call(wide[:, 1]).tobytes() != want.tobytes():
                self.fail("bits", f"{kind} {direction}: other bits for a strided view")
            if call(x[7:1234]).tobytes() != want[7:1234].tobytes():
                self.fail("bits", f"{kind} {direction}: other bits for a slice")
        out = np.empty_like(x)
        if (
            self.function(x, *given, out=out) is not out
            or out.tobytes() != calls["forward"](x).tobytes()
        ):
            self.fail("bits", f"{kind}: other bits with out=")

    def fused(self, kind: str, dtype: type) -> None:
        """BatchNorm + activation: the unfused sequence bit for bit, and the reference."""
        rng = np.random.default_rng(SEED)
        channels = 19
        x, dy = (rng.standard_normal((23, channels, 31)).astype(dtype) for _ in range(2))
        affine = {"weight": np.linspace(-1, 2, channels), "bias": np.linspace(-1, 1, channels)}
        wide = np.float64 if dtype is np.float64 else np.float32
        affine = {key: value.astype(wide) for key, value in affine.items()}
        params = parameters(self.function)
        fusion = {
            "activation": self.name,
            "activation_params": dict(zip(self.function.parameters, params, strict=True)),
        }
        given = typed(self.function, params, dtype)
        y, ctx = fastact.batch_norm_forward(x, **affine, **fusion)
        z, plain = fastact.batch_norm_forward(x, **affine)
        dx = fastact.batch_norm_backward(dy, ctx).x
        g = slope_of(self.function, dy, z, given)
        self.digest.update(y.tobytes() + dx.tobytes())
        if y.tobytes() != self.function(z, *given).tobytes():
            self.fail("fused", f"{kind}: the forward is not that of the two calls")
        if dx.tobytes() != fastact.batch_norm_backward(g, plain).x.tobytes():
            self.fail("fused", f"{kind}: the backward is not that of the two calls")
        rounding = np.dtype(dtype)
        want, want_ctx = reference.batch_norm_forward(x, round_to=rounding, **affine, **fusion)
        want_dx = reference.batch_norm_backward(dy, want_ctx).x
        for what, got, exact in (("y", y, want), ("dx", dx, want_dx)):
            # a z beside a kink or a tie may fall to the other side: few do
            scale = np.finfo(dtype).eps * np.abs(exact).max()
            share = np.mean(~(np.abs(got - exact) <= 8 * scale))
            if share > 0.001:
                self.fail("fused", f"{kind}: {share:.1%} of {what} differs from the reference")

    def slope(self) -> None:
        """The backward against central differences of the forward, away from kinks."""
        x, h = np.linspace(-5, 5, 2001) + 1.234e-3, 1e-5
        given = typed(self.function, parameters(self.function), np.float64)
        rise = (self.function(x + h, *given) - self.function(x - h, *given)) / (2 * h)
        slope = slope_of(self.function, np.ones_like(x), x, given)
        # the error is h^2 / 6 of the third derivative, and 1e-16 / h of the value
        off = ~(np.abs(rise - slope) <= 1e-8 * np.exp(np.abs(x)))
        if off.sum() > 8:  # beside a kink the difference is not the derivative
            at = x[np.argmax(off)]
            self.fail("slope", f"{off.sum()} gradients are not the slope, first at x = {at!r}")


def examine_gated(name: str) -> Report:
    """The same for a function of x and a gate, in float32 and float64."""
    function, (value, gradient) = fastact.gated[name], reference.gated[name]
    failures, digest, worst = [], hashlib.sha256(), {"forward": 0.0, "backward": 0.0}
    for kind in ("f32", "f64"):
        dtype = DTYPES[kind]
        gate = inputs(dtype)
        gate = gate[np.isfinite(gate)]
        rng = np.random.default_rng(SEED)
        x, dy = ((rng.standard_normal(gate.size) * 4).astype(dtype) for _ in range(2))
        with np.errstate(all="ignore"):
            got = function(x, gate), *function.backward(dy, x, gate)
            wide = [a.astype(np.float64) for a in (dy, x, gate)]
            want = value(*wide[1:]), *gradient(*wide)
            for k, column in enumerate(("forward", "backward", "backward")):
                digest.update(got[k].tobytes())
                near = NEAR_ZERO[kind] * 2**8 * (k == 2)  # |dy x| is at most that
                error, at = worst_ulp(got[k], want[k], near)
                bound = {"f32": 0.51, "f64": 2.0 + REFERENCE_ULP}[kind]
                if kind == "f32":
                    worst[column] = max(worst[column], error)
                if not error <= bound:
                    failures.append(
                        f"{column}: {name}: {kind}, result {k}, {error:.4g} ULP, "
                        f"{bound:g} promised, x = {x[at]!r}, gate = {gate[at]!r}"
                    )
    return {"name": name, "failures": failures, "digest": digest.hexdigest(), **worst}


def names() -> list[str]:
    return [*fastact.activations, *fastact.gated]


def worker() -> None:
    """Examine everything with the active instruction set; a line of JSON for each."""
    for name in names():
        gated = name in fastact.gated
        report = examine_gated(name) if gated else Examination(name).report()
        print(json.dumps({"isa": fastact.config()["isa"], **report}), flush=True)


# ---- the command -----------------------------------------------------------------------------


def run_worker(isa: str) -> Iterator[Report]:
    """The reports of a fresh process with an instruction set."""
    command = [sys.executable, "-c", "from fastact._verify import worker; worker()"]
    environment = {**os.environ, "FASTACT_ISA": isa}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"the process for {isa} ended with status {process.returncode}")


def other_bits(reports: list[Report]) -> list[str]:
    """Instruction sets with fused multiply-add must agree; the baseline need not."""
    failures, seen = [], {}
    for report in reports:
        if report["isa"] != "baseline":
            known = seen.setdefault(report["name"], report)
            if known["digest"] != report["digest"]:
                sets = f"{known['isa']} and {report['isa']}"
                failures.append(f"bits: {report['name']}: {sets} differ")
    return failures


def mark(bad: bool, width: int = 0) -> str:
    return colour(f"{'FAIL':{width}}", "red") if bad else colour(f"{'ok':{width}}", "green")


def table(reports: list[Report], failures: list[str]) -> str:
    lines = [f"{'activation':18}{'forward ULP':>12}{'backward ULP':>14}  " + "  ".join(COLUMNS[2:])]
    for name in names():
        own = [r for r in reports if r["name"] == name]
        bad = {f.split(":")[0] for f in failures if f.split(": ")[1] == name}
        marks = "  ".join(mark(c in bad, len(c)) for c in COLUMNS[2:])
        forward, backward = (max((r[c] for r in own), default=np.nan) for c in COLUMNS[:2])
        if name in fastact.gated:
            marks = f"{'':7}{mark('bits' in bad)}"
        flags = ["!" if c in bad else " " for c in COLUMNS[:2]]
        lines.append(
            f"{name:18}{forward:11.4f}{flags[0]}{backward:13.4f}{flags[1]}  {marks}".rstrip()
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isa", metavar="NAME", action="append", choices=fastact.config()["isas"],
        help="verify this instruction set only; may be repeated "
        f"(default: all that this machine has: {', '.join(fastact.config()['isas'])})",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the reports as JSON, nothing else"
    )


def run(arguments: argparse.Namespace) -> int:
    """Verify this installation. 0: all is right; 1: something is not."""
    isas = arguments.isa or fastact.config()["isas"]
    reports: list[Report] = []
    with progress(len(isas) * len(names()), "check", "verify") as tick:
        for isa in isas:
            for report in run_worker(isa):
                reports.append(report)
                tick(f"{isa} {report['name']}")
    failures = [f"{f} [{r['isa']}]" for r in reports for f in r["failures"]]
    failures += other_bits(reports)
    if arguments.json:
        print(
            json.dumps({"ok": not failures, "isas": isas, "failures": failures, "reports": reports})
        )
    else:
        show(isas, reports, failures)
    return 1 if failures else 0


def show(isas: list[str], reports: list[Report], failures: list[str]) -> None:
    print(table(reports, failures))
    print(
        f"\n{', '.join(isas)}; {fastact.get_num_threads()} threads. "
        f"ULP: the largest float32 error of {3 * COUNT:,} inputs.\n"
        "slope: gradients are the slope of the forward; bits: the same for threads, views, out=,\n"
        "instruction sets (the baseline, with no fused multiply-add, may differ in the last bit);\n"
        "fused: BatchNorm + activation equals the two calls bit for bit."
    )
    for failure in failures:
        fail("verify", failure)
    print("\n" + (colour("FAILED", "red") if failures else colour("all is right", "green")))
