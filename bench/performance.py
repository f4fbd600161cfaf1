"""docs/performance.md, its pictures and the README's table, from the records in docs/performance/.

    python bench/performance.py            write them (pictures need matplotlib)
    python bench/performance.py --check    only say what is out of date; exit status 1
    python bench/performance.py --record   first measure everything; an interrupted run goes on
    python bench/performance.py --record --seconds 40   in pieces: exit status 3 until it is whole

A record belongs to one build: with another, measuring begins anew. The compiler of torch keeps what
it compiled (TORCHINDUCTOR_CACHE_DIR), so the first run takes some ten minutes longer than others.
docs/performance/reasons.toml says why a cell is lost. Each [[lost]] has a `why` and the keys of the
rows that it explains, with a value or a list of them, besides `suite` and `against`; the first that
fits a cell counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import fastact as fa
from fastact._bench import charts, names, report
from fastact._bench.suite import MORE, OWN, pretty

ROOT = Path(__file__).resolve().parent.parent
RECORDS, PAGE = ROOT / "docs" / "performance", ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "pictures" / "performance"
README, BEGIN, END = ROOT / "README.md", "<!-- generated: performance", "<!-- end -->"
REASONS = RECORDS / "reasons.toml"
UNEXPLAINED = "not looked into yet"
AVX2_PEERS = "numpy,scipy,numexpr,torch,jax"
RUNS = (
    [],
    ["elementwise", "--isa", "avx2", "--against", AVX2_PEERS],
    ["batchnorm", "--isa", "avx2", "--against", "torch,jax"],
)
COMPARED = ("elementwise", "batchnorm", "onednn", "calls")  # the suites in which cells can be lost


# ---- measuring -------------------------------------------------------------------------------


def record(folder: Path, seconds: float | None) -> int:
    """Run all suites; 0, 1 (a result is wrong) or 3 (the time was up)."""
    end = time.monotonic() + (float("inf") if seconds is None else seconds)
    for run in RUNS:
        if "avx2" in run and fa.config()["isa"] == "avx2":
            continue  # the first run is that
        left = [] if seconds is None else ["--seconds", f"{max(0.0, end - time.monotonic()):.1f}"]
        options = [*run, "--out", str(folder), "--resume", "--no-pictures", *left]
        command = [sys.executable, "-m", "fastact", "bench", *options]
        if status := subprocess.run(command, check=False).returncode:
            return status
    return 0


# ---- tables ----------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def times_over(row: dict, name: str) -> str:
    if name not in row["times"]:
        return ""
    ratio = report.ratio(row, name)
    return (
        f"**{charts.number(ratio)}**"
        if ratio < 1 and report.is_peer(name)
        else charts.number(ratio)
    )


def steps(records: report.Records, activation: str) -> str:
    """A line a shape: the training step, what the others take in units of it, the floor."""
    rows = report.rows_of(
        records, "batchnorm", lambda r: r["mode"] == "step" and r["activation"] == activation
    )
    peers = report.peers_of(rows)
    floors = [f for f in (report.FLOOR, report.LAYOUT_FLOOR) if any(f in r["times"] for r in rows)]
    head = ["shape, layout", "fastact", *map(charts.label, peers), *(f"{f}" for f in floors)]
    body = [
        [f"{r['shape']} {r['layout']}", pretty(r["times"][OWN].median),
         *(times_over(r, name) for name in (*peers, *floors))]
        for r in rows
    ]  # fmt: skip
    return table(head, body)


def means(records: report.Records) -> str:
    body = []
    for name, mode, rows in modes(records):
        for peer in report.peers_of(rows):
            values = report.ratios(rows, peer)
            count = sum(v < 1 for v in values)
            mean = charts.number(report.geometric_mean(values))
            worst = charts.number(min(values))
            body.append([name, mode, charts.label(peer), mean, worst, f"{count} of {len(values)}"])
    return table(["suite", "mode", "against", "mean", "worst", "lost"], body)


def modes(records: report.Records) -> Iterator[tuple[str, str, list[dict]]]:
    for name, data in records.items():
        if name.split("-")[0] in COMPARED:
            for mode in dict.fromkeys(row["mode"] for row in data["rows"]):
                yield name, mode, [row for row in data["rows"] if row["mode"] == mode]


def targets(records: report.Records) -> str:
    marks = {True: "met", False: "**missed**", None: ""}
    body = [[t.what, t.wanted, t.reached, marks[t.met]] for t in report.targets(records)]
    return table(["", "wanted", "reached", ""], body)


def spread(records: report.Records) -> str:
    """How much the rounds of a cell differ, as a share of its median."""
    rows = [row for data in records.values() for row in data["rows"] if "times" in row]
    shares = sorted((t.high - t.low) / t.median for row in rows for t in row["times"].values())
    middle, tail = (shares[int(q * (len(shares) - 1))] for q in (0.5, 0.95))
    return (f"The quartiles of a cell lie {middle:.0%} of the median apart in the middle, "
            f"{tail:.0%} in the worst twentieth.")  # fmt: skip


def lost(records: report.Records) -> str:
    reasons = tomllib.loads(REASONS.read_text()).get("lost", [])
    cells = [
        (name, *cell) for name, data in records.items() if name.split("-")[0] in COMPARED
        for cell in report.lost(data["rows"])
    ]  # fmt: skip
    if not cells:
        return "No cell is lost.\n"
    body = [
        [name, report.describe(row), charts.label(peer), f"{ratio:.2f}",
         reason(reasons, row | {"suite": name, "against": peer})]
        for name, row, peer, ratio in cells
    ]  # fmt: skip
    return table(["suite", "cell", "against", "ratio", "why"], body)


def reason(reasons: list[dict], cell: dict) -> str:
    for entry in reasons:
        wanted = {key: value for key, value in entry.items() if key != "why"}
        if all(cell.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items()):
            return entry["why"]
    return UNEXPLAINED


def scaling(records: report.Records) -> str:
    body = []
    for row in report.rows_of(records, "scaling"):
        others = ", ".join(f"{name} {charts.number(report.ratio(row, name))}"
                           for name in row["times"] if name != OWN)  # fmt: skip
        what = report.describe({k: v for k, v in row.items() if k != "question"})
        body.append([row["question"], what, pretty(row["times"][OWN].median), others])
    return table(["question", "work", "fastact", "in units of it"], body)


def memory(records: report.Records) -> str:
    rows = report.rows_of(records, "memory")
    sides = list(dict.fromkeys(side for row in rows for side in row["arrays"]))
    body = [
        [row["question"], row["shape"], row["mode"],
         *(f"{row['arrays'][s]:.2f}" if s in row["arrays"] else "" for s in sides)]
        for row in rows
    ]  # fmt: skip
    return table(["what", "x", "", *map(charts.label, sides)], body)


def calls(records: report.Records) -> str:
    rows = report.rows_of(records, "calls")
    peers = report.peers_of(rows)
    body = [
        [
            report.describe(row),
            pretty(row["times"][OWN].median),
            *(times_over(row, p) for p in peers),
        ]
        for row in rows
    ]
    return table(["call", "fastact", *map(charts.label, peers)], body)


# ---- the page --------------------------------------------------------------------------------

INTRODUCTION = """# Performance

How fast fastact is, beside others and beside the floor: what it costs to move the memory that has
to be moved. This page, its pictures and the README's table are made by `bench/performance.py` from
records ({files}); on your own machine, `python -m fastact bench --html` makes one like it.

{machines}

Machines are shared: read the ratios.

- A ratio is another's time over fastact's: above 1 fastact is faster, and a cell is *lost* (in
  bold) where it is below 1. Both are medians of {rounds} rounds in which all take turns, of {more}
  where the two are within a tenth of each other. {spread}
- float32. "plain" is a call as users write it, a new result each; "out" writes into an existing
  array. torch's backward is `torch.autograd.grad` on a recorded forward that is not timed, jax's
  the jitted vector-Jacobian product. Everybody's result is held to `fastact.reference` first.
- The floor: {floor}, on all threads, in the same run. Forward: a copy. Backward: an add (two reads,
  one write). Training step: both, one after the other. *Layout floor*: where channels lie side by
  side and the array exceeds the cache, x has to be read again when the statistics are known, and dy
  and x again when their sums are; these reads are counted there.
- Compared: {peers}.{left_out}
"""


def machines(records: report.Records) -> str:
    """What was measured where."""
    found: dict[str, list[str]] = {}
    for name, data in records.items():
        machine, config = data["machine"], data["config"]
        words = (
            f"{machine['cpu']}, {machine['cores']} cores ({machine['caches']}), "
            f"{machine['memory_bytes'] / 2**30:.0f} GiB; {machine['system']}, Python "
            f"{machine['python']}, NumPy {machine['numpy']}; fastact {config['version']} with "
            f"{config['isa']} and {config['threads']} threads; {data['when'][:10]}."
        )
        found.setdefault(words, []).append(name)
    return "\n".join(f"- {', '.join(which)}: {words}" for words, which in found.items())


def introduction(records: report.Records) -> str:
    data = records["batchnorm"]
    versions = {k: v for d in records.values() for k, v in d["peers"].items()}
    left_out = {k: v for d in records.values() for k, v in d["skipped"].items()}
    words = "\n- Left out: " + "; ".join(f"{k} ({v})" for k, v in left_out.items()) + "."
    return INTRODUCTION.format(
        files=", ".join(f"[{name}](performance/{name}.json)" for name in records),
        machines=machines(records),
        rounds=data["rounds"], more=MORE * data["rounds"],
        spread=spread(records), floor=data["floor"],
        peers=", ".join(f"{charts.label(k)} {v}" for k, v in versions.items()),
        left_out=words if left_out else "",
    )  # fmt: skip


def picture(name: str, alternative: str) -> str:
    return f"![{alternative}](pictures/performance/{name}.png)\n"


def page(records: report.Records) -> str:
    parts = [introduction(records), "## Targets\n", targets(records), "## BatchNorm + activation\n"]
    parts.append(picture("steps", "training steps as shares of the floor's speed"))
    for name in names.BATCH_NORM:
        parts += [f"A training step with {name}; the others in units of fastact's time:\n"]
        parts.append(steps(records, name))
    for name in report.named(records, "batchnorm"):
        for peer in report.peers_of(records[name]["rows"]):
            alternative = f"{records[name]['isa']}: ratios of {charts.label(peer)}"
            parts.append(picture(f"{name}-{peer}", alternative))
    parts.append("## Activations\n")
    for name in report.named(records, "elementwise"):
        isa = records[name]["isa"]
        for which in ("plain", "out"):
            parts.append(picture(f"{name}-ratios-{which}", f"{isa}, {which}: ratios"))
        for mode in ("forward", "backward"):
            parts.append(picture(f"{name}-{mode}", f"{isa}: {mode}, speed against size"))
    parts += ["## All means\n", means(records), "## Calls\n", calls(records)]
    parts += ["## Scaling\n", scaling(records)]
    parts += ["## Memory, in arrays of x's size\n", memory(records)]
    parts += ["## Lost cells\n", lost(records)]
    return "\n".join(parts)


def readme(records: report.Records) -> str:
    before, rest = README.read_text().split(BEGIN, 1)
    mark, rest = rest.split("\n", 1)
    after = rest.split(END, 1)[1]
    words = (
        f"A training step of BatchNorm + {names.PICTURED}; the others in units of fastact's time:"
    )
    shown = f"![training steps](docs/pictures/performance/steps.png)\n\n{words}\n"
    return f"{before}{BEGIN}{mark}\n\n{shown}\n{steps(records, names.PICTURED)}\n{END}{after}"


def draw(records: report.Records) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, figure in charts.all_of(records):
        (PICTURES / f"{name}.png").write_bytes(charts.png(figure))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--record", action="store_true", help="measure first")
    parser.add_argument("--seconds", type=float, metavar="S", help="measure for about S seconds")
    parser.add_argument("--records", type=Path, metavar="DIR", default=RECORDS,
                        help="where the records are (default: docs/performance)")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.record and (status := record(arguments.records, arguments.seconds)):
        return status
    return write(report.load(arguments.records), arguments.check)


def write(records: report.Records, only_check: bool) -> int:
    wanted = {PAGE: page(records), README: readme(records)}
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text() != text]
    if only_check:
        for path in stale:
            print(f"out of date: {path.relative_to(ROOT)}; run python bench/performance.py")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text)
    draw(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
