"""How fast does a ResNet-18 train on the CPU: torch eager, compiled, fused, both?

    python bench/resnet_torch.py --layouts nhwc --batch 32 --size 64

A step is forward, cross entropy, backward and SGD with momentum on random images. All variants
start from the same weights and take turns in one process; the figure is the median of the rounds.
The peak of resident memory is another process's, in which one variant takes three steps. Needs
torch; the compiled variants a C++ compiler, and a minute or two the first time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import fastact
import fastact.torch as fat
from fastact._bench.record import build, machine, text
from fastact._bench.timing import Statement, measure

VARIANTS = ("eager", "compiled", "fused", "fused and compiled")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
CLASSES = 10
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")


class Block(nn.Module):
    """Two convolutions and what goes around them."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.activate = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activate(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return self.activate(y)


def resnet18() -> nn.Module:
    """He, Zhang, Ren and Sun 2015, arXiv:1512.03385; for small images: it begins with 3 x 3."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(before, channels, stride), Block(channels, channels, 1)]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


class Training:
    """A variant of the model, with its optimizer and its images."""

    def __init__(self, variant: str, layout: str, batch: int, size: int) -> None:
        self.model = resnet18().to(memory_format=LAYOUTS[layout])
        self.report = fat.fuse(self.model) if "fused" in variant else None
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.run = torch.compile(self.model) if "compiled" in variant else self.model
        torch.manual_seed(1)
        images = torch.randn(batch, 3, size, size)
        self.images = images.to(memory_format=LAYOUTS[layout])
        self.labels = torch.randint(CLASSES, (batch,))

    def step(self) -> float:
        loss = nn.functional.cross_entropy(self.run(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def peak_memory(variant: str, layout: str, options: argparse.Namespace) -> int:
    """The largest resident size, in bytes, of a process in which a variant takes three steps."""
    command = [
        sys.executable, __file__, "--peak-of", variant, "--layouts", layout,
        "--batch", str(options.batch), "--size", str(options.size),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def compare(layout: str, options: argparse.Namespace) -> list[dict]:
    """A row for each variant."""
    trainings = {v: Training(v, layout, options.batch, options.size) for v in options.variants}
    losses = {v: [training.step() for _ in range(2)] for v, training in trainings.items()}
    for variant, values in losses.items():
        for got, want in zip(values, losses[options.variants[0]], strict=True):
            if abs(got - want) > 0.02 * abs(want):
                raise SystemExit(f"{variant} does not compute what {options.variants[0]} does")
    if options.verbose and (report := trainings[options.variants[-1]].report):
        print(report)
    times = measure({v: Statement(t.step) for v, t in trainings.items()}, options.rounds)
    return [
        {
            "layout": layout, "variant": variant, "batch": options.batch, "size": options.size,
            "seconds": list(times[variant]), "images_per_second": options.batch / times[variant][0],
            "peak_bytes": peak_memory(variant, layout, options) if options.memory else None,
        }
        for variant in options.variants
    ]  # fmt: skip


def show(rows: list[dict]) -> None:
    first = rows[0]["images_per_second"]
    print(
        f"{rows[0]['layout']}, {rows[0]['batch']} images of {rows[0]['size']} x {rows[0]['size']}"
    )
    for row in rows:
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:8.0f} MiB peak"
        speed = row["images_per_second"]
        print(f"  {row['variant']:20} {speed:8.1f} images/s {speed / first:6.2f} {memory}")


def draw(path: Path, picture: Path) -> None:
    """Images a second of each variant, a group for each layout and size."""
    from fastact._bench.charts import figure, png

    rows = json.loads(path.read_text())["rows"]
    groups = list(dict.fromkeys((r["layout"], r["batch"], r["size"]) for r in rows))
    drawing = figure(7, 0.6 + 0.9 * len(groups))
    axes = drawing.subplots()
    for k, variant in enumerate(VARIANTS):
        mine = [r for r in rows if r["variant"] == variant]
        at = [groups.index((r["layout"], r["batch"], r["size"])) + 0.2 * (k - 1.5) for r in mine]
        bars = axes.barh(at, [r["images_per_second"] for r in mine], 0.19, label=variant,
                         color=COLOURS[k])  # fmt: skip
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set_yticks(range(len(groups)), [f"{a}, {b} of {c} x {c}" for a, b, c in groups])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("images a second")
    axes.legend(fontsize=8)
    picture.write_bytes(png(drawing))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--verbose", action="store_true", help="print what was fused")
    parser.add_argument("--json", type=Path, help="write the record there, adding to its rows")
    parser.add_argument("--draw", type=Path, help="draw the record that --json names, only that")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def write(path: Path, rows: list[dict]) -> None:
    """Keeps the rows of other layouts and sizes."""
    key = ("layout", "variant", "batch", "size")
    fresh = {tuple(row[k] for k in key): row for row in rows}
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {tuple(row[k] for k in key): row for row in kept} | fresh
    record = {
        "suite": "resnet_torch", "build": build(), "machine": machine(),
        "config": fastact.config(), "torch": torch.__version__, "rows": list(merged.values()),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(record))


def main() -> int:
    options = arguments()
    if options.peak_of:
        training = Training(options.peak_of, options.layouts[0], options.batch, options.size)
        for _ in range(3):
            training.step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return 0
    if options.draw:
        draw(options.json, options.draw)
        return 0
    for layout in options.layouts:
        rows = compare(layout, options)
        show(rows)
        if options.json:
            write(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
