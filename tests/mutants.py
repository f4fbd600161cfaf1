"""Plants faults in the kernels, one in each of many builds, and asks the tests to find it.

    python tests/mutants.py [NAME...] [--record]

Every fault is a piece of text of a file in csrc/ and what takes its place, in a copy of csrc/
in a temporary folder; the module is linked anew from the objects of the last build and the one
that changes. pytest decides, on one instruction set, and stops at the first failure. A fault
that survives is an error; so is one whose text is not there once: then nothing was planted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["test_products.py", "test_batch_norm.py", "test_activations.py", "test_properties.py"]
TESTS += [
    "test_gated.py",
    "test_hard_statistics.py",
    "test_residual_and_mask.py",
    "test_inplace.py",
]
sys.path.insert(0, str(ROOT / "tools"))


class Fault(NamedTuple):
    name: str
    file: str
    old: str
    new: str


FAULTS = [
    Fault("range: the last lanes are left out", "kernels.inc",
          "((n) & -(ptrdiff_t)FA_LANES)", "((n - 1) & -(ptrdiff_t)FA_LANES)"),
    Fault("range: one element early", "kernels.inc",
          "for (ptrdiff_t i = (begin); i < (end); i++) {",
          "for (ptrdiff_t i = (begin); i < (end) - 1; i++) {"),
    Fault("parameters: the first for both", "kernels.inc",
          "p0 = params[0][0], p1 = params[1][0];", "p0 = params[0][0], p1 = params[0][0];"),
    Fault("parameters: one for all elements", "kernels.inc",
          "#define FA_PASS_VARYING_1 , p0[i]", "#define FA_PASS_VARYING_1 , p0[0]"),
    Fault("parameter gradient: dy and x swapped", "kernels.inc",
          "FN(fa_##name##_param_gradient)(dy[i], x[i]",
          "FN(fa_##name##_param_gradient)((real)x[i], dy[i]"),
    Fault("backward: dy of the neighbour", "kernels.inc",
          "FN(fa_##name##_backward)(dy[i], x[i]", "FN(fa_##name##_backward)(dy[i ^ 1], x[i]"),
    Fault("fast body: beyond its limit", "kernels.inc",
          "fa_choose_f32(fa_within_f(x[i], reach), fast_body, body))", "fast_body)"),
    Fault("fast body: parts of the element before", "kernels.inc",
          "fa_get_##kind##_f(&parts, (at))", "fa_get_##kind##_f(&parts, (at) & ~1)"),
    Fault("powers: what 2^(j / 8) lacks as a float32", "power.h",
          "fa_eighths_at(fa_eighths_lack, k))", "(fa_vec_f32){0})"),
    Fault("powers: a power of 2 is taken for its neighbour", "power.h",
          "fa_eighths_at(fa_eighths, k)", "fa_eighths_at(fa_eighths, k ^ 1)"),
    Fault("tables of |x|: the sign of x is lost", "pieces.h",
          "(fa_vec_f32)((fa_vec_bits_f32)size | ((fa_vec_bits_f32)x & 0x80000000u))", "size"),
    Fault("raised: dy is not lowered", "raised.h",
          "fa_lowered_d(y, dy_is_low | with_x)", "fa_lowered_d(y, with_x)"),
    Fault("raised: x is never lowered", "raised.h",
          "x_is_low & (size * 0x1p35 < of)", "0"),
    Fault("raised: with any parameters", "raised.h",
          "(p == 0.0) | ((fa_abs(p) >= 0x1p-20) & (fa_abs(p) <= 0x1p20))", "1"),
    Fault("raised: a careful product rounded twice", "raised.h",
          "fa_bits(fa_beside_2_52(m, fa_abs(p))) - fa_bits(0x1p52)",
          "fa_bits(product + 0x1p52) - fa_bits(0x1p52)"),
    Fault("bounds: doubt is not heard", "kernels.inc",
          "if (expected || found || doubt)", "if (expected || found)"),
    Fault("bounds: of products that are too small", "kernels.inc",
          "if (expected || found || doubt)", "if (expected || doubt)"),
    Fault("bounds: a stretch that is not tried is left out", "kernels.inc",
          "if (expected || found || doubt)", "if (found || doubt)"),
    Fault("bounds: x is gone where it is needed", "kernels.inc",
          "(y == x) | (y == dy) ? aside : y + begin; /*", "0 ? aside : y + begin; /*"),
    Fault("slight: looked for by nobody", "pairs.h",
          "{ return fa_smaller_f(UINT32_MAX, FA_SLIGHT_F); }", "{ return 0; }"),
    Fault("slight: subnormal numbers alone", "pairs.h",
          "#define FA_SLIGHT_F 0x1p-60f", "#define FA_SLIGHT_F 0x1p-126f"),
    Fault("slight: the lower half of a pair is left out", "pairs.h",
          "(double)p.hi + (double)p.lo);", "(double)p.hi);"),
    Fault("slight: as usual in fused loops", "fused.inc",
          "if (fa_any_slight_of_strip(dy))", "if (0)"),
    Fault("slight: dy is gone where it is needed", "kernels.inc",
          "backward && (y == x) | (y == dy) ? aside", "0 ? aside"),
    Fault("slight: e^y too small for a factor", "pairs.h",
          "#define FA_EXP_FACTOR_LIMIT_F 40.0f", "#define FA_EXP_FACTOR_LIMIT_F 70.0f"),
    Fault("tables: the rows to the left are sought in the table", "pieces.h",
          "left.at + (s.here.count << s.here.row)", "left.at"),
    Fault("tables: what is beyond counts as to the left", "pieces.h",
          "(here ^ 1) << (left ^ 1)", "here ^ 1"),
    Fault("moments: sign of the deviation", "batchnorm.inc",
          "sum->v[j] = FN(fa_vadd)(sum->v[j], d);",
          "d.hi = -d.hi; sum->v[j] = FN(fa_vadd)(sum->v[j], d);"),
    Fault("moments: a lane is skipped", "batchnorm.inc",
          "for (ptrdiff_t lane = 0; lane < lanes && lane < span->rows; lane++) {",
          "for (ptrdiff_t lane = 1; lane < lanes && lane < span->rows; lane++) {"),
    Fault("moments: swapped strides", "batchnorm.inc",
          "            x += span->x_step * lanes;\n",
          "            x += span->ahead_step / (ptrdiff_t)sizeof(real);\n"),
    Fault("moments: the square is left as it was", "batchnorm.inc",
          "FN(fa_put_sum)(sums + lane, 1, &square);", "(void)square;"),
    Fault("merge: the last block is lost", "batchnorm.inc",
          "start + run < blocks; start += 2 * run)", "start + run < blocks - 1; start += 2 * run)"),
    Fault("merge: twice the first", "batchnorm.inc",
          "FN(fa_total)(FA_WORKING(a[c], al[c]), FA_WORKING(b[c], bl[c]))",
          "FN(fa_total)(FA_WORKING(a[c], al[c]), FA_WORKING(a[c], al[c]))"),
    Fault("merge: an infinity's pair", "batchnorm.inc",
          "n_select(plain - plain == 0.0, n_add(a, b), n_set(plain));", "n_add(a, b);"),
    Fault("fold: one half short", "batchnorm.inc",
          "a[j] = FN(fa_total)(a[j], a[j + half]);", "a[j] = FN(fa_total)(a[j], a[j]);"),
    Fault("normalise: an infinity's pair", "batchnorm.inc",
          "return FA_BITS != 64 || z == z ? z", "return FA_BITS != 64 || z != 0 ? z"),
    Fault("variance: unbiased", "batchnorm.inc",
          "n_div(n_select(n_hi(m2) < 0, n_set(0), m2), n_set(n));",
          "n_div(n_select(n_hi(m2) < 0, n_set(0), m2), n_set(n > 1 ? n - 1 : n));"),
    Fault("variance: mean not taken off", "batchnorm.inc",
          "n_sub(FA_WORKING(square[c], square[c + width]), n_mul(d, step));",
          "FA_WORKING(square[c], square[c + width]);"),
    Fault("mean: the shift is forgotten", "batchnorm.inc",
          "fa_add_dd(fa_dd_set(shift[c], 0.0)", "fa_add_dd(fa_dd_set(0.0 * shift[c], 0.0)"),
    Fault("eps: beside the root", "batchnorm.inc",
          "n_div(n_set(1.0), n_sqrt(n_add(v, n_set(eps))));",
          "n_div(n_set(1.0), n_add(n_sqrt(v), n_set(eps)));"),
    Fault("affine: bias forgotten", "batchnorm.inc",
          "if (bias) /* a choice", "if (0) /* a choice"),
    Fault("affine: sign of delta", "batchnorm.inc",
          "n_muladd(n_set(-to.delta[c]), scale", "n_muladd(n_set(to.delta[c]), scale"),
    Fault("normalise: constants of the lane beside", "batchnorm.inc",
          "(x + (j + 1) * FA_VEC) - a->centre[j + 1];", "(x + (j + 1) * FA_VEC) - a->centre[j];"),
    Fault("gradient: the constant left out", "batchnorm.inc",
          "n->slope[j], gv + n->constant[j])", "n->slope[j], gv)"),
    Fault("gradient by the sign: of the lane beside", "fused.inc",
          "fa_is_positive(x[i], k->flip[i]", "fa_is_positive(x[i ^ 1], k->flip[i]"),
    Fault("gradient by the sign: the last element's alone is summed", "fused.inc",
          "sum.v[j].hi += gv;", "sum.v[j].hi = gv;"),
    Fault("gradient: sign of the slope", "batchnorm.inc",
          "        to.slope[c] = -slope;", "        to.slope[c] = slope;"),
    Fault("gradient: stale constant", "batchnorm.inc",
          "FA_FMA(slope, of.delta[c], -(g_sum[c] / n));",
          "FA_FMA(slope, of.delta[c], -(g_sum[0] / n));"),
    Fault("gradient: one reciprocal deviation too few", "batchnorm.inc",
          "gx_sum[c] / n * rstd[c] * rstd[c];", "gx_sum[c] / n * rstd[c];"),
    Fault("gradient: constants that float32 does not hold", "batchnorm.inc",
          "return keeps & (n > FN(FA_FEW)) ? 0.0 : 1.0;", "return (void)keeps, (void)n, 0.0;"),
    Fault("sides: one number late", "batchnorm.inc",
          "const float first = fa_float_of_rank(near[i] + steps);",
          "const float first = fa_float_of_rank(near[i] + steps + 1);"),
    Fault("runs: the end of a run counts", "batchnorm.inc",
          "cut[i] = i < odd ? here : fill;", "cut[i] = i <= odd ? here : fill;"),
    Fault("runs: places stay where they are", "batchnorm.inc",
          "FN(fa_vdouble)(hi + by + j * FA_VEC)", "FN(fa_vdouble)(hi + j * FA_VEC)"),
    Fault("runs: a block is not whole", "batchnorm_runs.c",
          "fa_at_most(end - k, FA_BLOCK - k % FA_BLOCK)", "fa_at_most(end - k, FA_BLOCK)"),
    Fault("runs: an end is written whole", "batchnorm_runs.c",
          "(size_t)(odd * j->itemsize));", "(size_t)(FA_LANES * j->itemsize));"),
    Fault("flat: a row has the constants of the first", "batchnorm.inc",
          "zero + s->of_rows[1][row];", "zero + s->of_rows[1][0];"),
    Fault("flat: rows go on into the next sample", "batchnorm_flat.c",
          "fa_at_most(in_tile, channels - r % channels)", "fa_at_most(in_tile, channels)"),
    Fault("along the rows: stale constants", "batchnorm.inc",
          "                k++;   ", "                k += 0;"),
    Fault("along the rows: swapped strides", "batchnorm.inc",
          "out_of_row += (s)->out_step;", "out_of_row += (s)->x_step;  "),
    Fault("tile: what is beyond the edge is left as it was", "batchnorm_rows.c",
          "memcpy(to + read, padding, (size_t)(row - read));", ""),
    Fault("reduction: the first strip's constants for all", "batchnorm_rows.c",
          "        span->constants++;", ""),
    Fault("field: x of its first strips for all", "batchnorm_rows.c",
          "const piece p = locate(j, r, rows, s, m->group);",
          "const piece p = locate(j, r, rows, s < found ? first : s, m->group);"),
    Fault("chunk: stale parameters", "batchnorm.inc",
          "part->constants[i % part->strips * part->each].params[p]",
          "part->constants[0].params[p]"),
    Fault("chunk: rows one step short", "batchnorm.inc",
          "buffer + r * part->strips * FA_LANES, (const real *)part->dy + r * part->dy_step, row);",
          "buffer + r * part->strips * FA_LANES, (const real *)part->dy, row);"),
]  # fmt: skip


def build(folder: Path, isa: str, fault: Fault) -> None:
    """A package in `folder` whose kernels have the fault."""
    from native import SETUP

    shutil.copytree(ROOT / "csrc", folder / "csrc")
    source = folder / "csrc" / fault.file
    text = source.read_text()
    if text.count(fault.old) != 1:
        sys.exit(f"{fault.name}: its text is not there once in {fault.file}")
    source.write_text(text.replace(fault.old, fault.new))
    kernels = source.suffix != ".c"
    stem = f"isa_{isa}" if kernels else source.stem
    flags = [*SETUP["NUMERICS"], "-O1", "-ftree-vectorize", *kernels * SETUP["X86"].get(isa, [])]
    mutant = folder / f"{stem}.o"
    command = ["gcc", *flags, *SETUP["GCC_ONLY"], "-fPIC", "-w", "-c"]
    must([*command, folder / "csrc" / f"{stem}.c", "-o", mutant])
    shutil.copytree(ROOT / "fastact", folder / "fastact")
    (module,) = (folder / "fastact").glob("_runtime*.so")
    objects = [mutant if p.stem == stem else p for p in built_objects()]
    module.unlink()
    must(["gcc", "-shared", "-fopenmp", *objects, "-lm", "-o", module])


def built_objects() -> list[Path]:
    (folder,) = (ROOT / "build").glob(f"temp.*{sys.implementation.cache_tag}")
    found = [*folder.glob("csrc/*.o"), *folder.glob("**/_runtime.o")]
    if not found:
        sys.exit("there are no objects in build/: python setup.py build_ext --inplace makes them")
    return found


def must(command: Iterable[object]) -> None:
    subprocess.run([str(part) for part in command], check=True)


def is_caught(folder: Path, isa: str) -> str:
    """The test that fails, or "" if none does."""
    shutil.copytree(ROOT / "tests", folder / "tests")
    environment = {**os.environ, "FASTACT_ISA": isa, "PYTHONPATH": str(folder)}
    tests = [folder / "tests" / name for name in TESTS]
    options = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", folder, "--timeout", "120"]
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, *map(str, [*options, *tests])],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if not failed and done.returncode > 0:
        sys.exit(f"pytest did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[0].split("::", 1)[1].split(" - ")[0] if failed else "the process ended"


# an editable installation would find the package elsewhere
LOCAL = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if p]
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="words of the faults to plant (default: all)")
    parser.add_argument("--isa", default="avx2")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--record", action="store_true", help="write docs/reliability/mutants.json")
    options = parser.parse_args()
    faults = [f for f in FAULTS if all(name in f.name for name in options.names)]

    def attempt(fault: Fault) -> str:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), options.isa, fault)
            test = is_caught(Path(folder), options.isa)
        took = time.perf_counter() - begin
        print(f"{fault.name}: {test or 'SURVIVES'} ({took:.0f} s)", flush=True)
        return test

    with ThreadPoolExecutor(options.jobs) as pool:
        caught = dict(zip((fault.name for fault in faults), pool.map(attempt, faults), strict=True))
    if options.record:
        from reliability import record

        figures = {"planted": len(faults), "caught": sum(map(bool, caught.values())), "by": caught}
        record("mutants", figures)
    if survivors := [name for name, test in caught.items() if not test]:
        sys.exit(f"{len(survivors)} of {len(faults)} survive: {survivors}")


if __name__ == "__main__":
    main()
