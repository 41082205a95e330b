"""What bench_compare shows and writes: lines for people, a Markdown table, JSON, and the table of the documentation."""

import pathlib
import platform

BEGIN = "<!-- written by scripts/bench_compare --write-docs; do not edit -->"
END = "<!-- end of what scripts/bench_compare wrote -->"


def title(row):
    names = {"load": "cold process to first token", "memory": f"peak memory, context {row['depth'] + row['tokens']}",
             "prefill": f"prefill {row['tokens']}", "decode": f"decode, depth {row['depth']}",
             "batch": f"batch {row['batch']}, depth {row['depth']}",
             "shared_prefix": f"{row['batch']} sequences, shared {row['depth']}-token prefix"}
    return names[row["test"]]


def unit(row):
    return {"load": "ms", "memory": "MiB"}.get(row["test"], "tok/s")


def shown(row, value):
    if row["test"] == "load":
        value *= 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def shown_spread(row, spread):
    return f"{shown(row, spread['median'])} ({shown(row, spread['min'])}–{shown(row, spread['max'])})"


def shown_ratio(spread):
    return f"{spread['median']:.2f} ({spread['min']:.2f}–{spread['max']:.2f})"


def print_row(row):
    print(f"\n{title(row)}, {unit(row)}")
    for name, engine in row["engines"].items():
        setting = f"  [{engine['setting']}]" if engine["setting"] else ""
        ratio = f"  ratio {shown_ratio(row['ratios'][name])}" if name in row["ratios"] else ""
        if "bare" in engine:
            setting += f"  ({shown(row, engine['bare'])} without interpreter and imports)"
        fastest = "  fastest peer" if name == row["fastest"] else ""
        print(f"  {name:16} {shown_spread(row, engine):28}{ratio}{fastest}{setting}")
    for name, reason in row["failed"].items():
        print(f"  {name:16} no figure: {reason}")
    if row.get("limit_share") is not None:
        print(f"  {row['limit_share']:.0%} of this machine's limit", flush=True)


def cpu_name():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def table(run):
    """Markdown of one model."""
    names = [engine["name"] for engine in run["engines"]]
    lines = [f"**{run['model']}** ({run['megabytes']:.0f} MB), {run['threads']} threads, medians (smallest–largest) of "
             f"{run['pairs']} alternating runs", "",
             "| row | unit | " + " | ".join(names) + " | ours over the fastest peer | of the limit |",
             "|---|---|" + "---|" * (len(names) + 2)]
    for row in run["rows"]:
        cells = []
        for name in names:
            engine = row["engines"].get(name)
            cells.append(shown_spread(row, engine) if engine else "–")
        ratio = shown_ratio(row["ratios"][row["fastest"]]) if row["fastest"] else "–"
        share = f"{row['limit_share']:.0%}" if row.get("limit_share") is not None else "–"
        lines.append(f"| {title(row)} | {unit(row)} | " + " | ".join(cells) + f" | {ratio} | {share} |")
    failures = sorted({(title(row), name, reason) for row in run["rows"] for name, reason in row["failed"].items()})
    bare = [f"{title(row)}: {name} {shown(row, engine['bare'])} {unit(row)}" for row in run["rows"]
            for name, engine in row["engines"].items() if "bare" in engine]
    lines += ["", *(f"- without the interpreter that calls it and its imports, {each}" for each in bare)]
    lines += [*(f"- {row}: no figure from {name}: {reason}" for row, name, reason in failures)]
    return "\n".join(lines).rstrip() + "\n"


def setup(report):
    lines = [f"Measured on {report['cpu']}, {report['threads']} threads:", ""]
    for engine in report["engines"]:
        note = f" ({engine['note']})" if engine["note"] else ""
        lines.append(f"- {engine['name']}: {engine['version']}{note}")
    limits = next((row["limits"] for run in report["runs"] for row in run["rows"] if row.get("limits")), None)
    if limits:
        lines.append(f"- limits measured meanwhile ({limits['level']}): memory reads {limits['read_gb_per_second']:.1f} "
                     f"GB/s, int8 {limits['int8_gops']:.0f} GOPS, bf16 {limits['bf16_gflops']:.0f} GFLOPS")
    chosen = sorted({f"{name} {engine['setting']}" for run in report["runs"] for row in run["rows"]
                     for name, engine in row["engines"].items() if engine["setting"]})
    if chosen:
        lines.append(f"- settings that were fastest in some row: {', '.join(chosen)}")
    return "\n".join(lines)


def markdown(report):
    return setup(report) + "\n\n" + "\n".join(table(run) for run in report["runs"])


def write_docs(report, path):
    """Puts the tables between the two marks of the file."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"error: {path} must hold each of the two marks once:\n{BEGIN}\n{END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{markdown(report)}{END}{after}", encoding="utf-8")
