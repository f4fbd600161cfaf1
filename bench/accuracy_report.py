"""docs/accuracy.md and its pictures, from docs/accuracy.json.

    python bench/accuracy_report.py            write them (needs matplotlib)
    python bench/accuracy_report.py --peers    first measure torch and jax, where they are installed

A peer's function is taken where its name is ours and it computes the same: at 1,000 ordinary points
it must agree to 1e-4. It is measured on every 4099th float32 bit pattern, by the same oracle.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator

import accuracy
import numpy as np
from accuracy import ROOT, Oracle, Report, beside_breakpoints, defaults, patterns, rules_for

import fastact as fa
from fastact import reference

PAGE, PICTURES = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "pictures" / "accuracy"
PEER_STRIDE = 4099


# ---- peers -----------------------------------------------------------------------------------


def plain(name: str) -> str:
    return name.replace("_", "")


def candidates(name: str, modules: list) -> Iterator[Callable]:
    """Functions of a peer that have our name, or begin it and take `approximate`."""
    for module in modules:
        for theirs in dir(module):
            if theirs[0] == "_" or not plain(name).startswith(plain(theirs)):
                continue
            call = getattr(module, theirs)
            if not callable(call):
                continue
            rest = plain(name)[len(plain(theirs)) :]
            if not rest:
                yield call
            for value in [rest] if rest else ["none", False]:
                yield functools.partial(call, approximate=value)


def torch_peer(name: str):
    import torch

    for call in candidates(name, [torch.nn.functional, torch]):

        def forward(x, call=call):
            return call(torch.from_numpy(x)).numpy()

        def slope(x, call=call):
            t = torch.from_numpy(x.copy()).requires_grad_()
            call(t).backward(torch.ones_like(t))
            return t.grad.numpy()

        yield forward, slope


def jax_peer(name: str):
    import jax

    for call in candidates(name, [jax.nn]):

        def forward(x, call=call):
            return np.asarray(call(x))

        def slope(x, call=call):
            _, pull = jax.vjp(call, x)
            return np.asarray(pull(np.ones_like(x))[0])

        yield forward, slope


PEERS = {"torch": torch_peer, "jax": jax_peer}


def same_function(name, forward) -> bool:
    x = np.linspace(-3, 3, 1001, dtype=np.float32)
    try:
        got = forward(x)
    except Exception:  # another signature: not ours
        return False
    want = reference.activations[name][0](x, *defaults(fa.activations[name]))
    return got.shape == x.shape and np.allclose(got, want, rtol=1e-4, atol=1e-6)


def measure_peers(record: dict) -> None:
    oracle = Oracle()
    record["rows"] = [row for row in record["rows"] if "peer" not in row]
    for module, peer in PEERS.items():
        try:
            version = importlib.import_module(module).__version__
        except ImportError:
            print(f"{module}: not installed, left out")
            continue
        for name, function in fa.activations.items():
            pair = next((p for p in peer(name) if same_function(name, p[0])), None)
            if pair is None:
                continue
            for slope in (False, True):
                began, report = time.perf_counter(), Report()
                params = defaults(function)
                rules = rules_for(function, slope, "float32")
                near = beside_breakpoints(np.float32, params)
                for x in [*patterns(PEER_STRIDE), near[np.isfinite(near)]]:
                    try:
                        y = pair[slope](x)
                    except Exception as error:  # no derivative there, or none at all
                        print(f"{module} {name}: {error}")
                        break
                    oracle.check(report, name, slope, x, None, y, params, "float32", rules)
                what = {"isa": f"{module} {version}", "peer": module, "name": name, "slope": slope}
                what |= {"dtype": "float32", "of": f"every {PEER_STRIDE}th, breakpoints"}
                bins = [round(float(b), 3) for b in report.bins]
                seconds = time.perf_counter() - began
                row = accuracy.row_of(report, seconds, **what, bins=bins)
                row.pop("first_failure", None)
                print(
                    f"{row['isa']:14}{name:18}{'backward' * slope or 'forward':9}{row['max_ulp']}"
                )
                record["rows"].append(row)
    accuracy.save(record)


# ---- the page --------------------------------------------------------------------------------


def find(record, **what) -> dict | None:
    rows = record["rows"]
    return next((r for r in rows if all(r.get(k) == v for k, v in what.items())), None)


def number(ulp: float) -> str:
    if ulp >= 1e4:
        return f"{ulp:.0e}" if ulp < 1e300 else "inf"
    return f"{ulp:.4f}" if ulp < 2 else f"{ulp:.1f}"


def best_isa(record) -> str:
    return next(r["isa"] for r in record["rows"] if r["of"] == "all" and "digest" in r)


def table(record, slope: bool) -> Iterator[str]:
    isa = best_isa(record)
    peers = [p for p in PEERS if find(record, peer=p)]
    columns = ["", "float32", "not nearest", "worst x", "baseline", "float64", "float16"]
    columns += ["bfloat16", *peers]
    sample = f"every {accuracy.STRIDE}th, breakpoints"
    yield "| " + " | ".join(columns) + " |"
    yield "| --- " + "| ---: " * (len(columns) - 1) + "|"
    for name in fa.activations:
        full = find(record, isa=isa, name=name, slope=slope, dtype="float32", of="all")
        if full is None:
            continue
        common = {"name": name, "slope": slope}
        base = find(record, isa="baseline", dtype="float32", of=sample, **common)
        rows = [
            find(record, isa=isa, dtype=d, **common) for d in ("float64", "float16", "bfloat16")
        ]
        rows[0] = next(
            r for r in record["rows"]
            if r["isa"] == isa and r["dtype"] == "float64" and "digest" in r
            and all(r[k] == v for k, v in common.items())
        )  # fmt: skip
        cells = [f"[{name}](pictures/accuracy/{name}.svg)", number(full["max_ulp"])]
        cells += [f"{full['misrounded'] / full['inputs']:.1e}" if full["misrounded"] else "none"]
        cells += [f"{float.fromhex(full['worst_x']):.9g}" if full["max_ulp"] else "exact"]
        cells += [number(base["max_ulp"]) if base else ""]
        cells += [number(row["max_ulp"]) for row in rows]
        for peer in peers:
            row = find(record, peer=peer, **common)
            cells.append(number(row["max_ulp"]) if row else "")
        yield "| " + " | ".join(cells) + " |"


INTRODUCTION = """# Accuracy

How wrong can a result be? Errors are in units in the last place (ULP): |result - exact| over the
spacing of the dtype at the exact value, at least the smallest subnormal. With 0.5 or less a result
is the correctly rounded one.

This page is made by `bench/accuracy_report.py` from `docs/accuracy.json`, which
`bench/accuracy.py --full` measured on {isa}; a test fails when that file belongs to other sources.

## What is promised, and the largest error found

{promises}

{notes}

## How it is measured

- float32: all 2^32 inputs, {functions} functions and derivatives; the baseline every {stride}st.
- float64: {f64} inputs a function, a quarter each of random bit patterns, exponents near 1, the
  interval from -40 to 40, and from -760 to 760; and all neighbours of the breakpoints.
- float16, bfloat16: all 65,536 inputs.
- Backward is `dy * f'(x)` at dy = 1. Other dy, odd parameters and the gated pairs are samples.
- The oracle (`bench/oracle.h`) states each definition in C once more, derived apart from the
  kernels. A result is screened in double or long double; whatever is not the nearest number and
  looks like a new maximum or a broken promise, and every 1021st of the others, is computed with 113
  bits.
- Peers: {peers}.
  Their float32 functions, where one of our name computes the same, on every {peer_stride}th bit
  pattern and around breakpoints, by the same oracle. A figure of seven digits and more is a result
  without a right digit, such as a 0 in place of a tiny or a subnormal number.

In the tables, "not nearest" is the share of float32 results that are not the nearest number,
"baseline" the largest float32 error without fused multiply-add. A name leads to a picture of the
error along x.
"""


def note(*sentences: str) -> str:
    """An item of a list, in lines that are not too long."""
    return textwrap.fill("- " + " ".join(sentences), 100, subsequent_indent="  ")


def notes(rows: list[dict], isa: str, full: list[dict]) -> str:
    zeros = (
        "A result is 0 where, and only where, the exact one rounds to 0; it is NaN where, and only "
        "where, x is NaN. Subnormal results count like all others."
    )
    steps = (
        "float32 and half-precision results never step against the direction of the function: that "
        "is checked between neighbours. Where a float64 function is nearly flat from one number "
        "to the next, a step back by one ULP is possible."
    )
    return "\n".join([note(zeros), note(steps), note(*excuses(full)), note(*same_bits(rows, isa))])


def largest(rows: list[dict], pick: Callable[[dict], bool]) -> str:
    found = max((r for r in rows if pick(r)), key=lambda r: r["max_ulp"], default=None)
    return f"{number(found['max_ulp'])} ({found['name']})" if found else ""


def promises(record) -> Iterator[str]:
    """A line a promise: the bound, the largest error with fused multiply-add and without."""
    isa = best_isa(record)
    rows = [r for r in record["rows"] if "max_ulp" in r and "peer" not in r]

    def asked(slope, dtype, any_dy=False, gated=False):
        def pick(r) -> bool:
            at_one = not r["of"].startswith("other parameters")
            return (
                (r["name"] in fa.gated) == gated and r["dtype"] == dtype
                and (gated or (r["slope"] == slope and at_one != any_dy))
            )  # fmt: skip

        return pick

    forward = max(f.max_ulp for f in fa.activations.values())
    lines = [("half precision, forward and backward", "0.5", lambda r: "16" in r["dtype"])]
    for dtype, bounds in (("float32", (forward, 0.51, 1, 1)), ("float64", (1, 2, 2, 2))):
        lines += [
            (f"{dtype}, forward", bounds[0], asked(False, dtype)),
            (f"{dtype}, backward, dy = 1", bounds[1], asked(True, dtype)),
            (f"{dtype}, backward, any dy, odd parameters", bounds[2], asked(True, dtype, True)),
            (
                f"{dtype}, gated pairs, value and gradients",
                bounds[3],
                asked(None, dtype, gated=True),
            ),
        ]
    yield f"| | promised | largest, {isa} | largest, baseline |"
    yield "| --- | ---: | ---: | ---: |"
    for what, bound, pick in lines:
        found = [largest([r for r in rows if r["isa"] == i], pick) for i in (isa, "baseline")]
        yield f"| {what} | {bound} | " + " | ".join(found) + " |"


def same_bits(rows: list[dict], isa: str) -> Iterator[str]:
    """Which instruction sets were compared with the best one, and in how many sweeps."""
    swept = sum("digest" in r and r["isa"] == isa for r in rows)
    for other, n in Counter(r["isa"] for r in rows if r.get("same_bits")).items():
        count = f"all {n} sweeps" if n == swept else f"{n} sweeps, of {swept}"
        yield f"{other} gave the bits of {isa} in {count}."
    yield "`bench/kernel_bits.py` holds NEON's kernels to the same bits, under qemu,"
    yield "and AVX-512's, on a machine without it by what its instructions are said to do."
    yield "The baseline, without fused multiply-add, may differ in the last bit, within the bounds."


def excuses(full: list[dict]) -> Iterator[str]:
    yield "Around a zero of f' an error of 2^-33 (float32) or 2^-52 (float64) of |dy| is right."
    needed = [f"{r['name']} {r['excused']} times" for r in full if r["excused"]]
    yield f"Among all float32 inputs that was needed by {', '.join(needed) or 'none'}."


def page(record) -> str:
    isa = best_isa(record)
    rows = [r for r in record["rows"] if "peer" not in r]
    full = [r for r in rows if r["isa"] == isa and r["of"] == "all" and "digest" in r]
    wide = next(r for r in rows if r["dtype"] == "float64" and "digest" in r)
    parts = [
        INTRODUCTION.format(
            isa=isa, promises="\n".join(promises(record)),
            notes=notes(rows, isa, full), functions=len(full), stride=accuracy.STRIDE,
            f64=f"{wide['inputs']:.0e}", peer_stride=PEER_STRIDE,
            peers=", ".join(sorted({r["isa"] for r in record["rows"] if "peer" in r})) or "none",
        )
    ]  # fmt: skip
    for slope in (False, True):
        parts.append(f"\n## {'Backward' if slope else 'Forward'}: largest error, ULP\n")
        parts += table(record, slope)
    parts.append("\n## Gated pairs: largest error, ULP\n")
    parts.append(
        "The value and both gradients together: a sample of gates of every magnitude, x and dy of\n"
        "both signs. The gradient of the gate is `dy * x * f'(gate)`.\n"
    )
    parts += gated_table(record)
    return "\n".join(parts) + "\n"


def gated_table(record) -> Iterator[str]:
    isas = [isa for isa in (best_isa(record), "baseline") if find(record, isa=isa)]
    columns = [(isa, dtype) for dtype in accuracy.FLOATS for isa in isas]
    yield "| | " + " | ".join(f"{dtype}, {isa}" for isa, dtype in columns) + " |"
    yield "| --- " + "| ---: " * len(columns) + "|"
    for name in fa.gated:
        cells = [find(record, isa=isa, name=name, dtype=dtype) for isa, dtype in columns]
        if any(cells):
            values = [number(cell["max_ulp"]) if cell else "" for cell in cells]
            yield f"| {name} | " + " | ".join(values) + " |"


def draw(record) -> None:
    """The largest error in each of 256 ranges of x, fastact's and the peers'."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fastact"
    from matplotlib import pyplot

    PICTURES.mkdir(parents=True, exist_ok=True)
    ticks = [0, 127 - 82, 127, 128 + 82, 255]
    labels = ["-1e38", "-1e-6", "0", "1e-6", "1e38"]
    exponents = (np.arange(128) * 277 / 127 - 149) * np.log10(2)
    for k, power in ((0, 38), (1, -6)):
        at = int(np.argmin(np.abs(exponents - power)))
        ticks[k], ticks[4 - k] = 127 - at, 128 + at
    for name in fa.activations:
        figure, axes = pyplot.subplots(2, 1, figsize=(7, 4.5), sharex=True, layout="constrained")
        for slope, axis in enumerate(axes):
            own = find(record, isa=best_isa(record), name=name, slope=bool(slope), of="all",
                       dtype="float32")  # fmt: skip
            lines = [("fastact", own)]
            lines += [(p, find(record, peer=p, name=name, slope=bool(slope))) for p in PEERS]
            for label, row in lines:
                if row is not None:
                    errors = np.clip(row["bins"], 0.02, 1e9)
                    axis.step(range(256), errors, where="mid", label=label, linewidth=1)
            axis.set_yscale("log")
            axis.set_ylabel("backward" if slope else "forward")
            axis.axhline(0.5, color="gray", linewidth=0.5)
            axis.grid(alpha=0.3)
        axes[0].set_title(f"{name}: largest float32 error, ULP (gray: 0.5)")
        axes[0].legend(fontsize=8)
        axes[1].set_xticks(ticks, labels)
        axes[1].set_xlabel("x: both signs, logarithmic")
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="measure torch and jax first")
    arguments = parser.parse_args()
    record = accuracy.load()
    if not record["rows"]:
        parser.error("docs/accuracy.json does not belong to these sources: accuracy.py --full")
    if arguments.peers:
        measure_peers(record)
    PAGE.write_text(page(record))
    draw(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
