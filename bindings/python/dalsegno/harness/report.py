"""What a run of the harness leaves: JSON, a Markdown table, and a picture per scenario."""

from __future__ import annotations

import json
import pathlib

_COLOURS = {"dalsegno": "tab:blue"}


def label(run: dict) -> str:
    return f"{run['engine']}, cache {'on' if run['cache'] else 'off'}"


def _reused(run: dict) -> str:
    told = [turn["reused_tokens"] for turn in run["turns"]]
    prompts = sum(turn["prompt_tokens"] for turn in run["turns"])
    return "not told" if None in told else f"{sum(told)} of {prompts}"


def findings(runs: list[dict]) -> list[str]:
    """A sentence per scenario and engine: what the cache gains, and whether the text is the same with and without."""
    sentences = []
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        for engine in dict.fromkeys(run["engine"] for run in runs):
            pair = {run["cache"]: run for run in runs if (run["scenario"], run["engine"]) == (scenario, engine)}
            if set(pair) != {True, False}:
                continue
            on, off = pair[True], pair[False]
            # All of a batch come at once: there its first answer is the one to wait for.
            gain = off["ttft_ms_later_median"] / max(on["ttft_ms_later_median"], 1e-9)
            same = [turn["text"] for turn in on["turns"]] == [turn["text"] for turn in off["turns"]]
            sentences.append(
                f"{scenario}, {engine}: first token after the first turn in {on['ttft_ms_later_median']:.1f} ms with the cache, "
                f"{off['ttft_ms_later_median']:.1f} ms without: {gain:.1f} times; text {'identical' if same else 'DIFFERENT'}"
            )
    return sentences


def texts_differ(runs: list[dict], engine: str) -> bool:
    return any(engine in sentence and "DIFFERENT" in sentence for sentence in findings(runs))


def markdown(runs: list[dict], about: dict) -> str:
    lines = [
        f"Model {pathlib.Path(about['model']).name}, {about['threads'] or 'all'} threads, {about['max_tokens']} tokens a reply, "
        f"dalsegno {about['version']}.",
        "",
        "| scenario | engine | reused tokens | first turn, ms | later turns, ms (median, most) | tok/s | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append(
            f"| {run['scenario']} | {label(run)} | {_reused(run)} | {run['ttft_ms_first']:.1f} | "
            f"{run['ttft_ms_later_median']:.1f}, {run['ttft_ms_later_max']:.1f} | {run['tokens_per_second']:.0f} | "
            f"{run['peak_memory_bytes'] / 2**20:.0f} |"
        )
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in findings(runs)), ""])


def plot(runs: list[dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """TTFT by turn, a PNG for each scenario. Errors: ImportError (matplotlib is not installed)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = []
    for scenario in dict.fromkeys(run["scenario"] for run in runs):
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for run in (run for run in runs if run["scenario"] == scenario):
            colour = _COLOURS.get(run["engine"], "tab:orange")
            turns = run["turns"]
            axes.plot([turn["turn"] for turn in turns], [turn["ttft_ms"] for turn in turns], label=label(run), color=colour,
                      marker="o", linestyle="-" if run["cache"] else "--")
        axes.set_yscale("log")
        axes.set_xlabel("turn")
        axes.set_ylabel("time to first token, ms")
        axes.set_title(scenario)
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
        figure.tight_layout()
        files.append(folder / f"{scenario}.png")
        figure.savefig(files[-1], dpi=120)
        pyplot.close(figure)
    return files


def write(runs: list[dict], about: dict, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = [{**run, "turns": [{k: v for k, v in turn.items() if k != "prompt_ids"} for turn in run["turns"]]} for run in runs]
    (folder / "harness.json").write_text(json.dumps({**about, "findings": findings(runs), "runs": kept}, indent=1) + "\n")
    (folder / "harness.md").write_text(markdown(runs, about))
