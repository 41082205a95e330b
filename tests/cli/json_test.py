#!/usr/bin/env python3
"""The JSON of each verb has the agreed shape."""

import json
import unittest

import program
from program import TINY

NUMBER = (int, float)
USAGE = {"prompt_tokens": int, "reused_tokens": int, "prefilled_tokens": int, "reply_tokens": int,
         "proposed_tokens": int, "accepted_tokens": int}
STOPPED = {"end", "cold", "diverged", "evicted", "window", "namespace", "off"}


class Json(program.ProgramTest):
    def assert_fields(self, value, fields):
        for name, kind in fields.items():
            self.assertIn(name, value)
            self.assertIsInstance(value[name], kind, name)

    def assert_usage(self, usage):
        self.assert_fields(usage, USAGE)
        self.assertEqual(usage["reused_tokens"] + usage["prefilled_tokens"], usage["prompt_tokens"])

    def test_tokenize(self):
        golden = json.loads(TINY.with_suffix(".json").read_text(encoding="ascii"))["tokenize"]
        value = self.one_json("tokenize", "-m", TINY, stdin=golden["text"])
        self.assertEqual(value["ids"], golden["ids"])

    def test_run(self):
        words = ["run", "-m", TINY, "--raw", "--prompt", "hello there", "--max-tokens", 5, "--show-ids"]
        value = self.one_json(*words)
        self.assert_fields(value, {"turn": int, "text": str, "finish_reason": str, "usage": dict, "reuse": dict,
                                   "ttft_ms": NUMBER, "tokens_per_second": NUMBER})
        self.assertIn(value["finish_reason"], ("stop", "length"))
        self.assert_usage(value["usage"])
        self.assert_fields(value["reuse"], {"tier": str, "stopped": str, "at": int})
        self.assertIn(value["reuse"]["stopped"], STOPPED)
        self.assertEqual(self.one_json(*words)["text"], value["text"])

    def test_run_guesses_or_not_with_the_same_text(self):
        words = ["run", "-m", TINY, "--raw", "--prompt", "one two one two one two one two", "--max-tokens", 60, "--speculation"]
        with_guesses, without = self.one_json(*words, "auto"), self.one_json(*words, "off")
        self.assertEqual(with_guesses["text"], without["text"])
        self.assertLessEqual(with_guesses["usage"]["accepted_tokens"], with_guesses["usage"]["proposed_tokens"])
        self.assertEqual(without["usage"]["proposed_tokens"], 0)

    def test_a_draft_model_changes_no_text(self):
        words = ["run", "-m", TINY, "--raw", "--prompt", "one two three", "--max-tokens", 80]
        drafted = self.one_json(*words, "--draft-model", TINY)
        self.assertEqual(drafted["text"], self.one_json(*words)["text"])
        self.assert_usage(drafted["usage"])

    def test_score(self):
        ids = list(b"a piece of text of some length")
        path = self.ids_file(ids)
        value = self.one_json("score", "-m", TINY, "--ids", path, "--at", "0,5,9", "--top", 3, "--hash")
        self.assertEqual([position["at"] for position in value["positions"]], [0, 5, 9])
        for position in value["positions"]:
            log_probs = [pair[1] for pair in position["top"]]
            self.assertEqual(len(log_probs), 3)
            self.assertEqual(log_probs, sorted(log_probs, reverse=True))
            self.assertLess(max(log_probs), 0)
        self.assertEqual(len(value["nll"]), len(ids) - 1)
        self.assertRegex(value["hash"], "^[0-9a-f]{64}$")
        self.assert_usage(value["usage"])

    def test_inspect_says_where_codes_start(self):
        for start, rounded in ((0, 0), (1, 16), (16, 16), (100, 112)):
            value = self.one_json("inspect", "-m", TINY, "--kv", "8", "--kv-start", start)
            self.assertEqual(value["kv_start"], rounded)
        self.assertIn("bf16 before token 112", self.output("inspect", "-m", TINY, "--kv", "4", "--kv-start", 100))

    def test_inspect(self):
        value = self.one_json("inspect", "-m", TINY)
        self.assertIsInstance(value, dict)
        self.assertEqual(value["architecture"], "llama")


if __name__ == "__main__":
    unittest.main()
