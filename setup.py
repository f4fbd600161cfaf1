"""Builds the extension modules, and puts a bill of materials into the wheel.

The kernels (csrc/isa_*.c) are the same source compiled once per instruction set, each into an
object of its own with its own flags; one is picked at run time.  All C code is linked into one
module, fastact._runtime; the others reach it through the table of functions in csrc/api.h.

FASTACT_NO_OPENMP=1 builds without OpenMP.  On Windows the compiler is clang-cl: the kernels are
written with the vector extensions of gcc and clang.
"""

import os
import platform
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path

import Cython
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
from long_description import long_description
from sbom import write_sbom

# Contraction is off: fused multiply-adds are explicit, so that every instruction set that has them
# gives the same bits.  The last two let loops be vectorised; they change no result.
# -fno-fast-math undoes an inherited -ffast-math; it resets the others too, so it stands first.
NUMERICS = [
    "-O3",
    "-g0",
    "-fno-fast-math",
    "-std=c11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-lto",
    "-fvisibility=hidden",
]
WARNINGS = ["-Wall", "-Wextra"]

X86 = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma",
               "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
    "baseline": [],
}  # fmt: skip
ARM = {"neon": [], "baseline": []}
ISAS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}

C_SOURCES = [
    "activation_cost",
    "api",
    "batchnorm",
    "batchnorm_channels",
    "batchnorm_flat",
    "batchnorm_rows",
    "batchnorm_runs",
    "capi",
    "cgroup",
    "dispatch",
    "elementwise",
    "memory",
    "merge",
    "parallel",
    "pieces_tables",
    "pool",
    "strided",
    "view",
]
MODULES = ["_runtime", "_ufuncs", "_kernels", "_activation", "_quick"]
HEADERS = [
    *(str(path) for kind in ("h", "inc", "def") for path in sorted(Path("csrc").glob(f"*.{kind}"))),
    "fastact/_kernels.pxd",
    "fastact/_runtime.pxd",
    "fastact/include/fastact_capi.h",
]

OPENMP_PROBE = """
#include <omp.h>
int main(void) {
    int n = 0;
#pragma omp parallel reduction(+ : n)
    n += 1;
    return n < 1;
}
"""


# Jump threading makes a path for each side of a clamp, and vectorisation then evaluates them all:
# silu has 174 instructions with it and 127 without (gcc 12, AVX-512). clang does not know the flag.
GCC_ONLY = ["-fno-thread-jumps"]


def isas():
    return ISAS.get(platform.machine().lower(), {"baseline": []})


class BuildExt(build_ext):
    def build_extensions(self):
        self.msvc = self.compiler.compiler_type == "msvc"
        if self.msvc:
            self.use_clang_cl()
        self.openmp = self.probe_openmp()
        built = ", ".join(isas())
        print(f"fastact: instruction sets: {built}; OpenMP: {' '.join(self.openmp) or 'none'}")
        super().build_extensions()

    def use_clang_cl(self):
        """The Windows SDK that setuptools finds, with LLVM's compiler, which takes no /GL."""
        self.compiler.initialize()
        self.compiler.cc = "clang-cl"
        for name in ("compile_options", "compile_options_debug"):
            kept = [flag for flag in getattr(self.compiler, name) if flag != "/GL"]
            setattr(self.compiler, name, kept)

    def compiler_command(self):
        """The words of the command without its flags: CC may be "ccache gcc"."""
        if self.msvc:
            return ["clang-cl"]
        return list(takewhile(lambda word: not word.startswith("-"), self.compiler.compiler_so))

    def spell(self, flags):
        """The flags as the compiler wants them: clang-cl takes clang's behind a prefix."""
        if not self.msvc:
            return list(flags)
        return ["/std:c11" if f == "-std=c11" else f"/clang:{f}" for f in flags]

    def probe_openmp(self):
        """The flags that compile, link and run an OpenMP program; loud where there are none."""
        spellings = [] if self.msvc else [["-fopenmp"], ["-Xpreprocessor", "-fopenmp", "-lomp"]]
        if os.environ.get("FASTACT_NO_OPENMP") == "1":
            spellings = []
        for flags in spellings:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder, "probe.c")
                source.write_text(OPENMP_PROBE)
                program = str(Path(folder, "probe"))
                compiler = [*self.compiler_command(), *flags, str(source), "-o", program]
                try:
                    subprocess.run(compiler, check=True, capture_output=True)
                    subprocess.run([program], check=True, capture_output=True)
                    return flags
                except (OSError, subprocess.CalledProcessError):
                    continue
        if self.msvc or sys.platform == "darwin":
            return []  # the system's own thread pool: see csrc/parallel.c
        bar = "*" * 78
        print(f"{bar}\nfastact: NO OPENMP found: this build runs on ONE thread.\n"
              f"fastact.show_config() will say so.  gcc needs libgomp, clang needs libomp.\n{bar}",
              file=sys.stderr)  # fmt: skip
        return []

    def build_extension(self, ext):
        flags = [*NUMERICS, *WARNINGS, *self.openmp_compile()]
        if ext.name == "fastact._runtime":
            ext.extra_objects = self.compile_isas()
            ext.define_macros += self.build_macros()
        # A generated module is no place for warnings about generated code: those we can do nothing
        # about are off, the rest stay on.
        quiet = ["-Wno-unused-function", "-Wno-unused-parameter"]
        ext.extra_compile_args = self.spell([*flags, *quiet])
        ext.extra_link_args = list(self.openmp)
        super().build_extension(ext)

    def openmp_compile(self):
        return [flag for flag in self.openmp if not flag.startswith("-l")]

    def compile_isas(self):
        objects = []
        for isa, isa_flags in isas().items():
            objects += self.compiler.compile(
                [f"csrc/isa_{isa}.c"],
                output_dir=self.build_temp,
                include_dirs=["csrc"],
                # kernels are serial: no OpenMP in their objects
                extra_postargs=self.spell([*NUMERICS, *WARNINGS, *self.gcc_only(), *isa_flags]),
                depends=HEADERS,
            )
        return objects

    def gcc_only(self):
        version = subprocess.run(
            [*self.compiler_command(), "--version"], capture_output=True, text=True
        )
        return [] if "clang" in version.stdout else GCC_ONLY

    def build_macros(self):
        macros = [(f"FA_HAVE_{isa.upper()}", "1") for isa in isas()]
        compiler = self.compiler_command()[-1].replace('"', "")
        # those of the kernels, which every instruction set's own are added to
        text = " ".join([compiler, *NUMERICS, *self.gcc_only(), *self.openmp])
        return [*macros, ("FA_BUILD_FLAGS", f'"{text}"')]


class BdistWheel(bdist_wheel):
    def write_wheelfile(self, wheelfile_base, *arguments, **named):
        super().write_wheelfile(wheelfile_base, *arguments, **named)
        compiled_in = {"cython": Cython.__version__, "numpy": numpy.__version__}
        version = self.distribution.get_version()
        write_sbom(Path(wheelfile_base, "sboms", "fastact.cdx.json"), version, compiled_in)


def extension(name):
    sources = [f"fastact/{name}.pyx"]
    if name == "_runtime":
        sources += [f"csrc/{source}.c" for source in C_SOURCES]
    return Extension(
        f"fastact.{name}",
        sources,
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                       ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")],
        depends=HEADERS,
    )  # fmt: skip


setup(
    long_description=long_description(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [extension(name) for name in MODULES],
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "embedsignature": False,
        },
        # what Cython writes depends on both versions: another environment's is not to be reused
        build_dir=f"build/cython-{Cython.__version__}-numpy-{numpy.__version__}",
    ),
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
)
