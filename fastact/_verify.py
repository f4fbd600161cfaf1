"""``python -m fastact verify``: is this installation right, on this machine?

Every activation, gated pair and fused BatchNorm is computed in every dtype and with every
instruction set of the machine, each in a process of its own, and held to `fastact.reference`:
errors in ULP, gradients, the same bits for any number of threads, for slices and views, fused or
not, and between instruction sets. Nothing here names an activation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import fastact
from fastact import reference
from fastact._terminal import colour, fail, progress

# ULP: what is promised of float64, and the rounding of the reference itself, which is float64 too
REFERENCE_ULP, REFERENCE_SLOPE_ULP = 4.0, 8.0
FORWARD = {"f32": None, "f64": 1.0 + REFERENCE_ULP, "f16": 0.5 + 1e-6, "bf16": 0.5 + 1e-6}
BACKWARD = {"f32": 0.51, "f64": 2.0 + REFERENCE_SLOPE_ULP, "f16": 0.5 + 1e-6, "bf16": 0.5 + 1e-6}
ANY_DY = BACKWARD | {"f32": 1.0}  # where dy is not 1
# Of |dy x|, which is at most 2^8 here: the reference multiplies numbers that may be subnormal.
GATED_FLOOR = 2.0**-1066
# Of |dy|, around a zero of the derivative. float64: the reference cancels there too.
NEAR_ZERO = {"f32": 2.0**-33, "f64": 2.0**-50, "f16": 0.0, "bf16": 0.0}
BATCH_NORM = "batch_norm"
COUNT, SEED = 40_000, 1
COLUMNS = ["forward", "backward", "slope", "bits", "fused"]

Report = dict[str, Any]
Type = type[Any]  # of numbers: NumPy's, or ml_dtypes.bfloat16
Params = tuple[Any, ...]  # numbers, and an array for a learned one


# ---- what is computed ------------------------------------------------------------------------


def dtypes() -> dict[str, Type]:
    found: dict[str, Type] = {"f32": np.float32, "f64": np.float64, "f16": np.float16}
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return found
    return found | {"bf16": bfloat16}


def finfo(dtype: Type) -> Any:
    """np.finfo, which does not know bfloat16."""
    if np.dtype(dtype).kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def inputs(dtype: Type) -> np.ndarray:
    """Half precision: all bit patterns. Else some of every kind, common numbers, special ones."""
    size = np.dtype(dtype).itemsize
    x: np.ndarray
    if size == 2:
        x = np.arange(2**16, dtype=np.uint16).view(dtype)
    else:
        rng = np.random.default_rng(SEED)
        x = np.concatenate(
            [
                rng.integers(0, 256, COUNT * size, dtype=np.uint8).view(dtype),
                (3 * rng.standard_normal(COUNT)).astype(dtype),
                rng.uniform(-120, 120, COUNT).astype(dtype),
                np.array([0, -0.0, np.inf, -np.inf, np.nan, finfo(dtype).max], dtype),
            ]
        )
    return np.where(np.isnan(x), dtype(np.nan), x)  # NaNs with a payload are no subject here


def parameters(function: fastact.Activation) -> Params:
    return tuple(0.25 if p is None else p for p in function.parameters.values())


def typed(function: fastact.Activation, params: Params, dtype: Type, *shape: int) -> Params:
    """The parameters, with a learned one as an array of the dtype of x."""
    named = zip(function.parameters, params, strict=True)
    return tuple(np.full(shape, p, dtype) if name in function.learned else p for name, p in named)


def together(result: Any) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def plain_bits(array: np.ndarray) -> np.ndarray:
    """Bit patterns, one for all NaNs."""
    array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def same(got: np.ndarray, want: np.ndarray) -> bool:
    return got.dtype == want.dtype and np.array_equal(plain_bits(got), plain_bits(want))


def worst_ulp(
    got: np.ndarray, exact: np.ndarray, tolerance: np.ndarray | float = 0.0
) -> tuple[float, int]:
    """The largest error in ULP of got's dtype, and where; none up to the tolerance."""
    info = finfo(got.dtype.type)
    lowest, beyond = info.minexp - info.nmant, 2.0 ** (info.maxexp - 1)
    exponent = np.frexp(np.clip(exact, -beyond, beyond))[1] - info.nmant - 1
    top = info.maxexp - info.nmant - 1
    ulp = np.ldexp(1.0, np.clip(np.nan_to_num(exponent), lowest, top))
    # large ones halved: the number after the largest float64, for which infinity stands, is finite
    scale = np.where(np.abs(exact) > 1, 0.5, 1.0)
    got = np.clip(scale * got.astype(np.float64), -beyond, beyond)
    off = np.abs(got - np.clip(scale * exact, -beyond, beyond))
    error = np.where(off <= tolerance * scale, 0.0, off / (scale * ulp))
    error = np.where(np.isnan(got) & np.isnan(exact), 0.0, error)
    error = np.where(np.isnan(error), np.inf, error)
    at = int(np.argmax(error))
    return float(error.flat[at]), at


def views(arrays: tuple[np.ndarray, ...]) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """The same values in other memory."""
    wide = tuple(np.zeros((a.size, 3), a.dtype) for a in arrays)
    for array, buffer in zip(arrays, wide, strict=True):
        buffer[:, 1] = array
    yield "a strided view", tuple(buffer[:, 1] for buffer in wide)
    backwards = tuple(np.ascontiguousarray(a[::-1]) for a in arrays)
    yield "a view with a negative stride", tuple(a[::-1] for a in backwards)
    moved = [np.ndarray(a.shape, a.dtype, bytearray(a.nbytes + 1), 1) for a in arrays]
    for array, buffer in zip(arrays, moved, strict=True):
        buffer[...] = array
    yield "memory that is not aligned", tuple(moved)


# ---- the checks of one function --------------------------------------------------------------


class Examination:
    """Checks that share a name; their failures, the worst errors and a digest of all bits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: list[str] = []
        self.worst = dict.fromkeys(("forward", "backward"), 0.0)
        self.digest = hashlib.sha256()

    def checks(self, kind: str, dtype: Type) -> None:
        raise NotImplementedError

    def slope(self) -> None:
        raise NotImplementedError

    def report(self) -> Report:
        with np.errstate(all="ignore"):
            for kind, dtype in dtypes().items():
                self.checks(kind, dtype)
            self.slope()
        return {
            "name": self.name,
            "failures": self.failures,
            "digest": self.digest.hexdigest(),
            **self.worst,
        }

    def fail(self, column: str, message: str) -> None:
        self.failures.append(f"{column}: {self.name}: {message}")

    def note(self, *arrays: np.ndarray) -> None:
        for array in arrays:
            self.digest.update(plain_bits(array).tobytes())


class OfFunction(Examination):
    """An activation, or a gated pair, which takes a gate too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gated = name in fastact.gated
        self.function = (fastact.gated if self.gated else fastact.activations)[name]
        pairs = reference.gated if self.gated else reference.activations
        self.value, self.gradient = pairs[name]
        self.params = parameters(self.function)

    def checks(self, kind: str, dtype: Type) -> None:
        self.errors(kind, dtype)
        self.same_bits(kind, dtype)
        if not self.gated:
            self.fused(kind, dtype)

    def data(self, dtype: Type) -> tuple[np.ndarray, ...]:
        """dy and x, of which dy is 1; or dy, x and a gate, of which only the gate is extreme."""
        last = inputs(dtype)
        if not self.gated:
            return np.ones_like(last), last
        last = last[np.isfinite(last)]
        rng = np.random.default_rng(SEED)
        dy, x = ((rng.standard_normal(last.size) * 4).astype(dtype) for _ in range(2))
        return dy, x, last

    def given(self, dtype: Type) -> Params:
        return typed(self.function, self.params, dtype)

    def slopes(self, dy: np.ndarray, *data: np.ndarray) -> tuple[np.ndarray, ...]:
        """The gradients of x, and of the gate; a learned parameter's is a sum: see fused()."""
        gradients = together(self.function.backward(dy, *data, *self.given(data[0].dtype.type)))
        return gradients[: len(data)]

    def all_of(self, dy: np.ndarray, *data: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.function(*data, *self.given(data[0].dtype.type)), *self.slopes(dy, *data)

    def errors(self, kind: str, dtype: Type) -> None:
        arrays = self.data(dtype)
        dy, *data = wide = [a.astype(np.float64) for a in arrays]
        exact = self.value(*data, *self.params), *together(self.gradient(*wide, *self.params))
        factor = np.abs(dy * data[0]) if self.gated else np.abs(dy)
        slope, size = np.abs(exact[len(data)]), np.abs(data[-1])
        near = (size > 0.5) & (size < 2) & (slope <= 2.0**-6 * factor)  # a zero of the derivative
        tolerance = np.where(near, NEAR_ZERO[kind] * factor, 0.0)
        floor = GATED_FLOOR * self.gated
        for k, (got, want) in enumerate(zip(self.all_of(*arrays), exact, strict=False)):
            self.note(got)
            column = "backward" if k else "forward"
            error, at = worst_ulp(got, want, np.maximum(floor, tolerance * (k == len(data))))
            bound = (ANY_DY if self.gated else BACKWARD)[kind] if k else FORWARD[kind]
            bound = (self.function.max_ulp if bound is None else bound) + 1e-6
            if kind == "f32":
                self.worst[column] = max(self.worst[column], error)
            if not error <= bound:
                where = ", ".join(repr(a[at].item()) for a in arrays)
                values = f"at {where}: {got[at].item()!r}, exact {want[at]!r}"
                self.fail(column, f"{kind}, {error:.4g} ULP, {bound:.4g} promised, {values}")

    def same_bits(self, kind: str, dtype: Type) -> None:
        """One thread and many; slices and views; arrays of parameters; `out=`."""
        arrays = self.data(dtype)
        with fastact.num_threads(1):
            want = self.all_of(*arrays)

        def compare(what: str, got: Iterable[np.ndarray], part: slice = slice(None)) -> None:
            if not all(same(a, b[part]) for a, b in zip(got, want, strict=True)):
                self.fail("bits", f"{kind}: other bits {what}")

        many = self.all_of(*(np.concatenate([a] * 3) for a in arrays))  # enough for threads to pay
        for k in range(3):
            part = slice(k * len(want[0]), (k + 1) * len(want[0]))
            compare("with other threads", [a[part] for a in many])
        for what, moved in views(arrays):
            compare(f"for {what}", self.all_of(*moved))
        for part in (slice(7, 1234), slice(5, 8), slice(-17, None)):
            compare("for a slice", self.all_of(*(a[part] for a in arrays)), part)
        if self.params and not self.function.learned:
            full = [np.full(len(want[0]), p) for p in self.params]
            got = (
                self.function(*arrays[1:], *full),
                *together(self.function.backward(*arrays, *full)),
            )
            compare("for an array of parameters", got)
        compare("with out=", self.into(arrays, [np.empty_like(a) for a in want]))
        compare("in place", self.in_place(arrays))

    def into(self, arrays: tuple[np.ndarray, ...], out: list[np.ndarray]) -> list[np.ndarray]:
        """The results, written to `out`."""
        dy, *data = arrays
        given = self.given(dy.dtype.type)
        self.function(*data, *given, out=out[0])
        target = tuple(out[1:]) if self.gated else out[1]
        self.function.backward(*arrays, *given, out=target)
        return out

    def in_place(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The results, written over the inputs."""
        given = self.given(arrays[0].dtype.type)
        _, *data = (a.copy() for a in arrays)
        y = self.function(*data, *given, out=data[0])
        dy, *data = (a.copy() for a in arrays)
        self.function.backward(dy, *data, *given, out=tuple(data) if self.gated else data[0])
        return y, *data

    def fused(self, kind: str, dtype: Type) -> None:
        """BatchNorm + activation: the unfused sequence bit for bit, and the reference."""
        x, dy, affine = batch(dtype, 31)
        given = typed(self.function, self.params, dtype, len(affine["weight"]))
        fusion: dict[str, Any] = {
            "activation": self.name,
            "activation_params": dict(zip(self.function.parameters, given, strict=True)),
        }
        columns = [p if np.ndim(p) == 0 else p[:, np.newaxis] for p in given]
        y, ctx = fastact.batch_norm_forward(x, **affine, **fusion)
        z, plain = fastact.batch_norm_forward(x, **affine)
        grads = fastact.batch_norm_backward(dy, ctx)
        by_activation = together(self.function.backward(dy, z, *columns))
        unfused = fastact.batch_norm_backward(by_activation[0], plain)
        learned = tuple((grads.activation_params or {}).values())
        self.note(y, grads.x, grads.weight, grads.bias, *learned)
        if not same(y, self.function(z, *columns)):
            self.fail("fused", f"{kind}: the forward is not that of the two calls")
        got = (grads.x, grads.weight, grads.bias, *learned)
        want = (unfused.x, unfused.weight, unfused.bias, *(g[:, 0] for g in by_activation[1:]))
        if not all(same(a, b) for a, b in zip(got, want, strict=True)):
            self.fail("fused", f"{kind}: the backward is not that of the two calls")
        self.like_the_reference(kind, x, dy, {**affine, **fusion}, y, grads)

    def like_the_reference(
        self,
        kind: str,
        x: np.ndarray,
        dy: np.ndarray,
        arguments: dict[str, Any],
        y: np.ndarray,
        grads: fastact.BatchNormGradients,
    ) -> None:
        """A fused BatchNorm, but for a few results on the other side of a kink or a tie."""
        exact, exact_ctx = reference.batch_norm_forward(
            x.astype(np.float64), round_to=x.dtype, **arguments
        )
        exact_grads = reference.batch_norm_backward(dy.astype(np.float64), exact_ctx)
        pairs = [("y", y, exact)]
        for field in ("x", "weight", "bias"):
            pairs.append((f"d{field}", getattr(grads, field), getattr(exact_grads, field)))
        exact_params = exact_grads.activation_params or {}
        for name, result in (grads.activation_params or {}).items():
            pairs.append((f"d{name}", result, exact_params[name]))
        for what, result, want in pairs:
            scale = finfo(x.dtype.type).eps * np.abs(want).max()
            share = np.mean(~(np.abs(result - want) <= 8 * scale))
            if share > 0.001:
                self.fail("fused", f"{kind}: {share:.1%} of {what} differs from the reference")

    def slope(self) -> None:
        """The backward against central differences of the forward, away from kinks."""
        t, h = np.linspace(-5, 5, 2001) + 1.234e-3, 1e-5
        data = [np.ones_like(t)] * self.gated
        given = self.given(np.float64)
        rise = self.function(*data, t + h, *given) - self.function(*data, t - h, *given)
        slope = self.slopes(np.ones_like(t), *data, t)[-1]
        # the error is h^2 / 6 of the third derivative, and 1e-16 / h of the value
        off = ~(np.abs(rise / (2 * h) - slope) <= 1e-8 * np.exp(np.abs(t)))
        if off.sum() > 8:  # beside a kink the difference is not the derivative
            at = t[np.argmax(off)]
            self.fail("slope", f"{off.sum()} gradients are not the slope, first at {at!r}")


def batch(dtype: Type, length: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """x and dy of 19 channels; weight and bias."""
    rng, channels = np.random.default_rng(SEED), 19
    x, dy = (rng.standard_normal((23, channels, length)).astype(dtype) for _ in range(2))
    wide = np.float64 if dtype is np.float64 else np.float32
    weight, bias = np.linspace(-1, 2, channels), np.linspace(-1, 1, channels)
    return x, dy, {"weight": weight.astype(wide), "bias": bias.astype(wide)}


class OfBatchNorm(Examination):
    """BatchNorm without an activation: exact by itself, its gradients, the same bits."""

    def checks(self, kind: str, dtype: Type) -> None:
        self.errors(kind, dtype)
        self.same_bits(kind, dtype)

    def errors(self, kind: str, dtype: Type) -> None:
        x, dy, _ = batch(dtype, 31)
        x += dtype(3)
        z, ctx = fastact.batch_norm_forward(x)
        dx = fastact.batch_norm_backward(dy, ctx).x
        self.note(z, dx, ctx.mean, ctx.var)
        wide = x.astype(np.float64), dy.astype(np.float64)
        exact, exact_ctx = reference.batch_norm_forward(wide[0])
        # the difference to the mean cancels: float64's z has an error of the size of its terms
        error, at = worst_ulp(z, exact, 2.0**-50 if kind == "f64" else 0.0)
        if kind == "f32":
            self.worst["forward"] = error
        if not error <= 1.0:
            values = f"{z.flat[at].item()!r}, exact {exact.flat[at]!r}"
            self.fail("forward", f"{kind}, {error:.4g} ULP, 1 promised, {values}")
        exact_dx = reference.batch_norm_backward(wide[1], exact_ctx).x
        n = tuple(k for k in range(x.ndim) if k != 1)
        products = np.abs(exact * wide[1]).mean(axis=n, keepdims=True)
        terms = (
            np.abs(wide[1]) + np.abs(wide[1]).mean(axis=n, keepdims=True) + np.abs(exact) * products
        )
        deviation = np.sqrt(wide[0].var(axis=n, keepdims=True))
        bound = finfo(dtype).eps * (np.abs(exact_dx) / 2 + 2 * terms / deviation)
        off = ~(np.abs(dx - exact_dx) <= bound)
        if off.any():
            self.fail("backward", f"{kind}: {off.sum()} gradients differ from the reference")

    def same_bits(self, kind: str, dtype: Type) -> None:
        """One thread and many, channels first and last, strided."""
        x, dy, affine = batch(dtype, 257)

        def all_of(x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
            y, ctx = fastact.batch_norm_forward(x, **affine)
            grads = fastact.batch_norm_backward(dy, ctx)
            return y, grads.x, grads.weight, grads.bias, ctx.mean, ctx.var

        with fastact.num_threads(1):
            want = all_of(x, dy)
        wide = np.repeat(x, 2, axis=2)[..., ::2], np.repeat(dy, 2, axis=2)[..., ::2]
        last = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, dy)]
        calls = {"with other threads": (x, dy), "for strided views": wide, "channels last": last}
        for what, arrays in calls.items():
            if not all(same(a, b) for a, b in zip(all_of(*arrays), want, strict=True)):
                self.fail("bits", f"{kind}: other bits {what}")

    def slope(self) -> None:
        """Gradients along a direction against a central difference of the loss sum(dy * y)."""
        x, dy, affine = batch(np.float64, 31)
        given, step = {"x": x, **affine}, 1e-6
        _, ctx = fastact.batch_norm_forward(**given)
        grads = fastact.batch_norm_backward(dy, ctx)
        for name, value in given.items():
            way = np.random.default_rng(SEED + 1).standard_normal(value.shape)
            ahead, back = (
                np.sum(dy * fastact.batch_norm(training=True, **{**given, name: value + s * way}))
                for s in (step, -step)
            )
            rise, slope = (ahead - back) / (2 * step), np.sum(getattr(grads, name) * way)
            if not abs(rise - slope) <= 1e-5 * (1 + abs(slope)):
                self.fail(
                    "slope", f"the gradient of {name} is not the slope: {slope:g}, not {rise:g}"
                )


def names() -> list[str]:
    return [*fastact.activations, *fastact.gated, BATCH_NORM]


def examination(name: str) -> Examination:
    return OfBatchNorm(name) if name == BATCH_NORM else OfFunction(name)


def worker() -> None:
    """Examine everything with the active instruction set; a line of JSON for each."""
    for name in names():
        report = examination(name).report()
        print(json.dumps({"isa": fastact.config()["isa"], **report}), flush=True)


# ---- the command -----------------------------------------------------------------------------


def run_worker(isa: str) -> Iterator[Report]:
    """The reports of a fresh process with an instruction set."""
    command = [sys.executable, "-c", "from fastact._verify import worker; worker()"]
    environment = {**os.environ, "FASTACT_ISA": isa}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"the process for {isa} ended with status {process.returncode}")


def run_workers(isas: list[str], tick: Callable[[str], None]) -> list[Report]:
    """The reports of several instruction sets, as many at once as there are cores."""

    def collect(isa: str) -> list[Report]:
        reports = []
        for report in run_worker(isa):
            reports.append(report)
            tick(f"{isa} {report['name']}")
        return reports

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [report for reports in pool.map(collect, isas) for report in reports]


def other_bits(reports: list[Report]) -> list[str]:
    """Instruction sets with fused multiply-add must agree; the baseline need not."""
    failures: list[str] = []
    seen: dict[str, Report] = {}
    for report in reports:
        if report["isa"] != "baseline":
            known = seen.setdefault(report["name"], report)
            if known["digest"] != report["digest"]:
                sets = f"{known['isa']} and {report['isa']}"
                failures.append(f"bits: {report['name']}: {sets} differ")
    return failures


def mark(bad: bool, width: int = 0) -> str:
    return colour(f"{'FAIL':{width}}", "red") if bad else colour(f"{'ok':{width}}", "green")


def line_of(name: str, own: list[Report], failures: list[str]) -> str:
    """A line of the table: numbers, `!` beside those too large, and a verdict a column."""
    bad = {f.split(":")[0] for f in failures if f.split(": ")[1] == name}
    numbers = [max((r[c] for r in own), default=np.nan) for c in COLUMNS[:2]]
    cells = [f"{v:10.4f}{'!' if c in bad else ' '}" for v, c in zip(numbers, COLUMNS, strict=False)]
    if name == BATCH_NORM:  # whose gradients are no multiples of an ULP
        cells[1] = f"{mark('backward' in bad, 11):>{11}}"
    asked = COLUMNS[2:] if name in fastact.activations else COLUMNS[2:4]
    marks = "  ".join(mark(c in bad, len(c)) for c in asked)
    return f"{name:18}{cells[0]:>12}{cells[1]:>14}  {marks}".rstrip()


def table(reports: list[Report], failures: list[str]) -> str:
    lines = [f"{'':18}{'forward ULP':>12}{'backward ULP':>14}  " + "  ".join(COLUMNS[2:])]
    for name in names():
        lines.append(line_of(name, [r for r in reports if r["name"] == name], failures))
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
    with progress(len(isas) * len(names()), "check", "verify") as tick:
        reports = run_workers(isas, tick)
    failures = [f"{f} [{r['isa']}]" for r in reports for f in r["failures"]]
    failures += other_bits(reports)
    if arguments.json:
        result = {"ok": not failures, "isas": isas, "dtypes": list(dtypes())}
        print(json.dumps({**result, "failures": failures, "reports": reports}))
    else:
        show(isas, reports, failures)
    return 1 if failures else 0


def show(isas: list[str], reports: list[Report], failures: list[str]) -> None:
    print(table(reports, failures))
    kinds = ", ".join(np.dtype(dtype).name for dtype in dtypes().values())
    missing = "" if "bf16" in dtypes() else " (bfloat16 where ml_dtypes is installed)"
    print(
        f"\n{', '.join(isas)}; {kinds}{missing}; {fastact.get_num_threads()} threads.\n"
        f"ULP: the largest float32 error of {3 * COUNT:,} inputs. Half precision: all inputs.\n"
        "slope: gradients are the slope of the forward; bits: the same for threads, views, out=,\n"
        "instruction sets (the baseline, with no fused multiply-add, may differ in the last bit);\n"
        "fused: BatchNorm + activation equals the two calls bit for bit."
    )
    for failure in failures:
        fail("verify", failure)
    print("\n" + (colour("FAILED", "red") if failures else colour("all is right", "green")))
