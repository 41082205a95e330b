"""python -m dalsegno.harness MODEL: see --help."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.resource_tracker
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable

import dalsegno

from .._arguments import shown
from . import engines, report
from .scenarios import SCENARIOS


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(word: str) -> int:
        wanted = f"a whole number from {least:,} to {most:,} is wanted, not {shown(word)}"
        try:
            value = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(wanted) from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(wanted)
        return value

    return number


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dalsegno harness",
        description="Measures scripted agent conversations with the cache on and off: time to first token, tokens per "
        "second, reused tokens, memory. Exit status 1 if the cache changed any text.",
    )
    parser.add_argument("model", help="a GGUF file, or the name of a model in the models folder")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), help="default: all of them")
    parser.add_argument("--turns", type=_whole(2, 10_000), default=8, help="of a conversation, or requests of a batch (default: 8)")
    parser.add_argument("--max-tokens", type=_whole(1, 1_000_000), default=32, help="of a reply (default: 32)")
    parser.add_argument("--threads", type=_whole(0, 1_024), default=0, help="default: one per core")
    parser.add_argument("--memory", type=_whole(0, 1_073_741_824), default=0,
                        help="the budget in MiB (default: half of what is available)")
    parser.add_argument("--peer", choices=[*engines.PEERS, "none"], action="append",
                        help="another engine to measure; default: those that are installed")
    parser.add_argument("--out", type=pathlib.Path, help="a folder for harness.json, harness.md and a PNG per scenario")
    return parser.parse_args(words)


def _in_own_process(*arguments) -> dict:
    """What engines.run gives. Errors: DalSegnoError (its sentence, or that the process was ended)."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=engines.answer, args=(theirs, *arguments), daemon=True)
    # Ctrl-C, which the terminal sends to both, is this process's to obey: the other inherits what is blocked. The tracker
    # is started before, since starting it unblocks.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        found, failure = ours.recv()
    except EOFError:
        process.join()
        raise dalsegno.DalSegnoError(f"the process that ran {arguments[0]} was ended (exit status {process.exitcode}), as systems "
                                     "do that lack memory; give --memory less") from None
    finally:
        process.kill()
        process.join()
    if found is None:
        raise dalsegno.DalSegnoError(failure)
    return found


def _make_folder(folder: pathlib.Path) -> None:
    """Errors: OSError (no files can be made in it)."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


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


def _measure(options: argparse.Namespace, peers: list[str]) -> int:
    path = dalsegno.find_model(options.model)
    if options.out:
        _make_folder(options.out)
    settings = engines.Settings(path, options.max_tokens, options.threads, options.memory << 20)
    runs = _runs(options, settings, peers)
    about = {"version": dalsegno.__version__, "model": path, "threads": options.threads, "max_tokens": options.max_tokens}
    print(report.markdown(runs, about))
    if options.out:
        report.write(runs, about, options.out)
        try:
            report.plot(runs, options.out)
        except ImportError:
            print("note: no pictures were drawn; they need matplotlib", file=sys.stderr)
    return 1 if report.texts_differ(runs, "dalsegno") else 0


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    installed = engines.installed_peers()
    peers = installed if options.peer is None else [peer for peer in options.peer if peer != "none"]
    if missing := [peer for peer in peers if peer not in installed]:
        print(f"error: {missing[0]} is not installed in this environment; install it, or leave out --peer", file=sys.stderr)
        return 1
    try:
        return _measure(options, peers)
    except dalsegno.DalSegnoError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        what = f"the report cannot be written to {options.out}: " if options.out else ""
        advice = "; give --out a folder that files can be made in" if options.out else ""
        print(f"error: {what}{error.strerror or error}{advice}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
