"""draw.py CURVES PNG: the two plots of bench_plot. Runs in an interpreter that has matplotlib."""

import json
import sys

import matplotlib

matplotlib.use("Agg")

import curves  # noqa: E402
from matplotlib import pyplot  # noqa: E402


def draw_one(axes, found, test, label):
    for engine in found["engines"]:
        curve = curves.points(found, test, engine)
        if curve:
            axes.plot(*zip(*curve), marker="o", markersize=3, label=engine)
    axes.set_xlabel(label)
    axes.set_ylabel("tokens per second")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def main(source, out):
    with open(source, encoding="utf-8") as file:
        found = json.load(file)
    batch_depth = next((row["depth"] for row in found["rows"] if row["test"] == "batch"), 0)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    draw_one(left, found, "decode", "depth: tokens that the sequence holds")
    draw_one(right, found, "batch", f"batch: sequences decoded together, each at depth {batch_depth}")
    figure.suptitle(f"{found['model']}, {found['cpu']}, {found['threads']} threads, medians of {found['passes']} passes")
    figure.tight_layout()
    # No date and no version of the library: the same figures give the same file.
    figure.savefig(out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
