#!/usr/bin/env python3
"""Gemma 3 beyond its window: one hash however the tokens are computed; a base model continues text and says that it
cannot converse."""

import unittest

import program
from program import GEMMA3

WINDOW = 512


class Gemma3(program.ProgramTest):
    def score(self, *words, env=None):
        return self.one_json("score", "-m", GEMMA3, "--ids", self.ids, "--hash", *words, env=env)

    def test_one_hash(self):
        lines = program.golden_lines("logits-gemma3.jsonl")
        ids = next(line["ids"] for line in lines if line["name"] == "long-700")
        self.ids = self.ids_file(ids)
        start = len(ids) - 2
        whole = self.score("--from", start)
        shown = self.output("--version")
        runs = [self.score("--from", start, *words) for words in (["--threads", 1], ["--chunk", 57])]
        runs += [self.score("--from", start, env={"DALSEGNO_CPU": "avx2"})] if "avx2" in shown else []
        for warm in (WINDOW - 1, WINDOW, WINDOW + 65, start):
            runs.append(self.score("--from", start, "--warm", warm))
            self.assertEqual(runs[-1]["usage"]["reused_tokens"], warm)
        self.assertEqual({run["hash"] for run in runs}, {whole["hash"]})

    def test_inspect_names_the_window(self):
        report = self.one_json("inspect", "-m", GEMMA3)
        self.assertEqual((report["sliding_window"], report["windowed_layers"], report["layers"]), (WINDOW, 15, 18))

    def test_a_base_model(self):
        words = ["run", "-m", GEMMA3, "--max-tokens", 4, "--temperature", 0]
        reply = self.one_json(*words, "--raw", "--prompt", "The capital of France is")
        self.assertEqual(reply["usage"]["prompt_tokens"], 6)
        self.assertEqual(reply["usage"]["reply_tokens"], 4)
        self.assert_error(1, [*words, "--prompt", "Hello"], "no chat template", "--raw")
        self.assert_error(1, ["chat", "-m", GEMMA3], "no chat template", "run --raw")


if __name__ == "__main__":
    program.need_gemma3()
    unittest.main()
