"""python -m dalsegno.harness MODEL: see --help."""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import sys

import dalsegno

from . import engines, report
from .scenarios import SCENARIOS


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dalsegno harness",
        description="Measures scripted agent conversations with the cache on and off: time to first token, tokens per "
        "second, reused tokens, memory. Exit status 1 if the cache changed any text.",
    )
    parser.add_argument("model", help="a GGUF file, or the name of a model in the models folder")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="default: all of them")
    parser.add_argument("--turns", type=int, default=8, help="of a conversation, or requests of a batch (default: 8)")
    parser.add_argument("--max-tokens", type=int, default=32, help="of a reply (default: 32)")
    parser.add_argument("--threads", type=int, default=0, help="default: one per core")
    parser.add_argument("--memory", type=int, default=0, help="the budget in MiB (default: half of what is available)")
    parser.add_argument("--peer", choices=[*engines.PEERS, "none"], action="append",
                        help="another engine to measure; default: those that are installed")
    parser.add_argument("--out", type=pathlib.Path, help="a folder for harness.json, harness.md and a PNG per scenario")
    options = parser.parse_args(words)
    if options.turns < 2 or options.max_tokens < 1 or options.threads < 0 or options.memory < 0:
        parser.error("give at least 2 turns, at least 1 token, and no negative number")
    return options


def _in_own_process(*arguments) -> dict:
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(engines.run, *arguments).result()


def _runs(options: argparse.Namespace, settings: engines.Settings, peers: list[str]) -> list[dict]:
    runs = []
    for name in options.scenario or SCENARIOS:
        scenario = SCENARIOS[name](options.turns)
        prompts: list[list[int]] = []
        for engine in ["dalsegno", *peers]:
            if scenario.together and engine != "dalsegno":
                continue  # no batches by its Python package
            for cache in (True, False):
                print(f"{name}: {engine}, cache {'on' if cache else 'off'} ...", file=sys.stderr, flush=True)
                runs.append(_in_own_process(engine, scenario, settings, cache, prompts))
                prompts = prompts or [turn["prompt_ids"] for turn in runs[-1]["turns"]]
    return runs


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    installed = engines.installed_peers()
    peers = installed if options.peer is None else [peer for peer in options.peer if peer != "none"]
    if missing := [peer for peer in peers if peer not in installed]:
        print(f"error: {missing[0]} is not installed in this environment; install it, or leave out --peer", file=sys.stderr)
        return 1
    try:
        path = dalsegno.find_model(options.model)
        settings = engines.Settings(path, options.max_tokens, options.threads, options.memory << 20)
        runs = _runs(options, settings, peers)
    except dalsegno.DalSegnoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    about = {"version": dalsegno.__version__, "model": path, "threads": options.threads, "max_tokens": options.max_tokens}
    print(report.markdown(runs, about))
    if options.out:
        try:
            report.write(runs, about, options.out)
            report.plot(runs, options.out)
        except ImportError:
            print("note: no pictures were drawn; they need matplotlib", file=sys.stderr)
        except OSError as error:
            print(f"error: the report cannot be written: {error}", file=sys.stderr)
            return 1
    return 1 if report.texts_differ(runs, "dalsegno") else 0


if __name__ == "__main__":
    sys.exit(main())
