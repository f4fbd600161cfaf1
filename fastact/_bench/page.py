"""One self-contained HTML page of the records: targets, ratios, pictures, lost cells, the machine.

It is made for a phone's width first: one column, tables that scroll by themselves, a picture a
panel. Without matplotlib the pictures are missing and the page says so.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastact._bench import charts, report
from fastact._bench.timing import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { --ink: #1b1f24; --soft: #5d6672; --line: #dfe3e8; --back: #fff; --own: #d55e00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a3abb5; --line: #3a4048; --back: #15181c; }
  img { background: #fff; border-radius: 4px; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
       max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p, dd { color: var(--soft); margin: .3rem 0; } dt { font-weight: 600; } dl { font-size: .9rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .35rem; border-bottom: 1px solid var(--line); text-align: left; }
td:last-child { white-space: nowrap; }
table.heat td { text-align: right; color: #000; border: 1px solid var(--back); min-width: 3rem; }
table.heat td.lost { font-weight: 700; } table.heat td.dark { color: #fff; }
table.heat th { white-space: nowrap; position: sticky; left: 0; background: var(--back); }
.yes { color: #0a7d33; font-weight: 600; } .no { color: #c9252d; font-weight: 600; }
.panels { display: grid; gap: .75rem;
          grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
img { width: 100%; height: auto; display: block; }
summary { cursor: pointer; padding: .4rem 0; font-weight: 600; }
"""
SHOWN = 60  # lost cells that are listed


def text(value: object) -> str:
    return html.escape(str(value))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML already."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def section(title: str, *parts: str) -> str:
    return f"<h2>{text(title)}</h2>" + "".join(parts)


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


# ---- sections --------------------------------------------------------------------------------


def targets(records: report.Records) -> str:
    marks = {True: '<span class="yes">met</span>', False: '<span class="no">missed</span>',
             None: "not measured"}  # fmt: skip
    rows = [[text(t.what), text(t.wanted), text(t.reached), marks[t.met]]
            for t in report.targets(records) if t.met is not None]  # fmt: skip
    return section("Targets", table(["", "wanted", "reached", ""], rows))


def means(records: report.Records) -> str:
    rows = []
    for name, data in [item for item in records.items() if has_peers(item[0])]:
        for mode in dict.fromkeys(row["mode"] for row in data["rows"] if "times" in row):
            chosen = [row for row in data["rows"] if row["mode"] == mode]
            for peer in report.peers_of(chosen):
                values = report.ratios(chosen, peer)
                lost = sum(value < 1 for value in values)
                mark = "no" if lost else "yes"
                rows.append([
                    text(f"{name} {mode}"), text(charts.label(peer)),
                    charts.number(report.geometric_mean(values)),
                    f'<span class="{mark}">{lost}</span>&thinsp;/&thinsp;{len(values)}',
                ])  # fmt: skip
    words = (
        "A peer's time over fastact's, geometric mean of the cells, and the cells that are lost."
    )
    return section("Against the others", paragraph(words),
                   table(["cells", "against", "mean", "lost"], rows))  # fmt: skip


def lost(records: report.Records) -> str:
    cells = [(name, *cell) for name, data in records.items() if has_peers(name)
             for cell in report.lost(data["rows"])]  # fmt: skip
    rows = [[text(name), text(report.describe(row)), text(charts.label(peer)), f"{ratio:.2f}"]
            for name, row, peer, ratio in sorted(cells, key=lambda cell: cell[3])]  # fmt: skip
    words = f"{len(rows)} cells, the worst first" + (f": {SHOWN} of them" * (len(rows) > SHOWN))
    return section(
        "Lost cells",
        paragraph(words if rows else "None."),
        table(["suite", "cell", "against", "ratio"], rows[:SHOWN]) if rows else "",
    )


def has_peers(name: str) -> bool:
    return name.split("-")[0] in ("elementwise", "batchnorm", "onednn", "calls")


def heat(
    rows: list[Row], row_of: charts.Label, column_of: charts.Label, value_of: charts.Value
) -> str:
    """A table of ratios, coloured as the heat maps of `charts`."""
    columns = list(dict.fromkeys(map(column_of, rows)))
    values = {(row_of(row), column_of(row)): value_of(row) for row in rows}
    lines = ["<tr><th></th>" + "".join(f"<th>{text(c)}</th>" for c in columns) + "</tr>"]
    for name in dict.fromkeys(map(row_of, rows)):
        cells = "".join(heat_cell(values.get((name, column))) for column in columns)
        lines.append(f"<tr><th>{text(name)}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="heat">{"".join(lines)}</table></div>'


def heat_cell(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    light = 94 - 55 * charts.strength(value)
    colour = f"hsl({8 if value < 1 else 210} 80% {light:.0f}%)"
    kind = ("lost " if value < 1 else "") + ("dark" if light < 60 else "")
    return f'<td class="{kind}" style="background:{colour}">{charts.number(value)}</td>'


def heat_maps(records: report.Records) -> Iterator[str]:
    words = "The fastest peer's time over fastact's; red: a lost cell."
    for name in report.named(records, "elementwise"):
        rows = [row for row in records[name]["rows"] if report.against_the_best(row) is not None]
        yield section(f"Activations ({records[name]['isa']})", paragraph(words),
                      heat(rows, lambda r: r["activation"], lambda r: f"{r['mode']} {r['n']:,}",
                           report.against_the_best))  # fmt: skip
    for name in report.named(records, "batchnorm"):
        yield section(
            f"BatchNorm + activation ({records[name]['isa']})",
            paragraph(words),
            heat(
                records[name]["rows"],
                lambda r: f"{r['shape']} {r['layout']}",
                lambda r: f"{r['mode']} {r['activation']}",
                report.against_the_best,
            ),
        )


# ---- pictures --------------------------------------------------------------------------------


def embedded(figure: Figure, alternative: str) -> str:
    data = base64.b64encode(charts.png(figure)).decode()
    return f'<img alt="{text(alternative)}" src="data:image/png;base64,{data}">'


def panels(records: report.Records) -> Iterator[str]:
    rows = report.rows_of(records, "elementwise")
    for mode in dict.fromkeys(row["mode"] for row in rows if "out" not in row["mode"]):
        images = [
            embedded(charts.speed_panel(own, name, mode), f"{name}, {mode}: speed against size")
            for name, own in charts.by_activation(rows, mode).items()
        ]
        yield (f"<details open><summary>{text(mode)}</summary>"
               f'<div class="panels">{"".join(images)}</div></details>')  # fmt: skip


def pictures(records: report.Records) -> str:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return section("Speed against size", paragraph("Pictures need matplotlib."))
    words = "Memory moved, GB/s; dashed: the floor, what moving the same memory costs."
    return section("Speed against size", paragraph(words), *panels(records))


# ---- the page --------------------------------------------------------------------------------


def facts(records: report.Records) -> str:
    data = next(iter(records.values()))
    machine, config = data["machine"], data["config"]
    versions = {k: v for d in records.values() for k, v in d["peers"].items()}
    left_out = {k: v for d in records.values() for k, v in d["skipped"].items()}
    pairs = {
        "processor": f"{machine['cpu']}, {machine['cores']} cores; {machine['caches']}",
        "memory": f"{machine['memory_bytes'] / 2**30:.0f} GiB",
        "system": f"{machine['system']}, Python {machine['python']}, NumPy {machine['numpy']}",
        "fastact": f"{config['version']}, {config['isa']}, {config['threads']} threads",
        "peers": ", ".join(f"{k} {v}" for k, v in versions.items()) or "none",
        "left out": "; ".join(f"{k}: {v}" for k, v in left_out.items()) or "none",
        "method": f"{data['rounds']} interleaved rounds, medians; floor: {data['floor']}",
        "when": data["when"],
    }
    return "<dl>" + "".join(f"<dt>{k}</dt><dd>{text(v)}</dd>" for k, v in pairs.items()) + "</dl>"


def failures(records: report.Records) -> str:
    found = [f for data in records.values() for f in data["failures"]]
    if not found:
        return ""
    items = "".join(f"<li>{text(' '.join(map(str, f.values())))}</li>" for f in found)
    return section("WRONG RESULTS", f'<ul class="no">{items}</ul>')


def page(records: report.Records) -> str:
    body = [
        "<h1>How fast is fastact here?</h1>", failures(records), targets(records), means(records),
        *heat_maps(records), pictures(records), lost(records), section("The run", facts(records)),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>fastact bench</title><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def write(records: report.Records, path: Path) -> None:
    path.write_text(page(records), encoding="utf-8")
