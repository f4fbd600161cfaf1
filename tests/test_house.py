"""The rules of the house: one place that names the activations, honest flags, clean machine code.

*Names.* An activation's name may occur in the table, the C bodies, the reference, tests/oracle.py
and generated text only. Elsewhere it may occur in comments and docstrings, which are stripped here,
and as mathematics: `np.tanh` and the like, and in vmath.h, pairs.h and working.h, which are about
functions of C's maths library, a name of Python's `math`. What is left of C, Cython and Python is
searched for the name between anything but letters and digits, so `fa_NAME_value` counts too.
"""

import ast
import io
import math
import platform
import re
import shutil
import subprocess
import sys
import tokenize

import pytest
from conftest import NAMES, ROOT, once

import fastact as fa
from fastact import _runtime

pytestmark = once

ALLOWED = {
    "csrc/activations.def", "csrc/activations.h", "csrc/inverses.h", "fastact/reference.py",
    "fastact/_randomized.py", "fastact/torch/_randomized.py",
    # oracles: they state the definitions once more, independently, as the reference does
    "tests/oracle.py", "bench/oracle.h", "bench/oracle.c",
    # what other libraries call them, and the few that a benchmark picks
    "fastact/_bench/names.py", "tests/test_torch_fuse.py", "tests/typed_uses.py",
}  # fmt: skip
FOREIGN = (
    "rrelu_training",  # a public function of its own: no row could say it
    "fuse_norm_relu",  # a flag of oneDNN's interface
)
MATHS = {
    "csrc/vmath.h",
    "csrc/pairs.h",
    "csrc/pieces_tables.c",
    "csrc/pieces_tables.h",
    "csrc/working.h",
    "fastact/torch/_composed.py",
    "fastact/_formula.py",
    "fastact/jax/_activations.py",
}
FOLDERS = {
    "csrc": "c h inc",
    "fastact": "py pyx pxd",
    "fastact/_bench": "py c cpp",
    "fastact/torch": "py",
    "fastact/jax": "py",
    "bench": "py c h",
    "tests": "py",
}


def without_c_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def without_comments(text):
    """Python or Cython less comments and docstrings (strings that are statements)."""
    kept, last = [], tokenize.NEWLINE
    layout = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        statement = last in (tokenize.NEWLINE, tokenize.ENCODING)
        if token.type not in layout:
            if not (token.type == tokenize.STRING and statement):
                kept.append(token.string)
            last = token.type
    return "\n".join(kept)


def mentions(path, text):
    """The activations' names in the code of a file."""
    code = (
        without_comments(text) if path.endswith(("py", "pyx", "pxd")) else without_c_comments(text)
    )
    code = re.sub(r"\b(np|numpy|math|gc|torch)(\s*\.\s*\w+)+", "", code)
    for word in FOREIGN:
        code = code.replace(word, "")
    names = [n for n in NAMES if not (path in MATHS and hasattr(math, n))]
    return [n for n in names if re.search(rf"(?<![A-Za-z0-9]){n}(?![A-Za-z0-9])", code)]


def sources():
    yield "setup.py"
    for folder, kinds in FOLDERS.items():
        for kind in kinds.split():
            yield from (str(p.relative_to(ROOT)) for p in sorted((ROOT / folder).glob(f"*.{kind}")))


@pytest.mark.parametrize("path", [p for p in sources() if p not in ALLOWED])
def test_no_name_outside_the_table(path):
    assert mentions(path, (ROOT / path).read_text()) == []


def test_the_search_finds_a_planted_name():
    name = NAMES[-1]
    for path, text in (
        ("a.py", f'x = "{name}"'), ("a.py", f"fa.{name}(x)"), ("a.pyx", f"cdef f_{name}_x(): pass"),
        ("a.c", f"int fa_{name}_value;"), ("a.c", f'strcmp(a, "{name}")'),
    ):  # fmt: skip
        assert name in mentions(path, text)
    for path, text in (
        ("a.py", f'"""{name}"""\nx = 1  # {name}'),
        ("a.c", f"/* {name} */ // {name}"),
    ):
        assert mentions(path, text) == []


def left_by_a_tool(name):
    """Caches and the like lie in hidden folders; of these two are ours."""
    first = name.split("/")[0]
    return "/." in name or (first.startswith(".") and first not in (".ci", ".github", ".gitignore"))


def test_nothing_that_a_tool_left_is_kept():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split()
    assert "setup.py" in names
    assert [name for name in names if left_by_a_tool(name)] == []
    assert left_by_a_tool(".mypy_cache/3.12/cache.0.db")


def test_no_flag_that_changes_the_numbers():
    flags = [
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    shipped = {word for f in flags if f.startswith("-") for word in f.split()}
    shipped |= set(fa.config()["build_flags"].split())
    forbidden = {"-ffast-math", "-Ofast", "-march=native", "-funsafe-math-optimizations"}
    forbidden |= {"-mtune=native", "-ffp-contract=fast", "-fassociative-math", "-flto"}
    assert not shipped & forbidden
    assert {"-ffp-contract=off", "-O3"} <= shipped


# ---- machine code ----------------------------------------------------------------------------

x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux",
    reason="reads x86-64 ELF",
)
tools = pytest.mark.skipif(
    not (shutil.which("objdump") and shutil.which("nm") and shutil.which("gcc")),
    reason="needs objdump, nm and gcc",
)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def machine_code():
    """{source file: {function: instructions}} of the built module."""
    owner, source = {}, None
    for line in run("objdump", "-t", _runtime.__file__).splitlines():
        fields = line.split()
        if " df *ABS*" in line:
            source = fields[-1]
        elif " F .text" in line:
            owner[int(fields[0], 16)] = (source, fields[-1])
    if not any(name.startswith("fa_") for _, name in owner.values()):
        pytest.skip("the module is stripped")
    code, body = {}, None
    for line in run("objdump", "-d", "--no-show-raw-insn", _runtime.__file__).splitlines():
        if head := re.match(r"([0-9a-f]+) <", line):
            source, name = owner.get(int(head[1], 16), ("?", "?"))
            body = code.setdefault(source, {}).setdefault(name, [])
        elif body is not None and ":\t" in line:
            body.append(line.split(":\t", 1)[1])
    return code


@x86
@tools
@pytest.mark.parametrize("isa", [i for i in fa.config()["isas_built"] if i != "baseline"])
def test_every_kernel_is_vectorised_and_calls_no_libm(machine_code, isa):
    functions = machine_code[f"isa_{isa}.c"]
    wide = "%zmm" if isa == "avx512" else "%ymm"
    kernels = [n for n in functions if re.search(r"_(forward|backward|param_gradient)_[UV]", n)]
    kernels += [n for n in functions if re.search(r"normalize|apply|block_|group_", n)]
    assert len(kernels) > 4 * len(NAMES)
    packed = re.compile(r"\bv(fn?m\w+|add|sub|mul|div|max|min|and|mov\w*)[pd]?[sd]?\w*\b")
    for name in kernels:
        body = functions[name]
        if alias := re.fullmatch(
            r"jmp +\w+ <(\w+)>", body[0]
        ):  # the compiler merges equal functions
            assert alias[1] in kernels
            continue
        assert any(wide in line and packed.search(line) for line in body), f"{name}: not vectorised"
        called = [line for line in body if line.startswith(("call", "jmp")) and "@plt" in line]
        assert all(re.search(r"<mem(cpy|set)|stack_chk", line) for line in called), (name, called)


# in 128-bit registers too, and the scalar ones that come with AVX2
BEYOND_BASELINE = re.compile(
    r"v\w+ .*%[xyz]mm|vzero|k\w+ .*%k\d|(s[ah][lr]x|rorx|mulx|andn|pdep|pext|bzhi|bls\w+|bextr) "
)


@x86
@tools
def test_no_avx_outside_its_object(machine_code):
    assert "isa_baseline.c" in machine_code
    assert any(BEYOND_BASELINE.match(line) for line in ("vaddss %xmm0,%xmm1,%xmm2", "vzeroupper"))
    for source, functions in machine_code.items():
        if source not in ("isa_avx2.c", "isa_avx512.c"):
            for name, body in functions.items():
                assert not list(filter(BEYOND_BASELINE.match, body)), (source, name)
    avx2 = machine_code.get("isa_avx2.c", {})
    assert not any("%zmm" in line for body in avx2.values() for line in body)


@x86
@tools
def test_an_object_exports_one_symbol(tmp_path):
    tree = ast.parse((ROOT / "setup.py").read_text())
    x86_flags = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "X86"
    )
    for isa, flags in x86_flags.items():
        built = tmp_path / f"{isa}.o"
        source = ROOT / "csrc" / f"isa_{isa}.c"
        plainly = ["-O0", "-Dalways_inline=unused"]  # which takes half as long
        run("gcc", *plainly, "-std=c11", *flags, "-c", str(source), "-o", str(built))
        exported = run("nm", "-g", "--defined-only", str(built)).split()
        assert exported[2::3] == [f"fa_isa_{isa}"]


# ---- without the compiled part ---------------------------------------------------------------


def test_the_reference_needs_no_compiled_part(tmp_path):
    (tmp_path / "fastact").mkdir()
    for path in (ROOT / "fastact").glob("*.py"):
        shutil.copy(path, tmp_path / "fastact")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
# an editable installation would find the modules that are missing here
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
import fastact.reference
assert fastact.__file__.startswith({str(tmp_path)!r})
assert float(fastact.reference.{NAMES[0]}(2.0)) == 2.0
try:
    fastact.{NAMES[-1]}
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pip install" in done.stdout
    assert "reference" in done.stdout
