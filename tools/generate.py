"""Writes what follows from the table but is not made at import: the stub and the docs' tables.

``python tools/generate.py`` writes; with ``--check`` it only says what is out of date and exits 1.
"""

import sys
from pathlib import Path

import stub

import fastact as fa

ROOT = Path(__file__).resolve().parent.parent


def table() -> str:
    lines = ["| activation | parameters | formula | float32 error |", "| --- | --- | --- | --- |"]
    for name, function in [*fa.activations.items(), *fa.gated.items()]:
        parameters = ", ".join(parameter(function, key) for key in function.parameters)
        parameters = "x, gate" if function.gated else parameters
        lines.append(
            f"| `{name}` | {parameters} | `{in_table(function.formula)}` "
            f"| {function.max_ulp:g} ULP |"
        )
    return "\n".join(lines) + "\n"


def in_table(formula: str) -> str:
    """A bar would end the table's cell."""
    return formula.replace("|", r"\|")


def parameter(function: fa.Activation, name: str) -> str:
    if name in function.learned:
        return f"{name} (learned)"
    default = function.parameters[name]
    return f"{name} (required)" if default is None else f"{name}={default:.3g}"


def between_marks(text: str, mark: str, new: str) -> str:
    """The text with what stands between a mark and its end replaced."""
    begin = text.index("\n", text.index(f"<!-- generated: {mark}")) + 1
    end = text.index("<!-- end -->", begin)
    return text[:begin] + "\n" + new + "\n" + text[end:]


def wanted() -> dict[Path, str]:
    readme = ROOT / "README.md"
    return {
        ROOT / "fastact" / "__init__.pyi": stub.text(),
        ROOT / "fastact" / "reference.pyi": stub.reference(),
        readme: between_marks(readme.read_text(), "activations", table()),
    }


def main(arguments: list[str]) -> int:
    stale = [
        (path, text)
        for path, text in wanted().items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        if arguments == ["--check"]:
            print(f"out of date: {path.relative_to(ROOT)}; run python tools/generate.py")
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
