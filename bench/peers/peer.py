"""What the programs that measure other engines share. Each prints one JSON row per --row, as `dalsegno bench` does:
the same prompts' lengths, the same steps, the likeliest token always, and logits of the last position alone.

An engine is a class with
  __init__(model, threads, context, batch, setting)
  prefill(ids)        computes a prompt from nothing and returns its first token
  prepare(prompts)    leaves all tokens but the last of each prompt in the cache; one prompt per sequence
  decode(steps)       continues the prompts together; returns the seconds of `steps` steps after the first token
                      of each has come
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

VOCABULARY_PART = 20000  # ids below this are ordinary tokens of all the models measured


class Unsupported(Exception):
    """The engine cannot express a row; the message says why."""


def prompt(length, salt):
    """Ids that look like text to a computer: another prompt for another salt, from its first token on."""
    return [(i * 7919 + salt * 104729 + 17) % VOCABULARY_PART + 300 for i in range(length)]


def prompts(row):
    shared = row["test"] == "shared_prefix"
    made = [prompt(row["depth"] + 1, 0 if shared else salt) for salt in range(row["batch"])]
    for salt, ids in enumerate(made):
        ids[-1] = 300 + salt
    return made


def status_mib(name):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name + ":"))


def context_of(row):
    return row["depth"] + row["tokens"] + 1


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def run_cold(make_engine, row):
    """In a process of its own: says when the first token came and what the request cost. `bare` leaves out the
    interpreter and what was imported, which are no part of the engine."""
    base = status_mib("VmRSS")
    start, engine = make_engine()
    ids = prompt(max(row["depth"], 1), 0)
    if row["test"] == "load":
        engine.prefill(ids)
    else:
        engine.prepare([ids])
        engine.decode(row["tokens"])
    seconds = time.perf_counter() - start
    peak = status_mib("VmHWM")
    print(json.dumps({"mib": peak, "bare": {"seconds": seconds, "mib": peak - base}}), flush=True)


def time_cold(words):
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *words, "--cold"], stdout=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
        child.stdout.read()
    if child.returncode != 0 or not line:
        raise SystemExit(f"error: the cold process ended with {child.returncode}")
    return {"seconds": seconds, **json.loads(line)}


def measure_cold(row, repeat, words):
    runs = [time_cold(words) for _ in range(repeat + 1)][1:]
    tokens = 1 if row["test"] == "load" else row["depth"] + row["tokens"]
    seconds = [run["seconds"] for run in runs]
    result = {"seconds": spread(seconds), "tokens_per_second": spread([tokens / each for each in seconds])}
    key = "seconds" if row["test"] == "load" else "mib"
    result[key] = spread([run[key] for run in runs])
    result["bare"] = spread([run["bare"][key] for run in runs])
    return result


def measure_warm(engine, row, repeat):
    seconds = []
    if row["test"] != "prefill":
        engine.prepare(prompts(row))
    for turn in range(repeat + 1):
        if row["test"] == "prefill":
            ids = prompt(row["tokens"], 1 + turn)
            start = time.perf_counter()
            engine.prefill(ids)
            seconds.append(time.perf_counter() - start)
        else:
            seconds.append(engine.decode(row["tokens"]))
    tokens = row["tokens"] * row["batch"]
    return {"seconds": spread(seconds[1:]), "tokens_per_second": spread([tokens / each for each in seconds[1:]])}


def parse_row(text):
    test, tokens, depth, batch = text.split(":")
    return {"test": test, "tokens": int(tokens), "depth": int(depth), "batch": int(batch)}


def main(load_engine):
    """load_engine() imports the engine's library and returns its class."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--row", type=parse_row, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--setting")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cold", action="store_true", help="be the process that a load or memory row measures")
    options = parser.parse_args()
    row = options.row

    def make_engine():
        engine = load_engine()
        start = time.perf_counter()
        return start, engine(options.model, options.threads, context_of(row), row["batch"], options.setting)

    if options.cold:
        run_cold(make_engine, row)
        return
    try:
        if row["test"] in ("load", "memory"):
            row.update(measure_cold(row, options.repeat, sys.argv))
        else:
            row.update(measure_warm(make_engine()[1], row, options.repeat))
    except Unsupported as reason:
        row["unsupported"] = str(reason)
    print(json.dumps(row))
