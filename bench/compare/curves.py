"""What the curves of tokens per second against depth and batch say."""

import statistics


def points(found, test, engine):
    """[(depth or batch, tokens per second)] of one engine, ascending."""
    key = "depth" if test == "decode" else "batch"
    return sorted((row[key], row["engines"][engine]["median"]) for row in found["rows"]
                  if row["test"] == test and engine in row["engines"])


def line(xs, ys):
    """The least-squares line: intercept, slope."""
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    square = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / square if square else 0.0
    return mean_y - slope * mean_x, slope


def residuals(curve):
    """Time per step against depth: the line, and how far each point lies from it as a part of the line there."""
    xs = [depth for depth, _ in curve]
    ys = [1 / speed for _, speed in curve]
    base, slope = line(xs, ys)
    return base, slope, [y / (base + slope * x) - 1 for x, y in zip(xs, ys)]


def batch_costs(found, engine):
    """[(batch, next smaller one, time of a step over that one's)], each the median over the passes of both measured one
    after the other; batches that follow one another tell most."""
    rows = sorted((row["batch"], row["engines"][engine]["values"]) for row in found["rows"]
                  if row["test"] == "batch" and engine in row["engines"])
    costs = []
    for (before, slower), (batch, faster) in zip(rows, rows[1:]):
        passes = [(batch / b) / (before / a) for a, b in zip(slower, faster)]
        costs.append((batch, before, statistics.median(passes)))
    return costs


def summary(found):
    for engine in found["engines"]:
        curve = points(found, "decode", engine)
        if len(curve) > 2:
            base, slope, off = residuals(curve)
            shown = ", ".join(f"{depth} {part:+.1%}" for (depth, _), part in zip(curve, off))
            yield (f"{engine}: a step takes {base * 1e3:.2f} ms + {slope * 1e6:.3f} ms per 1000 tokens of depth; from that "
                   f"line, at depth: {shown}")
        costs = batch_costs(found, engine)
        if costs:
            shown = ", ".join(f"{batch}/{before} {cost:.2f}" for batch, before, cost in costs)
            yield f"{engine}: time of a batch over the next smaller one: {shown}"
