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
    columns = ["", "float32", "not nearest", "float32, worst x", "baseline", "float64", "float16"]
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

How wrong each result can be, in units in the last place (ULP): |result - exact| over the spacing of
the dtype at the exact value, at least the smallest subnormal. 0.5 is a correctly rounded result.
This page is made by `bench/accuracy_report.py` from `docs/accuracy.json`, which
`bench/accuracy.py --full` measured; a test fails when that file belongs to other sources.

- float32: {f32}. "not nearest": the share of results that are not the nearest float. "baseline":
  the largest error without fused multiply-add, on every {stride}st bit pattern and at breakpoints.
- float64: {f64} inputs a function: random bit patterns, exponents near 1, the tails, breakpoints.
- float16, bfloat16: all 65,536 inputs.
- The instruction set is {isa}. {others}
- float64 without fused multiply-add: at most {base64:.2f} ULP forward (a sample).
- Backward is `dy * f'(x)` at dy = 1. {excused}
- torch, jax: their float32 functions by the same name where they compute the same, on every
  {peer_stride}th bit pattern and around breakpoints, with default parameters, by the same oracle
  ({peers}).

The oracle (`bench/oracle.h`) states each definition in C once more. A result is screened in double
or long double; whatever is not the nearest number and looks like a new maximum or a broken promise,
and every 1021st of the others, is computed with 113 bits. Zero results are asked to be zero where
and only where the exact value rounds to zero, forward results not to step against the direction of
the function. Other parameters, any dy, and the gated pairs are sampled by the same script.
"""


def page(record) -> str:
    isa = best_isa(record)
    rows = [r for r in record["rows"] if "peer" not in r]
    full = [r for r in rows if r["isa"] == isa and r["of"] == "all" and "digest" in r]
    swept = sum("digest" in r and r["isa"] == isa for r in rows)
    equal = Counter(r["isa"] for r in rows if r.get("same_bits"))
    base64 = [
        r["max_ulp"] for r in rows
        if r["isa"] == "baseline" and r["dtype"] == "float64" and r["name"] in fa.activations
        and not r["slope"]
    ]  # fmt: skip
    wide = next(r for r in rows if r["dtype"] == "float64" and "digest" in r)
    excused = sum(r["excused"] for r in full)
    text = INTRODUCTION.format(
        f32=f"all 2^32 inputs ({len(full)} functions and derivatives)", stride=accuracy.STRIDE,
        f64=f"{wide['inputs']:.0e}", isa=isa, peer_stride=PEER_STRIDE,
        others=" ".join(f"{other} gave the same bits in {n} of {n} sweeps compared, of {swept}."
                        for other, n in equal.items()), base64=max(base64, default=0.0),
        excused="Around a zero of f' an error of up to 2^-33 (float32) or 2^-52 (float64) is right "
        f"too, which {excused or 'no'} float32 results needed.",
        peers=", ".join(sorted({r["isa"] for r in record["rows"] if "peer" in r})) or "none",
    )  # fmt: skip
    parts = [text]
    for slope in (False, True):
        parts.append(f"\n## {'Backward' if slope else 'Forward'}: largest error, ULP\n")
        parts += table(record, slope)
    parts.append("\n## Gated pairs: value and both gradients, a sample\n")
    parts += ["| | float32 | float64 |", "| --- | ---: | ---: |"]
    for name in fa.gated:
        cells = [find(record, isa=isa, name=name, dtype=d) for d in ("float32", "float64")]
        if all(cells):
            parts.append(f"| {name} | " + " | ".join(number(c["max_ulp"]) for c in cells) + " |")
    return "\n".join(parts) + "\n"


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
