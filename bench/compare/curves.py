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


def batch_costs(curve):
    """[(batch, time of its step over the next smaller batch's)]; batches that follow one another tell most."""
    steps = [(batch, batch / speed) for batch, speed in curve]
    return [(batch, before, seconds / previous) for (before, previous), (batch, seconds) in zip(steps, steps[1:])]


def summary(found):
    for engine in found["engines"]:
        curve = points(found, "decode", engine)
        if len(curve) > 2:
            base, slope, off = residuals(curve)
            worst = max(range(len(off)), key=lambda i: abs(off[i]))
            yield (f"{engine}: a step takes {base * 1e3:.2f} ms + {slope * 1e6:.3f} ms per 1000 tokens of depth; farthest "
                   f"from that line at depth {curve[worst][0]}, by {off[worst]:+.1%}")
        costs = batch_costs(points(found, "batch", engine))
        if costs:
            shown = ", ".join(f"{batch}/{before} {cost:.2f}" for batch, before, cost in costs)
            yield f"{engine}: time of a batch over the next smaller one: {shown}"
