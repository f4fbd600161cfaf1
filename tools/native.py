"""Runs the C code without Python under everything that looks for mistakes in C.

    python tools/native.py STEP... [--cases N] [--seconds S] [--record]

    asan       AddressSanitizer and UndefinedBehaviorSanitizer (gcc), every instruction set
    tsan       ThreadSanitizer (gcc): many callers, memory handed on, settings changed, forks
    forks      the same with OpenMP, as many forks as cases, from every thread
    valgrind   Memcheck, on what it knows of: AVX2 and baseline
    analyzer   gcc's -fanalyzer, over the drivers
    emulators  qemu-user: AArch64, and x86-64 of a Nehalem and of a Haswell: the same bits as here
    fuzz       libFuzzer (clang), coverage-guided, over every C entry point
    coverage   gcov: lines of csrc/ that none of these cases reach, each with its reason

tests/native/ has the cases. Before a step is believed, it must find a bug that is planted (PLANTED
below). A step whose tools are missing is left out, loudly: that is no error. --record writes what
was found to docs/reliability/, of which tools/reliability.py makes a page.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from reliability import record

ROOT = Path(__file__).resolve().parent.parent
CSRC, NATIVE = ROOT / "csrc", ROOT / "tests" / "native"
BUILD = ROOT / "build" / "native"
UNCOVERED = ROOT / "tests" / "uncovered.txt"
WRAPPED = [
    "fa_threads_for",
    "fa_worth_streaming",
    "fa_l2_bytes",
    "fa_llc_bytes",
    "fa_activation_cost",
    "malloc",
    "calloc",
]
WRAPPED += ["aligned_alloc", "mmap"]
CASES = [f"case_{kind}" for kind in ("elementwise", "batchnorm", "merge", "table")]
CASES += ["arrays", "wrap", "cases"]


def settings() -> dict:
    """The flags and sources of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    wanted = {"NUMERICS", "WARNINGS", "X86", "ARM", "C_SOURCES", "GCC_ONLY"}
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in wanted
    }


SETUP = settings()


class Missing(Exception):
    """A tool that a step needs is not here."""


def need(*tools: str) -> None:
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise Missing(", ".join(missing))


def run(command: Iterable[object], **options) -> subprocess.CompletedProcess:
    """Its output and exit status, both streams in one."""
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False, **options,
    )  # fmt: skip


def must(command: Iterable[object], **options) -> str:
    done = run(command, **options)
    if done.returncode:
        sys.exit(f"failed, status {done.returncode}: {' '.join(map(str, command))}\n{tail(done)}")
    return done.stdout


def tail(done: subprocess.CompletedProcess, lines: int = 40) -> str:
    return "\n".join(done.stdout.splitlines()[-lines:])


# ---- builds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flavour:
    """One way to build csrc/ and tests/native/ into a program."""

    name: str
    flags: tuple[str, ...] = ()
    main: str = "harness"
    compiler: str = "gcc"
    machine: str = platform.machine()
    isas: tuple[str, ...] | None = None  # None: all of the machine
    openmp: bool = True
    wrapped: bool = True
    link: tuple[str, ...] = ()
    unguided: tuple[str, ...] = ()  # what the cases themselves are compiled with
    planted: Bug | None = field(default=None)

    @property
    def folder(self) -> Path:
        return BUILD / (self.name + (f"-{self.planted.name}" if self.planted else ""))

    @property
    def instruction_sets(self) -> dict[str, list[str]]:
        known = SETUP["X86"] if self.machine == "x86_64" else SETUP["ARM"]
        return {isa: f for isa, f in known.items() if self.isas is None or isa in self.isas}


def sources(flavour: Flavour) -> dict[Path, list[str]]:
    """File -> flags of its own."""
    macros = [f"-DFA_HAVE_{isa.upper()}=1" for isa in flavour.instruction_sets]
    only = SETUP["GCC_ONLY"] if "gcc" in flavour.compiler else []
    openmp = ["-fopenmp"] if flavour.openmp else []
    files = {CSRC / f"{name}.c": [*macros, *openmp] for name in SETUP["C_SOURCES"]}
    for isa, flags in flavour.instruction_sets.items():
        files[CSRC / f"isa_{isa}.c"] = [*only, *flags]
    for name in [*CASES * flavour.wrapped, *[flavour.main] * bool(flavour.main)]:
        folder = NATIVE if (NATIVE / f"{name}.c").exists() else ROOT / "tests"
        files[folder / f"{name}.c"] = ["-D_GNU_SOURCE", *flavour.unguided]
    return files


def as_shipped(compiler: str, own: list[str], source: Path) -> list[str]:
    """What compiles kernels for the package, run in ROOT: then ccache knows what comes of it."""
    of_python = sysconfig.get_config_vars("CFLAGS", "CCSHARED") if compiler == "gcc" else []
    flags = [*shlex.split(" ".join(of_python)), "-Icsrc", *SETUP["NUMERICS"], *SETUP["WARNINGS"]]
    return [compiler, *flags, *own, "-c", str(source.relative_to(ROOT))]


def compiling(flavour: Flavour, source: Path, own: list[str]) -> tuple[list[str], Path]:
    """The command but for its output, and where it runs."""
    if source.name.startswith("isa_") and not flavour.flags:
        return as_shipped(flavour.compiler, own, source), ROOT
    flags = [*SETUP["NUMERICS"], *SETUP["WARNINGS"], "-g1", f"-I{CSRC}", *flavour.flags, *own]
    text = str(planted_text(flavour, source))
    return [flavour.compiler, *flags, "-x", "c", "-c", text], flavour.folder


def compile_one(flavour: Flavour, source: Path, own: list[str]) -> tuple[Path, str]:
    """The object and what the compiler said; nothing is done where the object is newer than all."""
    built = flavour.folder / f"{source.stem}.o"
    headers = [*CSRC.glob("*.h"), *CSRC.glob("*.inc"), *CSRC.glob("*.def"), *NATIVE.glob("*.h")]
    newest = max(p.stat().st_mtime for p in [source, *headers, Path(__file__), ROOT / "setup.py"])
    log = built.with_suffix(".log")
    if built.exists() and log.exists() and built.stat().st_mtime > newest:
        return built, log.read_text()
    command, folder = compiling(flavour, source, own)
    done = run([*command, "-o", built], cwd=folder)
    if done.returncode:
        sys.exit(f"{source.name} does not compile:\n{done.stdout}")
    log.write_text(done.stdout)
    return built, done.stdout


def planted_text(flavour: Flavour, source: Path) -> Path:
    """The source, or a copy with the bug in it."""
    bug = flavour.planted
    if bug is None or bug.file != source.name:
        return source
    text = source.read_text()
    if text.count(bug.old) != 1:
        sys.exit(f"{bug.name}: {bug.file} has its text {text.count(bug.old)} times, not once")
    copy = flavour.folder / source.name
    copy.write_text(f'#line 1 "{source}"\n' + text.replace(bug.old, bug.new))
    return copy


def compile_all(flavour: Flavour) -> list[tuple[Path, str]]:
    flavour.folder.mkdir(parents=True, exist_ok=True)
    share_objects(flavour)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, flavour, s, own) for s, own in sources(flavour).items()]
        return [job.result() for job in jobs]


def share_objects(flavour: Flavour) -> None:
    """A build with a bug differs in one object from the build without."""
    if flavour.planted is None:
        return
    clean = BUILD / flavour.name
    for built in [*clean.glob("*.o"), *clean.glob("*.log")]:
        if built.stem != Path(flavour.planted.file).stem:
            shutil.copy2(built, flavour.folder)


def program(flavour: Flavour) -> Path:
    objects = [built for built, _ in compile_all(flavour)]
    made = flavour.folder / flavour.main
    wraps = [f"-Wl,--wrap={name}" for name in WRAPPED * flavour.wrapped]
    openmp = ["-fopenmp"] if flavour.openmp else ["-pthread"]
    must(
        [
            flavour.compiler,
            *flavour.flags,
            *flavour.link,
            *openmp,
            *wraps,
            *objects,
            "-lm",
            "-o",
            made,
        ]
    )
    return made


# ---- bugs that must be found -------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """A piece of text in a file of csrc/, what takes its place, and what is said of it then."""

    name: str
    file: str
    old: str
    new: str
    said: str


PLANTED = {
    "asan": Bug("one-byte-too-many", "strided.c",
                "memmove(dst, src, (size_t)(n * src_stride));",
                "memmove(dst, src, (size_t)(n * src_stride) + 1);", "buffer-overflow"),
    "ubsan": Bug("misaligned", "elementwise.c",
                 "&& (uintptr_t)t->ptr[k] % (uintptr_t)j->itemsize == 0;", ";",
                 "misaligned address"),
    "tsan": Bug("no-lock", "pool.c",
                "    lock();\n    fa_pool_stats stats = pool.stats;\n    unlock();",
                "    fa_pool_stats stats = pool.stats;", "data race"),
    "valgrind": Bug("never-set", "batchnorm_channels.c",
                    "        if (k % FA_BLOCK == 0)\n            fa_clear(j, lanes);\n", "",
                    "uninitialised value"),
    "analyzer": Bug("freed-twice", "batchnorm.c",
                    "    free(memory);\n    fa_aligned_free(j->scratch);",
                    "    free(memory);\n    free(memory);\n    fa_aligned_free(j->scratch);",
                    "double-free"),
    "emulators": Bug("stray-instruction", "strided.c",
                     "    if (fa_is_half(from))\n        gather_half(",
                     '    __asm__ volatile("vpxor %%ymm0, %%ymm0, %%ymm0" ::: "xmm0");\n'
                     "    if (fa_is_half(from))\n        gather_half(", "signal"),
    "fuzz": Bug("last-element", "view.c",
                "left = v->shape[last] - (last ? k % v->shape[last] : k);",
                "left = v->shape[last] - (last ? k % v->shape[last] : k) + (v->ndim == 3);",
                "ERROR"),
}  # fmt: skip


# ---- running -----------------------------------------------------------------------------------

CANNOT = 2  # a program's exit status where the machine has not the instruction set
PATIENCE = 1200  # seconds: a program that takes longer hangs


def execute(command: Iterable[object], **environment: str) -> subprocess.CompletedProcess:
    try:
        return run(command, env={**os.environ, **environment}, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        sys.exit(f"no end after {PATIENCE} s: {' '.join(map(str, command))}")


def isas_here(made: Path) -> list[str]:
    return [isa for isa in SETUP["X86"] | SETUP["ARM"] if run([made, isa, "0"]).returncode == 0]


def digests(done: subprocess.CompletedProcess) -> list[str]:
    """What a harness printed; the end of this program if a case was wrong."""
    if done.returncode:
        sys.exit(f"status {done.returncode}: {' '.join(map(str, done.args))}\n{tail(done)}")
    # of what a processor has that qemu does not imitate
    return [line for line in done.stdout.splitlines() if not line.startswith("qemu-")]


def reports(said: str) -> int:
    """How many a sanitizer, valgrind, gcc or libFuzzer made; a planted bug shows that it counts."""
    found = re.findall(r"(?:ERROR|WARNING): (?:\w+Sanitizer|libFuzzer)|runtime error:", said)
    found += re.findall(r" warning: ", said)
    return len(found) + sum(map(int, re.findall(r"ERROR SUMMARY: (\d+)", said)))


def check_plant(step: str, done: subprocess.CompletedProcess) -> str:
    """That a build with the bug fails, and says what it should."""
    bug = PLANTED[step]
    said = done.stdout + (f"signal {-done.returncode}" if done.returncode < 0 else "")
    heard = reports(said) or done.returncode < 0
    if done.returncode == 0 or bug.said not in said or not heard:
        sys.exit(
            f"the planted bug {bug.name} was not found (status {done.returncode}):\n{tail(done)}"
        )
    print(f"  planted: {bug.name} in {bug.file}: found ({bug.said})")
    return bug.name


def run_isas(
    made: Path, cases: int, *before: str, but: str = "", **environment: str
) -> tuple[dict[str, int], int]:
    """Instruction set -> cases, and how many reports were made."""
    ran, heard = {}, 0
    for isa in isas_here(made):
        if isa != but:
            done = execute([*before, made, isa, str(cases)], **environment)
            digests(done)
            heard += reports(done.stdout)
            ran[isa] = cases
            print(f"  {isa}: {cases} cases")
    return ran, heard


# ---- the steps ---------------------------------------------------------------------------------


NEEDED = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "avx2": {"avx2", "fma"}}


def runnable() -> tuple[str, ...] | None:
    """The instruction sets that this processor runs, best first, where /proc tells; None: perhaps
    all. Others' kernels take a sanitizer's build minutes, for nothing."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    if platform.machine() != "x86_64":
        return None
    return tuple(isa for isa in SETUP["X86"] if NEEDED.get(isa, set()) <= flags)


HERE = runnable()


# Without its attribute each function is compiled once, not in each place that it is used: half the
# time, and the same operations.
PLAINLY = "-Dalways_inline=unused"
SANITIZE = (PLAINLY, "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
# With optimisation kernels take four times as long to compile, more than the cases save.
ASAN = Flavour("asan", ("-O0", *SANITIZE, "-fsanitize=address,undefined"), isas=HERE)
TSAN = Flavour(
    "tsan", ("-O0", *SANITIZE, "-fsanitize=thread", "-DFA_USE_DISPATCH", f"-I{NATIVE}"),
    main="threads", openmp=False, isas=("avx2", "neon", "baseline"),
)  # fmt: skip
PLAIN = Flavour("plain")
THREADS = Flavour("plain-threads", main="threads")
# without optimisation, as gcc's manual advises: inlined loops confuse it; and with more patience
ANALYZER = Flavour(
    "analyzer", ("-fanalyzer", "--param=analyzer-bb-explosion-factor=60", "-O0"),
    main="", isas=(), wrapped=False,
)  # fmt: skip
ARM = Flavour(
    "aarch64", compiler="aarch64-linux-gnu-gcc", machine="aarch64", link=("-static",)
)  # fmt: skip
FUZZ = Flavour(
    "fuzz",
    # that NULL + 0 is undefined is an opinion of clang's; gcc's build looks for such overflow
    ("-O1", *SANITIZE, "-fsanitize=fuzzer-no-link,address,undefined",
     "-fno-sanitize=pointer-overflow",
     "-DFA_USE_DISPATCH", f"-I{NATIVE}", "-Wno-everything"),
    main="fuzz", compiler="clang", openmp=False, link=("-fsanitize=fuzzer",),
    # reporting each comparison of the loops that look at results would take half of the time
    isas=HERE, unguided=("-fno-sanitize-coverage=trace-cmp",),
)  # fmt: skip
COVERAGE = Flavour("coverage", ("-O0", "--coverage", "-fprofile-update=atomic"), isas=HERE)


def planted(flavour: Flavour, step: str) -> Flavour:
    return Flavour(**{**flavour.__dict__, "planted": PLANTED[step]})


def asan(options) -> dict:
    need("gcc")
    ran, heard = run_isas(program(ASAN), options.cases)
    figures = {"cases": ran, "reports": heard, "planted": []}
    for step in ("asan", "ubsan"):
        made = program(planted(ASAN, step))
        done = execute([made, isas_here(program(ASAN))[0], str(options.cases)])
        figures["planted"].append(check_plant(step, done))
    return figures


def tsan(options) -> dict:
    need("gcc")
    settings = {"TSAN_OPTIONS": "halt_on_error=1"}
    rounds = max(options.cases // 4, 50)
    ran, heard = run_isas(program(TSAN), rounds, **settings)
    done = execute([program(planted(TSAN, "tsan")), "baseline", str(rounds)], **settings)
    return {"rounds": ran, "reports": heard, "planted": [check_plant("tsan", done)]}


def forks(options) -> dict:
    need("gcc")
    made = program(THREADS)
    done = execute([made, isas_here(made)[0], "100000000", str(options.cases)])
    digests(done)
    count, right = map(int, re.search(r"(\d+) forks, (\d+) right", done.stdout).groups())
    print(f"  {count} forks, {right} children computed the same and ended")
    return {"forks": count, "hangs": count - right}


def valgrind(options) -> dict:
    need("gcc", "valgrind")
    memcheck = ["valgrind", "--error-exitcode=9", "--leak-check=full"]
    memcheck += ["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]
    cases = max(options.cases // 20, 10)
    ran, heard = run_isas(program(PLAIN), cases, *memcheck, but="avx512")  # it knows none of that
    done = execute([*memcheck, program(planted(PLAIN, "valgrind")), "baseline", str(cases)])
    return {"cases": ran, "reports": heard, "planted": [check_plant("valgrind", done)]}


def warnings(flavour: Flavour) -> list[str]:
    found = []
    for _, said in compile_all(flavour):
        found += [line for line in said.splitlines() if "warning:" in line]
    return found


def analyzer(options) -> dict:
    need("gcc")
    found = warnings(ANALYZER)
    if found:
        sys.exit("gcc -fanalyzer is not quiet:\n" + "\n".join(found))
    print(f"  {len(sources(ANALYZER))} files, quiet")
    said = "\n".join(warnings(planted(ANALYZER, "analyzer")))
    done = subprocess.CompletedProcess([], int(bool(said)), said)
    figures = {"files": len(sources(ANALYZER)), "warnings": len(found)}
    return figures | {"planted": [check_plant("analyzer", done)]}


def emulator(machine: str) -> str:
    for name in (f"qemu-{machine}", f"qemu-{machine}-static"):
        if shutil.which(name):
            return name
    raise Missing(f"qemu-{machine}")


def emulators(options) -> dict:
    need("gcc", ARM.compiler)
    here, cases = program(PLAIN), max(options.cases // 5, 40)
    x86, arm = emulator("x86_64"), emulator("aarch64")
    ran, differences = {}, 0
    want = {isa: digests(run([here, isa, str(cases)])) for isa in isas_here(here)}
    runs = {
        "AArch64, neon as avx2": ([arm, program(ARM), "neon"], "avx2"),
        "Nehalem, baseline": ([x86, "-cpu", "Nehalem", here, "baseline"], "baseline"),
        "Haswell, avx2": ([x86, "-cpu", "Haswell", here, "avx2"], "avx2"),
        "Haswell, baseline": ([x86, "-cpu", "Haswell", here, "baseline"], "baseline"),
    }
    for name, (command, isa) in runs.items():
        got = digests(execute([*command, str(cases)]))
        ran[name] = cases
        differences += got != want[isa]
        beside = "the same bits" if got == want[isa] else f"NOT {want[isa]} but {got}"
        print(f"  {name}: {cases} cases, {beside}")
    if differences:
        sys.exit(f"{differences} differ from here")
    for cpu, isa in (("Nehalem", "avx2"), ("Haswell", "avx512")):
        if run([x86, "-cpu", cpu, here, isa, "1"]).returncode != CANNOT:
            sys.exit(f"{isa} was not refused on a {cpu}")
    bad = program(planted(PLAIN, "emulators"))
    done = execute([x86, "-cpu", "Nehalem", bad, "baseline", str(cases)])
    figures = {"cases": ran, "differences": differences}
    return figures | {"planted": [check_plant("emulators", done)]}


# ---- fuzzing -----------------------------------------------------------------------------------

CORPUS = NATIVE / "corpus.txt"  # a case a line, in hexadecimal


def unpack_corpus(folder: Path, corpus: Path = CORPUS) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for k, line in enumerate(corpus.read_text().split()):
        (folder / f"{k:05}").write_bytes(bytes.fromhex(line))
    return folder


def pack_corpus(fuzzer: Callable[..., object], folder: Path, corpus: Path = CORPUS) -> int:
    """Keeps the cases that reach something that no other does; `fuzzer` takes libFuzzer's
    arguments."""
    least = folder.with_name("least")
    shutil.rmtree(least, ignore_errors=True)
    least.mkdir()
    fuzzer("-merge=1", least, folder)
    lines = sorted(path.read_bytes().hex() for path in least.iterdir())
    if not any(lines):
        sys.exit(f"nothing of {folder} was kept")
    corpus.write_text("".join(f"{line}\n" for line in lines if line))
    return len(lines)


def searched(said: str, seconds: int) -> dict:
    """The figures of a search, from what libFuzzer says."""
    runs = int(re.search(r"stat::number_of_executed_units:\s*(\d+)", said)[1])
    edges = int(re.findall(r"cov: (\d+)", said)[-1])
    failures = reports(said)
    print(f"  {runs} cases in {seconds} s, {edges} edges, {failures} failures")
    return {"cases": runs, "seconds": seconds, "edges": edges, "failures": failures}


def fuzz(options) -> dict:
    need("clang")
    limits = [
        f"-artifact_prefix={BUILD}/",
        "-max_len=160",
        "-len_control=0",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    bad = program(planted(FUZZ, "fuzz"))
    done = execute([bad, *limits, "-max_total_time=120", unpack_corpus(BUILD / "fuzz" / "planted")])
    figures = {"planted": [check_plant("fuzz", done)]}
    made, folder = program(FUZZ), unpack_corpus(BUILD / "fuzz" / "corpus")
    done = execute([made, *limits, f"-max_total_time={options.seconds}", folder], FASTACT_ISA="")
    digests(done)
    figures |= searched(done.stdout, options.seconds)
    if options.record:
        figures["corpus"] = pack_corpus(lambda *given: must([made, *given]), folder)
    return figures


# ---- coverage ----------------------------------------------------------------------------------


SOMETIMES = "sometimes: "  # begins the reason of a line that more cases or other machines reach


def reasons(listed: Path = UNCOVERED) -> dict[tuple[str, ...], str]:
    """(file, function, text of a line) -> why no case reaches it."""
    found = {}
    for line in listed.read_text().splitlines():
        if line and not line.startswith("#"):
            *where, reason = (part.strip() for part in line.split(" | "))
            found[tuple(where)] = reason
    return found


def function_around(text: list[str], number: int) -> str:
    """The function that a line is in, by the last line that begins as one does."""
    for line in reversed(text[:number]):
        if begin := re.match(r"(?!typedef|else)[A-Za-z][^;=]*?(?:FN\()?\b(?!FN\b)(\w+)\)?\(", line):
            return begin[1]
    return ""


def idle(known: dict[tuple[str, ...], str], used: Iterable[tuple[str, ...]]) -> list[str]:
    """The reasons that excuse nothing."""
    left = known.keys() - set(used)
    return sorted(" | ".join(key) for key in left if not known[key].startswith(SOMETIMES))


def counts(folder: Path, isas: list[str]) -> dict[str, dict[int, int]]:
    """File -> line -> how often it ran, the most of all objects that can run here."""
    total: dict[str, dict[int, int]] = {}
    kernels = {f"isa_{isa}" for isa in isas}
    for data in folder.glob("*.gcda"):
        if data.stem.startswith("isa_") and data.stem not in kernels:
            continue
        for report in must(["gcov", "--json-format", "--stdout", data], cwd=folder).splitlines():
            for file in json.loads(report)["files"]:
                path = Path(file["file"])
                if path.parent == CSRC:
                    lines = total.setdefault(path.name, {})
                    for line in file["lines"]:
                        number = line["line_number"]
                        lines[number] = max(lines.get(number, 0), line["count"])
    return total


def exercise_everything(options) -> None:
    for data in BUILD.glob("coverage*/*.gcda"):
        data.unlink()
    made = program(COVERAGE)
    for isa in isas_here(made):
        digests(execute([made, isa, str(8 * options.cases)]))  # some lines want rare cases
    for main, *arguments in (["c_harness"], ["settings"]):
        other = Flavour(**{**COVERAGE.__dict__, "main": main, "wrapped": False})
        digests(execute([program(other), isas_here(made)[0], *arguments]))
    threads = program(Flavour(**{**COVERAGE.__dict__, "main": "threads"}))
    digests(execute([threads, isas_here(made)[0], "100"]))


def coverage(options) -> dict:
    need("gcc", "gcov")
    exercise_everything(options)
    known, missed, figures = reasons(), {}, {}
    here = isas_here(program(COVERAGE))
    for file, lines in sorted(counts(COVERAGE.folder, here).items()):
        text = (CSRC / file).read_text().splitlines()
        bad = [n for n, count in lines.items() if not count]
        figures[file] = [len(lines) - len(bad), len(lines)]
        missed |= {
            (file, n): (file, function_around(text, n), text[n - 1].strip()) for n in sorted(bad)
        }
    reached, total = (sum(column) for column in zip(*figures.values(), strict=True))
    print(f"  {reached} of {total} lines of C: {100 * reached / total:.1f} %")
    without = [f"{file}:{n}: {of[2]}" for (file, n), of in missed.items() if of not in known]
    if without or reached < 0.95 * total:
        sys.exit("no case reaches, and tests/uncovered.txt gives no reason:\n" + "\n".join(without))
    if spare := idle(known, missed.values()):
        sys.exit("tests/uncovered.txt excuses what is reached, or not there:\n" + "\n".join(spare))
    return {"lines": total, "reached": reached, "files": figures, "with a reason": len(missed)}


# ---- the command -------------------------------------------------------------------------------

STEPS = {
    f.__name__: f
    for f in (asan, tsan, forks, valgrind, analyzer, emulators, fuzz, coverage)
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument(
        "--cases", type=int, default=600, help="random cases, or forks (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="write docs/reliability/STEP.json")
    options = parser.parse_args()
    for step in options.steps:
        print(f"{step}:", flush=True)
        try:
            figures = STEPS[step](options)
        except Missing as tools:
            print(
                f"  {'*' * 70}\n  {step} IS LEFT OUT: not found: {tools}\n  {'*' * 70}", flush=True
            )
            continue
        if options.record:
            record(step, figures)


if __name__ == "__main__":
    main()
