"""What the documentation takes from the package and its records when it is built (see mkdocs.yml).

A line ``<!-- make: NAME ARGUMENT -->`` of a page is replaced by what the function of that name here
writes. Nothing that can go out of date is typed into the pages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import json
import logging
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import griffe
from markdown.extensions.toc import slugify
from mkdocs.structure.pages import Page

import fastact as fa
from fastact.__main__ import COMMANDS, main

logging.getLogger("griffe").setLevel(logging.ERROR)  # some docstrings give no types

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOMETIMES = {
    "How to": ["howto/torch.md", "howto/jax.md"],
    "How good is it?": ["reliability.md"],
}
REPOSITORY_LINKS = {
    "docs/": "",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}


# ---- the gallery -----------------------------------------------------------------------------


def float32_errors() -> dict[tuple[str, bool], float]:
    """{(name, of the derivative): largest error in ULP over all float32} of docs/accuracy.json."""
    rows = json.loads((DOCS / "accuracy.json").read_text())["rows"]
    return {
        (row["name"], row["slope"]): row["max_ulp"]
        for row in rows
        if (row["dtype"], row["of"]) == ("float32", "all") and "bins" in row
    }


def anchor(name: str) -> str:
    """The anchor of a function's heading in definitions.md, which has its parameters in it."""
    text = (DOCS / "definitions.md").read_text()
    heading = re.search(rf"^### ({name}\b.*)$", text, re.MULTILINE)[1]
    return slugify(heading, "-")


def card(name: str, function: fa.Activation, errors: dict) -> str:
    parameters = ", ".join(function.parameters)
    worst = f"{errors[name, False]:.4f} ULP, derivative {errors[name, True]:.4f} ULP"
    return "\n".join(
        [
            '<div markdown="1">',
            f"### {name}{f'({parameters})' if parameters else ''} {{: #{name} }}",
            "",
            f"`{function.formula}`",
            "",
            f"![{name}: value and derivative](pictures/{name}.svg){{ loading=lazy }}",
            "",
            f"![{name}: error of float32 results](pictures/accuracy/{name}.svg){{ loading=lazy }}",
            "",
            f"Largest error {worst}. [Definition](definitions.md#{anchor(name)})",
            "",
            "</div>",
        ]
    )


def gallery() -> str:
    errors = float32_errors()
    cards = [card(name, function, errors) for name, function in fa.activations.items()]
    return "\n".join(['<div class="gallery" markdown="1">', *cards, "</div>"])


def gated_card(name: str, function: fa.Activation) -> str:
    return "\n".join(
        [
            '<div markdown="1">',
            f"### {name}(x, gate) {{: #{name} }}",
            "",
            f"`{function.formula}`",
            "",
            f"![{name}: value and gradient](pictures/{name}.svg){{ loading=lazy }}",
            "",
            "</div>",
        ]
    )


def gated() -> str:
    head = ["| function | formula | promised float32 error |", "| --- | --- | --- |"]
    rows = [f"| `{n}(x, gate)` | `{f.formula}` | {f.max_ulp:g} ULP |" for n, f in fa.gated.items()]
    cards = [gated_card(name, function) for name, function in fa.gated.items()]
    gallery = ['<div class="gallery" markdown="1">', *cards, "</div>"]
    return "\n".join([*head, *rows, "", *gallery])


# ---- the reference ---------------------------------------------------------------------------


def of_docstring(text: str) -> str:
    """A NumPy-style docstring as Markdown."""
    return "\n\n".join(of_section(s) for s in griffe.Docstring(text).parse("numpy"))


def of_section(section: griffe.DocstringSection) -> str:
    kind, value = section.kind.value, section.value
    if kind == "text":
        return re.sub(r"^>>>.+(?:\n.+)*", r"```pycon\n\g<0>\n```", value, flags=re.MULTILINE)
    if kind == "examples":
        return "\n".join(["```pycon", *(lines for _, lines in value), "```"])
    if kind == "admonition":
        return value.description
    said = ((item, one_line(describe(item))) for item in value)
    if kind in ("returns", "raises", "yields"):
        return "\n\n".join(f"*{kind.title()}*: {text}" for _, text in said)
    # parameters, attributes: what is said of several at once is said once
    groups = itertools.groupby(said, lambda pair: pair[1])
    lines = [f"- **{names(items)}**: {text}" for text, items in groups]
    return "\n".join((["Attributes:", ""] if kind == "attributes" else []) + lines)


def names(items: Iterable[tuple[griffe.DocstringNamedElement, str]]) -> str:
    return ", ".join(item.name for item, _ in items).replace("*", r"\*")


def describe(item: griffe.DocstringElement) -> str:
    kind = getattr(item, "annotation", None)
    return ". ".join(filter(None, (str(kind) if kind else "", item.description)))


def one_line(text: str) -> str:
    return " ".join(str(text).split())


def api(*names: str) -> str:
    """Functions and classes of fastact, with their public methods, from the docstrings."""
    parts = []
    for name in names:
        thing = functools.reduce(getattr, name.split("."), fa)
        parts += [f"## {name} {{: #{name} }}", ""]
        if not inspect.ismodule(thing):
            parts += ["```py", f"fastact.{name}{arguments(thing)}", "```", ""]
        parts += [of_docstring(inspect.getdoc(thing)), ""]
        if inspect.isclass(thing):
            parts += methods(thing)
        if inspect.ismodule(thing):
            members = [n for n in thing.__all__ if inspect.getdoc(getattr(thing, n))]
            parts.append(api(*(f"{name}.{member}" for member in members)).replace("## ", "### "))
    return "\n".join(parts)


def methods(cls: type) -> list[str]:
    parts = []
    for name, member in vars(cls).items():
        if name[0] != "_" and callable(member) and inspect.getdoc(member):
            parts += [
                f"### {cls.__name__}.{name}",
                "",
                "```py",
                f"{name}{arguments(member)}",
                "```",
            ]
            parts += ["", of_docstring(inspect.getdoc(member)), ""]
    return parts


def arguments(thing: object) -> str:
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        return ""  # made by the package, not by its users
    return in_parentheses(inspect.signature(thing).parameters.values())


def in_parentheses(parameters: Iterable[inspect.Parameter]) -> str:
    """A signature as a reader wants it: private parameters and types are left out."""
    parameters = [
        p.replace(annotation=p.empty)
        for p in parameters
        if p.name[0] != "_" and p.name not in ("self", "cls")
    ]
    text = re.sub(r"<class '([\w.]+)'>", r"\1", str(inspect.Signature(parameters)))
    return "\n    ".join(textwrap.wrap(text, 72))


def signature(name: str, function: fa.Activation, backward: bool) -> str:
    data = ["dy", "x"] if backward else ["x"]
    data += ["gate"] if function.gated else []
    given = [p if d is None else f"{p}={d:.4g}" for p, d in function.parameters.items()]
    return f"{name}{'.backward' if backward else ''}({', '.join([*data, *given])})"


def activations() -> str:
    parts = []
    for name, function in {**fa.activations, **fa.gated}.items():
        parts += [f"## {name}", "", f"`{signature(name, function, False)}`", ""]
        parts += [of_docstring(function.__doc__), ""]
        parts += [f"**`{signature(name, function, True)}`**", ""]
        parts += [of_docstring(function.backward.__doc__), ""]
    return "\n".join(parts)


# ---- the reference of packages that need not be installed -------------------------------------


def package(name: str) -> str:
    """The public names of fastact.torch or fastact.jax, from their source."""
    module = griffe.load("fastact", search_paths=[ROOT], allow_inspection=False)[name]
    parts = [of_docstring(module.docstring.value), "", "## Activations", ""]
    for each, function in {**fa.activations, **fa.gated}.items():
        parts.append(f"- [`{signature(each, function, False)}`](activations.md#{each})")
    for public in module.exports:
        heading = f"## {public} {{: #{public} }}"
        parts += ["", *in_source(heading, f"fastact.{name}.", module[public])]
    return "\n".join(parts)


def in_source(heading: str, prefix: str, thing: griffe.Object | griffe.Alias) -> list[str]:
    thing = thing.final_target if thing.is_alias else thing
    text = docstring_in_source(thing)
    if not text:
        raise LookupError(f"{thing.path} is public and has no docstring")
    made = "dataclass" in thing.labels  # by the package, not by its users
    shown = "" if made else in_parentheses(parameters_in_source(thing))
    parts = [heading, "", "```py", f"{prefix}{thing.name}{shown}", "```"]
    parts += ["", of_docstring(text), ""]
    for name, member in thing.all_members.items() if thing.is_class else ():
        if name[0] != "_" and member.is_function and member.docstring:
            parts += in_source(f"### {thing.name}.{name}", "", member)
    return parts


def docstring_in_source(thing: griffe.Object) -> str:
    if thing.docstring:
        return thing.docstring.value
    made = thing.members.get("__doc__")  # of a template
    return inspect.cleandoc(Constants(thing.module).value(made.value)) if made else ""


def parameters_in_source(thing: griffe.Object) -> Iterator[inspect.Parameter]:
    constants = Constants(thing.module)
    for p in thing.parameters:
        kind = getattr(inspect.Parameter, p.kind.name.upper())
        has_default = p.default is not None and "var_" not in p.kind.name
        default = constants.value(p.default) if has_default else inspect.Parameter.empty
        yield inspect.Parameter(p.name, kind, default=default)


class Constants(dict):
    """What the names of a module stand for, computed when one is asked for."""

    def __init__(self, module: griffe.Module) -> None:
        super().__init__(fa=fa)
        self.module = module

    def value(self, expression: object) -> object:
        return eval(str(expression), {}, self)

    def __missing__(self, name: str) -> object:
        return self.value(self.module[name].value)


def commands() -> str:
    parts = []
    for name in COMMANDS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([name, "--help"])
        parts += [f"## {name}", "", "```text", out.getvalue().rstrip(), "```", ""]
    return "\n".join(parts)


def header() -> str:
    text = Path(fa.get_include(), "fastact_capi.h").read_text()
    return f"```c\n{text.rstrip()}\n```"


# ---- the demo's comparison -------------------------------------------------------------------


def demo() -> str:
    run = json.loads((DOCS / "demo.json").read_text())
    head = ["activation", "test accuracy", "last loss", "dead units", "ms/epoch", "NumPy, ms/epoch"]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for r in sorted(run["results"], key=lambda r: -r["accuracies"][-1]):
        name = r["activation"] + (" (linear)" if r["linear"] else "")
        stand_in = "" if r["textbook"] else " *"
        lines.append(
            f"| {name} | {r['accuracies'][-1]:.2%} | {r['losses'][-1]:.4f} | {r['dead']:.1%} | "
            f"{1e3 * r['fastact_seconds']:.1f} | {1e3 * r['numpy_seconds']:.1f}{stand_in} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{run['epochs']} epochs, seed {run['seed']}, fastact {run['fastact']}, {run['isa']}, "
            "one thread; `python -m fastact demo --json` wrote it, to `docs/demo.json`. An epoch's "
            "time includes the matrix products, which are NumPy's on both sides. *: no plain NumPy "
            "expression at hand; the time is that of fastact.reference, in float64.",
        ]
    )


# ---- other frameworks ------------------------------------------------------------------------


def jax_calls() -> str:
    """The table of bench/jax_calls.py's record."""
    run = json.loads((DOCS / "performance" / "jax" / "calls.json").read_text())
    contenders = list(run["rows"][0]["times"])
    head = ["", "shape", *(f"{name}, us" for name in contenders), "jax / fastact.jax"]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- " + "| ---: " * len(head[2:]) + "|"]
    for row in run["rows"]:
        times = {name: 1e6 * row["times"][name][0] for name in contenders}
        shape = " x ".join(map(str, row["shape"]))
        shown = " | ".join(f"{time:.1f}" for time in times.values())
        ratio = times["jax"] / times["fastact.jax"]
        lines.append(f"| {row['what']}, {row['mode']} | {shape} | {shown} | {ratio:.2f} |")
    return "\n".join([
        *lines, "",
        f"Medians of {run['rounds']} rounds on {run['machine']['cpu']}, {run['config']['isa']}, "
        f"{run['config']['threads']} threads, jax {run['jax']}, float32: `bench/jax_calls.py`. "
        "jax: its own functions, jitted; fastact: the call on NumPy arrays, without jax.",
    ])  # fmt: skip


def resnet() -> str:
    """The picture and the table of bench/resnet_torch.py's record."""
    run = json.loads((DOCS / "performance" / "torch" / "resnet.json").read_text())
    head = ["layout", "images", "", "images/s", "beside eager", "peak memory, MiB"]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- " + "| ---: " * 3 + "|"]
    for row in run["rows"]:
        eager = next(r["images_per_second"] for r in run["rows"] if r["variant"] == "eager"
                     and (r["layout"], r["batch"], r["size"]) ==
                     (row["layout"], row["batch"], row["size"]))  # fmt: skip
        speed, peak = row["images_per_second"], row["peak_bytes"]
        memory = "" if peak is None else f"{peak / 2**20:.0f}"
        lines.append(
            f"| {row['layout']} | {row['batch']} of {row['size']} x {row['size']} | "
            f"{row['variant']} | {speed:.1f} | {speed / eager:.2f} | {memory} |"
        )
    return "\n".join([
        "![images a second](../pictures/performance/resnet.png)", "", *lines, "",
        "A training step (forward, cross entropy, backward, SGD with momentum) of a ResNet-18, "
        f"float32; medians of interleaved rounds on {run['machine']['cpu']}, "
        f"{run['config']['isa']}, {run['config']['threads']} threads, torch {run['torch']}: "
        "`bench/resnet_torch.py`. Most of a step is convolution, which is torch's in all of them.",
    ])  # fmt: skip


# ---- files of the repository -----------------------------------------------------------------


def include(name: str) -> str:
    """A Markdown file of the repository's root, as a page of the folder project/."""
    text = (ROOT / name).read_text()
    for old, new in REPOSITORY_LINKS.items():
        text = text.replace(f"]({old}", f"](../{new}")
    return text


MAKERS = {
    maker.__name__: maker
    for maker in (
        gallery,
        gated,
        activations,
        api,
        package,
        commands,
        header,
        demo,
        jax_calls,
        resnet,
        include,
    )
}


def on_config(config: dict) -> dict:
    """mkdocs calls this first: pages that only some builds have join the navigation."""
    for section in config["nav"]:
        for title, pages in section.items() if isinstance(section, dict) else ():
            pages += [page for page in SOMETIMES.get(title, ()) if (DOCS / page).exists()]
    return config


def outside(markdown: str, page: Path) -> str:
    """Links to files of the repository that are no pages become their names."""

    def named(match: re.Match) -> str:
        target = (page.parent / match[2]).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT) or not target.exists():
            return match[0]
        name = target.relative_to(ROOT)
        return match[1] if match[1].strip("`") == str(name) else f"{match[1]} (`{name}`)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#:]+)(?:#[^)]*)?\)", named, markdown)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """mkdocs calls this for each page."""

    def made(match: re.Match) -> str:
        name, *arguments = match[1].split()
        return MAKERS[name](*arguments)

    text = re.sub(r"^<!-- make: (.+?) -->$", made, markdown, flags=re.MULTILINE)
    return outside(text, Path(page.file.abs_src_path))
