#!/usr/bin/env python3
"""SmolLM2 in conversation: no token is computed twice, and reuse changes no bit."""

import json
import os
import unittest

import program
from program import SMOLLM2

TURNS = (
    "Hello! Who are you?",
    "Name three rivers in Europe.",
    "Which of them is the longest?",
    "And which one flows through Vienna?",
    "Write one sentence about it.",
    "Now the same sentence with the word 'slowly' in it. \u00c4\u00f6\u00fc \U0001f30a",
    "What was the first question that I asked?",
    "Thank you. Goodbye!",
)


def common_prefix(a, b):
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


class Conversation(program.ProgramTest):
    def chat(self, *words):
        stdin = "\n".join(TURNS) + "\n"
        words = ["--max-tokens", 24, "--show-ids", *words]
        return self.json_lines("chat", "-m", SMOLLM2, *words, stdin=stdin)

    def score(self, ids, *words, env=None):
        return self.one_json("score", "-m", SMOLLM2, "--ids", self.ids_file(ids), "--hash", *words, env=env)

    def run_messages(self, *conversations):
        path = self.folder / "talk.jsonl"
        path.write_text("".join(json.dumps(messages) + "\n" for messages in conversations), encoding="ascii")
        return self.json_lines("run", "-m", SMOLLM2, "--messages", path, "--max-tokens", 8, "--show-ids")

    def test_a_turn_computes_only_what_is_new(self):
        replies = self.chat()
        self.assertEqual([reply["turn"] for reply in replies], list(range(1, len(TURNS) + 1)))
        for before, reply in zip(replies, replies[1:]):
            seen = before["usage"]["prompt_tokens"] + before["usage"]["reply_tokens"]
            usage = reply["usage"]
            self.assertGreaterEqual(usage["reused_tokens"], min(usage["prompt_tokens"] - 1, seen - 1))
            self.assertEqual(usage["prefilled_tokens"], usage["prompt_tokens"] - usage["reused_tokens"])
            self.assertEqual(reply["prompt_ids"][: seen - 1], (before["prompt_ids"] + before["reply_ids"])[: seen - 1])
        ids = replies[-1]["prompt_ids"] + replies[-1]["reply_ids"]
        start = len(ids) // 2
        cold, warm = self.score(ids, "--from", start), self.score(ids, "--from", start, "--warm", start)
        self.assertEqual(cold["hash"], warm["hash"])
        self.assertEqual((cold["usage"]["reused_tokens"], warm["usage"]["reused_tokens"]), (0, start))

    def test_the_same_conversation_twice(self):
        messages = [{"role": "user", "content": "Name three rivers in Europe."}]
        first, second = self.run_messages(messages, messages)
        self.assertLessEqual(second["usage"]["prefilled_tokens"], 1)
        self.assertEqual(second["text"], first["text"])

    def test_one_changed_word(self):
        def messages(word):
            return [
                {"role": "user", "content": "Tell me something about rivers."},
                {"role": "assistant", "content": "Rivers carry water to the sea."},
                {"role": "user", "content": f"Please name three {word} rivers in Europe, with their countries."},
            ]

        first, second = self.run_messages(messages("long"), messages("quiet"))
        same = common_prefix(first["prompt_ids"], second["prompt_ids"])
        self.assertGreater(same, 16)
        self.assertEqual(second["usage"]["reused_tokens"], same)
        reuse = second["reuse"]
        self.assertEqual((reuse["tier"], reuse["stopped"], reuse["at"], reuse["resumed"]), ("ram", "diverged", same, same))
        self.assertGreater(reuse["saved_ms"], 0)

    def test_one_hash(self):
        long = [line for line in program.golden_lines("logits-smollm2.jsonl") if line["name"] == "long-700"][0]["ids"]
        runs = [self.score(long[:300], *words) for words in ([], ["--threads", 1], ["--chunk", 7], ["--chunk", 64])]
        runs += [self.score(long[:300], env={"DALSEGNO_CPU": "avx2"})] if "avx2" in self.output("--version") else []
        self.assertEqual(len({run["hash"] for run in runs}), 1)
        for start in (63, 64, 65, 699):
            cold, warm = self.score(long, "--from", start), self.score(long, "--from", start, "--warm", start)
            self.assertEqual(cold["hash"], warm["hash"])
            self.assertEqual(warm["usage"]["reused_tokens"], start)

    def test_a_name_from_the_models_folder(self):
        env = {"DALSEGNO_MODELS": os.path.dirname(SMOLLM2)}
        for name in ("SmolLM2-135M-Instruct.Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"):
            self.assertEqual(self.one_json("tokenize", "-m", name, stdin="Hello", env=env)["ids"], [19556])


if __name__ == "__main__":
    program.need_smollm2()
    unittest.main()
