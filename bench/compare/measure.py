"""Alternating runs: A B C A B C ... of one row, so that what the machine does meanwhile happens to all."""

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


def measure_row(engines, model, threads, row, pairs, repeat, say):
    """{"engines": {name: {median, min, max, values, setting}}, "failed": {name: reason}, "ratios": {name: spread},
    "fastest": name or None} (bare: without an interpreter that an engine is called from) and, from ours, limit_share and limits."""
    values, settings, failed, bare = {}, {}, {}, {}
    ours = []
    for engine in engines:
        try:
            settings[engine.name] = choose_setting(engine, model, threads, row)
            values[engine.name] = []
        except Failed as reason:
            failed[engine.name] = str(reason)
    for _ in range(pairs):
        for engine in engines:
            if engine.name in failed:
                continue
            try:
                result = engine.run(model, threads, row, repeat, settings[engine.name])
                values[engine.name].append(figure(result))
                if "bare" in result:
                    bare.setdefault(engine.name, []).append(result["bare"]["median"])
                if engine.name == OURS:
                    ours.append(result)
            except Failed as reason:
                failed[engine.name] = str(reason)
                del values[engine.name]
    found = {name: {**spread(each), "values": each, "setting": settings[name]} for name, each in values.items()}
    for name, each in bare.items():
        if name in found:
            found[name]["bare"] = statistics.median(each)
    report = {**row, "engines": found, "failed": failed, "ratios": {}, "fastest": None}
    if OURS in values:
        shares = [each["limit_share"] for each in ours if each.get("limit_share") is not None]
        report["limit_share"] = statistics.median(shares) if shares else None
        report["limits"] = ours[-1].get("limits")
        peers = [name for name in values if name != OURS]
        report["ratios"] = {name: spread([ratio(row, a, b) for a, b in zip(values[OURS], values[name])]) for name in peers}
        for name in peers:
            if report["fastest"] is None or better(row, found[name]["median"], found[report["fastest"]]["median"]):
                report["fastest"] = name
    say(report)
    return report
