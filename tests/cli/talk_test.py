#!/usr/bin/env python3
"""run and chat with a chat template: what they print, what they reuse, what they refuse."""

import json
import subprocess
import unittest

import gguf_edit
import talk
from program import BINARY, EMULATOR, TINY

TURNS = ["Hello there", "What is a river?", "", "And \u00e4 \U0001f30a?"]
ASKED = [turn for turn in TURNS if turn]


class Talk(talk.TalkTest):
    def chat(self, *words):
        return self.json_lines("chat", "-m", self.model, "--max-tokens", 12, *words, stdin="\n".join(TURNS))

    def messages_file(self, *lines):
        path = self.folder / "talk.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    def test_each_line_of_input_is_a_turn(self):
        replies = self.chat()
        self.assertEqual([reply["turn"] for reply in replies], list(range(1, len(ASKED) + 1)))

    def test_a_line_that_would_be_a_command_at_a_terminal_is_a_turn(self):
        words = ["chat", "-m", self.model, "--max-tokens", 3]
        replies = self.json_lines(*words, stdin="/undo\n/exit\n/trim 5\n")
        self.assertEqual([reply["turn"] for reply in replies], [1, 2, 3])
        self.assertIn("every line of input", self.output("chat", "--help"))

    def test_a_turn_computes_only_what_is_new(self):
        held = []
        for reply in self.chat("--show-ids"):
            usage = reply["usage"]
            self.assertEqual(reply["prompt_ids"][: len(held)], held)
            self.assertGreaterEqual(usage["reused_tokens"], min(usage["prompt_tokens"] - 1, len(held) - 1))
            self.assertEqual(len(reply["reply_ids"]), usage["reply_tokens"])
            held = reply["prompt_ids"] + reply["reply_ids"]

    def test_chunks_threads_and_kept_budgets_never_change_a_reply(self):
        texts = [reply["text"] for reply in self.chat()]
        for words in (["--chunk", 3], ["--threads", 1], ["--no-reuse"], ["--memory", "1GiB"]):
            self.assertEqual([reply["text"] for reply in self.chat(*words)], texts, words)

    def test_without_reuse_nothing_is_reused_and_it_says_so(self):
        for reply in self.chat("--no-reuse"):
            self.assertEqual(reply["usage"]["reused_tokens"], 0)
            self.assertEqual(reply["reuse"]["stopped"], "off")

    def test_a_transcript_reads_like_one(self):
        shown = self.output("chat", "-m", self.model, "--max-tokens", 4, stdin="one\r\ntwo")
        lines = shown.splitlines()
        self.assertEqual([line for line in lines if line.startswith("> ")], ["> one", "> two"])
        reports = [line for line in lines if line.startswith("[") and " tokens in: " in line]
        self.assertEqual(len(reports), 2)
        for report in reports:
            for word in ("reused", "prefilled", "stopped: ", "first token", "ms"):
                self.assertIn(word, report)

    def test_a_system_message_comes_first(self):
        with_system = self.chat("--system", "Be brief.", "--show-ids")[0]["prompt_ids"]
        rendered = self.one_json("template", "-m", self.model, stdin=json.dumps({
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TURNS[0]}],
            "add_generation_prompt": True}))["text"]
        ids = self.one_json("tokenize", "-m", self.model, "--special", stdin=rendered)["ids"]
        self.assertEqual(with_system, ids)

    def test_run_asks_through_the_template_and_raw_does_not(self):
        words = ["run", "-m", self.model, "--prompt", "Hi", "--max-tokens", 2, "--show-ids"]
        ids = self.one_json("tokenize", "-m", self.model, stdin="Hi")["ids"]
        self.assertEqual(self.one_json(*words, "--raw")["prompt_ids"], ids)
        self.assertGreater(len(self.one_json(*words)["prompt_ids"]), len(ids))

    def test_a_prompt_on_standard_input_loses_one_line_break(self):
        words = ["run", "-m", self.model, "--raw", "--max-tokens", 2, "--show-ids"]
        with_option = self.one_json(*words, "--prompt", "a line")["prompt_ids"]
        self.assertEqual(self.one_json(*words, stdin="a line\n")["prompt_ids"], with_option)
        self.assertNotEqual(self.one_json(*words, stdin="a line\n\n")["prompt_ids"], with_option)

    def test_ill_formed_input_is_refused(self):
        for verb, where in ((["run"], ""), (["run", "--raw"], ""), (["explain"], ""), (["tokenize"], ""),
                            (["chat"], "line 3 of ")):
            text = b"caf\xe9" if verb != ["chat"] else b"Hi\n\ncaf\xe9\nWhy?\n"
            expected = f"{where}standard input is not valid UTF-8 at byte offset 3"
            self.assert_error(1, [*verb, "-m", self.model], expected, "convert", stdin=text)
        for text, offset in ((b"\xed\xa0\x80", 0), (b"abc\xc3", 3), (b"\xf0\x9f\x8c\x8a\xc0\x80", 4)):
            self.assert_error(1, ["run", "-m", self.model], f"byte offset {offset};", stdin=text)

    def test_an_ill_formed_option_is_refused(self):
        for verb, options in (("run", ("--prompt", "--system", "--stop")), ("chat", ("--system", "--stop"))):
            for option in options:
                words = [verb, "-m", self.model, option, "caf\udce9"]
                self.assert_error(2, words, f"{option}: ", "not valid UTF-8 at byte offset 3", stdin="Hi")

    def test_ill_formed_messages_are_refused(self):
        path = self.folder / "talk.jsonl"
        path.write_bytes(b'[{"role":"user","content":"a"}]\n[{"role":"user","content":"\xe9"}]\n')
        self.assert_error(1, ["run", "-m", self.model, "--messages", path],
                          "line 2 of", "talk.jsonl is not valid UTF-8 at byte offset 27")
        self.assert_error(1, ["template", "-m", self.model], "standard input is not valid UTF-8 at byte offset 1",
                          stdin=b"[\xff")

    def test_messages_may_begin_with_a_byte_order_mark(self):
        line = json.dumps([{"role": "user", "content": "Hi"}])
        plain, marked = (self.one_json("run", "-m", self.model, "--messages", "-", "--max-tokens", 4, "--show-ids",
                                       stdin=start + line)["prompt_ids"] for start in ("", "\ufeff"))
        self.assertEqual(plain, marked)
        self.assert_error(1, ["run", "-m", self.model, "--messages", "-"], "line 2", "byte offset 0",
                          stdin=f"{line}\n\ufeff{line}")

    def test_bad_json_is_located(self):
        for text, offset in (("[{]", 2), ('[{"role" "user"}]', 9), ("[1,2", 4), ("[] x", 3)):
            self.assert_error(1, ["run", "-m", self.model, "--messages", self.messages_file(text)],
                              f"is not JSON at byte offset {offset}:")

    def test_a_content_that_the_template_cannot_join_is_named(self):
        template = "{% for message in messages %}{{ 'x' + message['content'] }}{% endfor %}"
        model = self.folder / "strict.gguf"
        model.write_bytes(gguf_edit.variant(TINY, {"tokenizer.chat_template": template}))
        said = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
        path = self.messages_file("", json.dumps(said))
        for verb in ("run", "explain"):
            self.assert_error(1, [verb, "-m", model, "--messages", path], "line 2 of", "template fails",
                              "message 2", "array", "give it as text")
        self.json_lines("run", "-m", self.model, "--messages", path, "--max-tokens", 1)

    def test_standard_input_that_cannot_be_read(self):
        for verb in ("chat", "run", "tokenize"):
            words = [*EMULATOR, BINARY, verb, "-m", str(self.model)]
            for redirection, cause in (("<.", "Is a directory"), ("<&-", "Bad file descriptor")):
                done = subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", *words], capture_output=True,
                                      check=False, timeout=120)
                self.assertEqual(done.stderr.decode(), f"error: cannot read standard input: {cause}\n", verb)
                self.assertEqual(done.returncode, 1)

    def test_conversations_are_answered_in_order_by_one_engine(self):
        line = json.dumps([{"role": "user", "content": "Tell me about rivers."}])
        path = self.messages_file(line, "", line)
        first, second = self.json_lines("run", "-m", self.model, "--messages", path, "--max-tokens", 4)
        self.assertEqual((first["turn"], second["turn"]), (1, 2))
        self.assertEqual(second["text"], first["text"])
        self.assertLessEqual(second["usage"]["prefilled_tokens"], 1)
        stdin = self.json_lines("run", "-m", self.model, "--messages", "-", "--max-tokens", 4, stdin=line)
        self.assertEqual(stdin[0]["text"], first["text"])

    def test_messages_that_are_none(self):
        for text, expected in (("", "no messages"), ("{}", "line 1"), ('[{"role":"user","content":"a"}]\n[', "line 2"),
                               ("[]", "line 1"), ("7", "line 1")):
            path = self.messages_file(text)
            self.assert_error(1, ["run", "-m", self.model, "--messages", path], "talk.jsonl", expected)

    def test_messages_go_alone(self):
        for words in (["--prompt", "x"], ["--raw"], ["--system", "x"]):
            self.assert_error(2, ["run", "-m", self.model, "--messages", "x", *words], "--messages")

    def test_a_seed_decides_the_draw(self):
        def text(seed):
            words = ["run", "-m", self.model, "--prompt", "Hi", "--temperature", 2, "--max-tokens", 24]
            return self.one_json(*words, "--seed", seed)["text"]

        self.assertEqual(text(1), text(1))
        self.assertNotEqual(text(1), text(2))

    def test_a_reply_ends_before_a_stop_text(self):
        words = ["run", "-m", self.model, "--prompt", "Hi", "--temperature", 1, "--max-tokens", 40]
        whole = self.one_json(*words)["text"]
        stop = whole[len(whole) // 2 :][:2]
        reply = self.one_json(*words, "--stop", "never said", "--stop", stop)
        self.assertEqual(reply["text"], whole[: whole.index(stop)])
        self.assertEqual(reply["finish_reason"], "stop")

    def test_a_deadline_ends_a_reply_as_far_as_it_has_come(self):
        endless = ["--repeat-penalty", 0.01, "--repeat-last", 1, "--max-tokens", 60000]
        reply = self.one_json("run", "-m", self.model, "--prompt", "Hi", *endless, "--deadline", 1)
        self.assertEqual(reply["finish_reason"], "deadline")
        self.assertGreater(reply["usage"]["reply_tokens"], 0)
        shown = self.run_program("chat", "-m", self.model, *endless, "--deadline", 1, stdin="Hi")
        self.assertEqual(shown.returncode, 0)
        self.assertIn(b", deadline passed]", shown.stdout)

    def test_a_deadline_before_the_reply_begins_is_an_error(self):
        words = ["run", "-m", self.model, "--prompt", "x " * 20000, "--deadline", 0.001]
        self.assert_error(1, words, "the deadline of 0.001 s passed before the reply began")
        self.assert_error(2, [*words[:-1], 0], "--deadline")

    def test_a_report_follows_on_standard_error(self):
        done = self.run_program("run", "-m", self.model, "--prompt", "Hi", "--max-tokens", 3)
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"tokens in: 0 reused", done.stderr)
        self.assertNotIn(b"tokens in", done.stdout)

    def test_a_model_is_found_by_the_beginning_of_its_name(self):
        env = {"DALSEGNO_MODELS": str(self.folder)}
        words = ["tokenize", "-m", "TAL"]
        self.assertTrue(self.one_json(*words, stdin="x", env=env)["ids"])
        (self.folder / "tall.gguf").write_bytes(self.model.read_bytes())
        self.assert_error(1, words, "talk.gguf", "tall.gguf", env=env)
        self.assertTrue(self.one_json("tokenize", "-m", "Talk", stdin="x", env=env)["ids"])

    def test_sizes_of_memory(self):
        for size in ("0", "-1", "", "MB", "1.2.3GB", "9" * 40, "1e3", "5 apples", "nan"):
            self.assert_error(2, ["run", "-m", self.model, "--prompt", "x", "--memory", size], "--memory")
        for size in ("1GiB", "1.5gb", "1 GB", "900000000", "automatic", "idle", "unconstrained"):
            self.one_json("run", "-m", self.model, "--prompt", "x", "--max-tokens", 1, "--memory", size)


if __name__ == "__main__":
    unittest.main()
