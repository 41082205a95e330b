"""The harness on a tiny model: what it measures, what it writes, and what it says when it cannot."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import dalsegno
from dalsegno.harness import __main__ as harness
from dalsegno.harness import report, scenarios

from conftest import TINY


def measured(folder, *words):
    status = harness.main(
        [str(TINY / "tiny_chat.gguf"), "--turns", "3", "--max-tokens", "4", "--threads", "2", "--peer", "none",
         "--memory", "512", "--out", str(folder), *words]
    )
    return status, json.loads((folder / "harness.json").read_text())


def test_the_cache_saves_tokens_and_changes_no_text(tmp_path, capsys):
    status, found = measured(tmp_path, "--scenario", "edit-loop", "--scenario", "few-shot")
    assert status == 0
    assert [(run["scenario"], run["cache"]) for run in found["runs"]] == [
        ("edit-loop", True), ("edit-loop", False), ("few-shot", True), ("few-shot", False)
    ]
    for on, off in zip(found["runs"][::2], found["runs"][1::2]):
        assert [turn["text"] for turn in on["turns"]] == [turn["text"] for turn in off["turns"]]
        assert all(turn["reused_tokens"] == 0 for turn in off["turns"])
        assert on["turns"][1]["reused_tokens"] > on["turns"][1]["prompt_tokens"] / 2
        assert all(turn["ttft_ms"] > 0 for turn in on["turns"]) and on["peak_memory_bytes"] > 0
    # A conversation's turn reuses all of the turn before, and its reply but for the last token.
    before, turn = found["runs"][0]["turns"][:2]
    assert turn["reused_tokens"] >= before["prompt_tokens"] + before["reply_tokens"] - 1
    assert len(found["findings"]) == 2 and all("text identical" in each for each in found["findings"])
    table = (tmp_path / "harness.md").read_text()
    assert "| few-shot | dalsegno, cache off | 0 of" in table
    assert table.strip() in capsys.readouterr().out


def test_a_text_that_the_cache_changed_is_reported():
    turn = {"turn": 1, "prompt_tokens": 1, "reused_tokens": 0, "ttft_ms": 1.0, "text": "a"}
    common = {"scenario": "edit-loop", "engine": "dalsegno", "ttft_ms_later_median": 1.0}
    runs = [{**common, "cache": True, "turns": [turn]}, {**common, "cache": False, "turns": [{**turn, "text": "b"}]}]
    assert report.texts_differ(runs, "dalsegno")
    assert not report.texts_differ([runs[0], {**runs[0], "cache": False}], "dalsegno")


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_a_scenario_asks_the_same_every_time(name):
    one, other = scenarios.SCENARIOS[name](5), scenarios.SCENARIOS[name](5)
    assert one == other and len(one.says) == 5
    assert scenarios.SCENARIOS[name](8).says[:5] == one.says


def test_what_cannot_be_measured_is_said(capsys, monkeypatch):
    assert harness.main(["no-such-model"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no model 'no-such-model'")
    monkeypatch.setattr(harness.engines, "installed_peers", list)
    assert harness.main(["any", "--peer", "llama_cpp"]) == 1
    assert "llama_cpp is not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        harness.main(["any", "--scenario", "knitting"])
    assert left.value.code == 2


@pytest.mark.parametrize("name,word", [
    ("--turns", "1"), ("--turns", "99999999999"), ("--max-tokens", "0"), ("--max-tokens", "99999999999"), ("--threads", "-1"),
    ("--threads", "99999999999"), ("--memory", "-1"), ("--memory", "99999999999999999"), ("--memory", "9" * 10_000),
    ("--turns", "two")])
def test_a_number_that_is_none_or_out_of_range_is_told_its_range(capsys, name, word):
    with pytest.raises(SystemExit) as left:
        harness.main([str(TINY / "tiny_chat.gguf"), "--peer", "none", f"{name}={word}"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert left.value.code == 2 and f"argument {name}: a whole number from" in said and word[:50] in said and len(said) < 300


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "_runs", lambda *_: pytest.fail("it measured"))
    (tmp_path / "file").touch()
    for folder in ("/proc/x", "/proc", tmp_path / "file", tmp_path / "file" / "below"):
        assert harness.main([str(TINY / "tiny_chat.gguf"), "--peer", "none", "--out", str(folder)]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: the report cannot be written to {folder}: ") and said.count("\n") == 1


def test_what_fails_in_the_other_process_is_a_sentence(capsys):
    words = ["--peer", "none", "--scenario", "retrieval", "--turns", "2", "--memory", "1"]
    assert harness.main([str(TINY / "tiny_chat.gguf"), *words]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ") and "Traceback" not in "".join(said)


def started_harness():
    words = [sys.executable, "-m", "dalsegno.harness", str(TINY / "tiny_chat.gguf"), "--peer", "none", "--turns", "900",
             "--scenario", "few-shot", "--memory", "512", "--threads", "1"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stderr.readline().startswith("few-shot: dalsegno")
    return running


def processes_that_run_an_engine(parent):
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [child for child in children if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()]


# Otherwise it may begin to print a traceback of its own before it is ended.
def test_ctrl_c_does_not_reach_the_process_that_runs_an_engine():
    running = started_harness()
    try:
        while not (found := processes_that_run_an_engine(running.pid)):
            assert running.poll() is None
            time.sleep(0.01)
        status = pathlib.Path(f"/proc/{found[0]}/status").read_text()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        assert blocked >> (signal.SIGINT - 1) & 1
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=30)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.5])
def test_ctrl_c_ends_it_with_a_sentence(seconds):
    running = started_harness()
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGINT)
    _, rest = running.communicate(timeout=30)
    assert running.returncode == 130 and rest == "error: interrupted; nothing was written\n"


def test_the_program_has_it_as_a_verb(tmp_path):
    words = [TINY / "dalsegno", "harness", TINY / "tiny_chat.gguf", "--turns", "2", "--max-tokens", "2", "--peer", "none",
             "--memory", "512", "--scenario", "retrieval", "--out", tmp_path]
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| retrieval | dalsegno, cache on |" in done.stdout
    assert (tmp_path / "retrieval.png").is_file()


def test_pictures(tmp_path):
    turns = [{"turn": 1, "ttft_ms": 2.0}, {"turn": 2, "ttft_ms": 1.0}]
    files = report.plot([{"scenario": "retrieval", "engine": "dalsegno", "cache": True, "turns": turns}], tmp_path)
    assert files[0].read_bytes().startswith(b"\x89PNG")
