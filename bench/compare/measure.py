"""Alternating runs: A B C A B C ..., so that what the machine does meanwhile happens to all."""

import statistics

from engines import OURS, Failed

LOWER_IS_BETTER = ("load", "memory")


def figure(result):
    """What the row is about: seconds, MiB or tokens per second."""
    field = {"load": "seconds", "memory": "mib"}.get(result["test"], "tokens_per_second")
    return result[field]["median"]


def better(row, a, b):
    return a < b if row["test"] in LOWER_IS_BETTER else a > b


def settings_for(engine, row):
    """Whether sequences share a buffer is a question for batches alone."""
    return [each for each in engine.settings if row["batch"] > 1 or not each.endswith("unified")]


def choose_setting(engine, model, threads, row):
    """The setting in which the engine does this row best; None if it has no choice."""
    settings = settings_for(engine, row)
    best = None
    reason = None
    for setting in settings:
        try:
            found = figure(engine.run(model, threads, row, 1, setting))
        except Failed as failed:
            reason = failed
            continue
        if best is None or better(row, found, best[0]):
            best = (found, setting)
    if settings and best is None:
        raise reason
    return best[1] if best else None


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(row, ours, theirs):
    """How many times better we are; of memory, our share of theirs."""
    return theirs / ours if row["test"] == "load" else ours / theirs


class RowMeasurement:
    """One row on several engines. A turn that an engine fails ends its part in the row."""

    def __init__(self, engines, model, threads, row, repeat):
        self.engines, self.model, self.threads, self.row, self.repeat = engines, model, threads, row, repeat
        self.settings, self.values, self.bare, self.failed = {}, {}, {}, {}
        self.ours = []

    def turn(self):
        """Measures each engine once, after choosing its setting in the first turn."""
        for engine in self.engines:
            if engine.name in self.failed:
                continue
            try:
                self.run(engine)
            except Failed as reason:
                self.failed[engine.name] = str(reason)
                self.values.pop(engine.name, None)

    def run(self, engine):
        name = engine.name
        if name not in self.settings:
            self.settings[name] = choose_setting(engine, self.model, self.threads, self.row)
        result = engine.run(self.model, self.threads, self.row, self.repeat, self.settings[name])
        self.values.setdefault(name, []).append(figure(result))
        if "bare" in result:
            self.bare.setdefault(name, []).append(result["bare"]["median"])
        if name == OURS:
            self.ours.append(result)

    def report(self):
        """The row and {"engines": {name: {median, min, max, values, setting}}, "failed": {name: reason}, "ratios":
        {name: spread}, "fastest": name or None} (bare: without an interpreter that an engine is called from) and, from
        ours, limit_share and limits."""
        row, values = self.row, self.values
        found = {name: {**spread(each), "values": each, "setting": self.settings[name]} for name, each in values.items()}
        for name in found.keys() & self.bare.keys():
            found[name]["bare"] = statistics.median(self.bare[name])
        report = {**row, "engines": found, "failed": self.failed, "ratios": {}, "fastest": None}
        if OURS in values:
            shares = [each["limit_share"] for each in self.ours if each.get("limit_share") is not None]
            report["limit_share"] = statistics.median(shares) if shares else None
            report["limits"] = self.ours[-1].get("limits")
            peers = [name for name in values if name != OURS]
            report["ratios"] = {name: spread([ratio(row, a, b) for a, b in zip(values[OURS], values[name])])
                                for name in peers}
            for name in peers:
                if report["fastest"] is None or better(row, found[name]["median"], found[report["fastest"]]["median"]):
                    report["fastest"] = name
        return report


def measure_row(engines, model, threads, row, pairs, repeat):
    """All turns of one row, one after the other: its engines are compared with each other."""
    measured = RowMeasurement(engines, model, threads, row, repeat)
    for _ in range(pairs):
        measured.turn()
    return measured.report()


def measure_passes(rows, passes, after_pass):
    """A turn of every row, then of every row again: rows are compared with each other, so that what the machine does
    for minutes has to happen to all of them. rows: RowMeasurements; after_pass(number, reports)."""
    for number in range(1, passes + 1):
        for measured in rows:
            measured.turn()
        after_pass(number, [measured.report() for measured in rows])
