#!/usr/bin/env python3
"""Wrong usage is a sentence too, and a reader who leaves is not an error."""

import subprocess
import sys
import unittest

import gguf_edit
import program
from program import BINARY, TINY


class Usage(program.ProgramTest):
    def test_version_names_program_numerics_and_cpu_levels(self):
        shown = self.output("--version")
        for word in ("dalsegno", "numerics", "scalar"):
            self.assertIn(word, shown)

    def test_help_of_every_verb_shows_an_example(self):
        for verb in ("run", "chat", "tokenize", "template", "score", "explain", "inspect", "bench"):
            shown = self.output(verb, "--help")
            self.assertIn(f"dalsegno {verb}", shown)
            self.assertIn("xample", shown)

    def test_no_verb_is_wrong_usage(self):
        done = self.run_program()
        self.assertEqual(done.returncode, 2)

    def test_an_unknown_verb(self):
        self.assert_error(2, ["fly"], "fly")

    def test_an_unknown_option(self):
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--nonsense"], "--nonsense")

    def test_no_model(self):
        self.assert_error(2, ["run", "--prompt", "x"], "--model")

    def test_a_model_that_is_not_there(self):
        path = self.folder / "absent.gguf"
        for verb in (["run", "--prompt", "x"], ["inspect"], ["tokenize"], ["chat"]):
            self.assert_error(1, [*verb, "-m", path], "absent.gguf")

    def test_a_name_that_the_models_folder_lacks(self):
        self.assert_error(1, ["inspect", "-m", "NoSuchModel"], "NoSuchModel", str(self.folder),
                          env={"DALSEGNO_MODELS": str(self.folder)})

    def test_a_folder_instead_of_a_file(self):
        self.assert_error(1, ["run", "-m", self.folder, "--prompt", "x"], str(self.folder), "folder")

    def test_a_file_that_is_no_model(self):
        path = self.folder / "text.gguf"
        path.write_text("This is no model.", encoding="ascii")
        self.assert_error(1, ["run", "-m", path, "--prompt", "x"], "text.gguf")

    def test_an_empty_file(self):
        path = self.folder / "empty.gguf"
        path.touch()
        self.assert_error(1, ["inspect", "-m", path], "empty.gguf")

    def test_an_empty_prompt(self):
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", ""], "--prompt is empty")
        self.assert_error(2, ["explain", "-m", TINY, "--raw", "-p", ""], "--prompt is empty")
        self.assert_error(1, ["run", "-m", TINY, "--raw"], "prompt", stdin="")

    def test_a_context_that_the_model_was_not_made_for(self):
        for verb in (["run", "--raw", "--prompt", "x"], ["inspect"]):
            self.assert_error(2, [*verb, "-m", TINY, "--context", "2049"], "made for at most 2048")

    def test_what_inspect_says_is_needed_is_enough_and_not_too_much(self):
        ids = self.ids_file([1] * 1000)
        score = ["score", "-m", TINY, "--ids", ids, "--from", "999", "--context", "1000", "--threads", "2"]
        needed = self.one_json("inspect", "-m", TINY, "--context", "1000", "--threads", "2")["memory_at_context"]
        self.output(*score, "--memory", needed)
        self.assert_error(1, [*score, "--memory", needed - 1], "the prompt's 1000 tokens need", "raise --memory")
        shown = self.output("inspect", "-m", TINY, "--context", "1000", "--threads", "2")
        size = shown.partition("--memory ")[2].split()[0]
        self.output(*score, "--memory", size)

    def test_a_warm_start_that_cannot_be_used_is_told(self):
        ids = self.ids_file([1] * 100)
        done = self.run_program("score", "-m", TINY, "--ids", ids, "--warm", 50)
        self.assertEqual(done.returncode, 0)
        self.assertIn(b"without --from", done.stderr)
        for words in (["--warm", 0], ["--warm", 50, "--from", 20], []):
            self.assertEqual(self.run_program("score", "-m", TINY, "--ids", ids, *words).stderr, b"")

    def test_a_prompt_longer_than_the_context(self):
        words = ["run", "-m", TINY, "--raw", "--prompt", "abcdefgh" * 20, "--context", "64"]
        self.assert_error(1, words, "64", "context")

    def test_an_impossible_budget(self):
        self.assert_error(1, ["run", "-m", TINY, "--raw", "--prompt", "x", "--memory", "1MB"], "budget", "--memory")

    def test_a_budget_that_is_no_size(self):
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--memory", "lots"], "lots", "--memory")
        for size in ("some", "", "-1", "0.5", "1e9GB"):
            self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--idle-memory", size], "--idle-memory")
            self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--memory", size], "--memory")
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--memory", "0"], "--memory")
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--memory", "100MB", "--idle-memory", "1GB"],
                          "953.7 MiB")

    def test_nothing_may_be_kept_while_idle(self):
        for size in ("0", "0MB"):
            self.output("run", "-m", TINY, "--raw", "--max-tokens", 2, "--idle-memory", size, stdin="abc" * 30)

    def test_a_temperature_next_to_zero_is_greedy(self):
        run = ["run", "-m", TINY, "--raw", "--prompt", "abc", "--max-tokens", 8]
        greedy = self.one_json(*run, "--temperature", "0")["text"]
        for temperature in ("1e-300", "1e-9999", "0.0000001"):
            self.assertEqual(self.one_json(*run, "--temperature", temperature)["text"], greedy)
        for value in ("1e39", "1e9999", "-1e-30"):
            self.assert_error(2, [*run, "--temperature", value], "from 0 to 1000")

    def test_biases(self):
        run = ["run", "-m", TINY, "--raw", "--prompt", "abc", "--max-tokens", 8]
        self.assert_error(2, [*run, "--logit-bias", "264=1"], "--logit-bias 264", "0 to 263")
        self.assert_error(2, [*run, "--logit-bias", "-1=1"], "--logit-bias")
        forbidden = [word for id in range(264) for word in ("--logit-bias", f"{id}=-inf")]
        self.assert_error(1, [*run, *forbidden], "every token is forbidden")
        self.assert_error(1, [*run, *forbidden, "--temperature", "1"], "every token is forbidden")
        self.assertEqual(self.one_json(*run, *forbidden[2:], "--show-ids")["reply_ids"], [0] * 8)

    def test_numbers_out_of_range(self):
        for option, value in (("--threads", "0"), ("--threads", "x"), ("--max-tokens", "-1"), ("--temperature", "nan"),
                              ("--top-p", "2"), ("--chunk", "0"), ("--context", "99999999999999999999")):
            self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", option, value], option)

    def test_formats_that_do_not_exist(self):
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--kv", "f64"], "f64")
        self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--kv", "16"], "'16'", "8 or 4")
        for group in ("0", "16", "256", "x"):
            words = ["run", "-m", TINY, "--raw", "--prompt", "x", "--kv", "8", "--kv-group", group]
            self.assert_error(2, words, f"'{group}'", "32, 64 or 128")
        for start in ("-1", "x", "1.5"):
            words = ["run", "-m", TINY, "--raw", "--prompt", "x", "--kv", "8", "--kv-start", start]
            self.assert_error(2, words, "--kv-start", f"'{start}'")
        for kv in ([], ["--kv", "bf16"], ["--kv", "f32"]):
            self.assert_error(2, ["inspect", "-m", TINY, *kv, "--kv-start", "64"], "--kv-start", "8 or 4")
            words = ["inspect", "-m", TINY, *kv, "--kv-group", "64"]
            self.assert_error(2, words, "--kv-group", "8 or 4")
        run = ["run", "-m", TINY, "--raw", "--prompt", "x"]
        self.assert_error(2, [*run, "--keep", "4"], "--keep", "--max-kv")
        self.assert_error(2, [*run, "--max-kv", "4", "--keep", "4"], "--keep 4", "--max-kv 4")
        self.assert_error(2, [*run, "--max-kv", "0"], "--max-kv", "'0'")
        for bits in ("7", "32", "-8", "08", "16 ", "", "sixteen"):
            self.assert_error(2, ["run", "-m", TINY, "--raw", "--prompt", "x", "--activations", bits], f"'{bits}'", "8 or 16")

    def test_an_unknown_eviction_policy_is_refused(self):
        run = ["run", "-m", TINY, "--raw", "--prompt", "x", "--max-tokens", "1"]
        self.assert_error(2, [*run, "--eviction", "fifo"], "--eviction", "fifo", "value", "lru")

    def test_a_model_without_a_template_says_so(self):
        self.assert_error(1, ["run", "-m", TINY, "--prompt", "x"], "template")
        self.assert_error(1, ["template", "-m", TINY], "template", stdin='{"messages":[]}')

    def test_an_unknown_cpu_level(self):
        words = ["run", "-m", TINY, "--raw", "--prompt", "x"]
        for verb in (words, ["--version"], ["bench", "-m", TINY, "--row", "decode:1:0:1"]):
            self.assert_error(2, verb, "DALSEGNO_CPU", "sse9", env={"DALSEGNO_CPU": "sse9"})

    def test_bad_ids(self):
        for text in ("", "{}", "[", "[]", "[1.5]", '["1"]', "[-1]", "[264]", "[1e99]", "null"):
            path = self.folder / "bad.json"
            path.write_text(text, encoding="ascii")
            self.assert_error(1, ["score", "-m", TINY, "--ids", path], "bad.json")
        self.assert_error(1, ["score", "-m", TINY, "--ids", self.folder / "absent.json"], "absent.json")

    def test_ids_that_are_not_written_as_integers(self):
        for text, element in (("[1e2,2]", "element 0"), ("[2,3.0]", "element 1")):
            error = self.assert_error(1, ["score", "-m", TINY, "--ids", "-"], element, "as an integer", stdin=text)
            self.assertNotIn("not a token id", error)
        self.assert_error(1, ["score", "-m", TINY, "--ids", "-"], "not a token id from 0 to 263", stdin="[1e3]")

    def test_an_empty_file_name(self):
        run = ["run", "-m", TINY, "--raw", "-p", "x"]
        for words in (["chat", "-m", TINY, "--session"], [*run, "--draft-model"], [*run, "--json-schema"],
                      [*run, "--grammar"], ["run", "-m", TINY, "--messages"], ["score", "-m", TINY, "--ids"],
                      ["bench", "-m", TINY, "--compare"]):
            self.assert_error(2, [*words, ""], words[-1], "empty")

    def test_no_home(self):
        env = {"HOME": "", "XDG_DATA_HOME": "", "DALSEGNO_MODELS": ""}
        error = self.assert_error(1, ["inspect", "-m", "NoSuchModel"], "NoSuchModel", "HOME is not set",
                                  "DALSEGNO_MODELS", env=env)
        self.assertNotIn("/.local", error)
        self.output("inspect", "-m", TINY, env=env)

    def test_positions_outside_the_ids(self):
        ids = self.ids_file([1, 2, 3])
        for option, value in (("--at", "3"), ("--at", "-1"), ("--from", "3"), ("--warm", "4")):
            done = self.run_program("score", "-m", TINY, "--ids", ids, option, value)
            self.assertIn(done.returncode, (1, 2), option)
            self.assertTrue(done.stderr.startswith(b"error: "), option)

    def test_bad_messages(self):
        path = self.folder / "talk.jsonl"
        path.write_text("not json\n", encoding="ascii")
        self.assert_error(1, ["run", "-m", TINY, "--messages", path], "talk.jsonl")

    def test_an_architecture_that_is_not_supported(self):
        other = self.folder / "other.gguf"
        other.write_bytes(gguf_edit.variant(TINY, {"general.architecture": "mamba"}))
        self.assert_error(1, ["run", "-m", other, "--raw", "--prompt", "x"], "mamba", "llama, qwen2, qwen3, gemma3")
        shown = self.output("inspect", "-m", other)
        self.assertIn("mamba", shown)
        self.assertIn("unknown", shown)
        self.assertNotRegex(shown, r"[ (]0 (layers|tokens|heads|B)|hidden 0|of 0\b")
        value = self.one_json("inspect", "-m", other)
        for field in ("layers", "hidden", "feed_forward", "heads", "kv_heads", "head_dim", "context", "at_context",
                      "sliding_window", "windowed_layers", "kv_bytes_per_token", "packed_weight_bytes",
                      "memory_at_context"):
            self.assertIsNone(value[field], field)
        self.assertEqual((value["architecture"], value["runnable"], value["vocabulary"]), ("mamba", False, 264))
        other.write_bytes(gguf_edit.variant(TINY, {"general.architecture": "mamba", "mamba.block_count": 7}))
        self.assertIn("7 layers, hidden unknown", self.output("inspect", "-m", other))
        self.assertEqual(self.one_json("inspect", "-m", other)["layers"], 7)

    def test_every_architecture_continues_text(self):
        for name in ("llama-gqa", "qwen2-bias", "qwen3-qknorm", "gemma3-swa"):
            model = TINY.parent / f"{name}.gguf"
            reply = self.one_json("run", "-m", model, "--raw", "--prompt", "abc", "--max-tokens", 5, "--temperature", 0)
            self.assertLessEqual(reply["usage"]["reply_tokens"], 5)
            self.assert_error(1, ["chat", "-m", model], "no chat template", "run --raw")

    def test_a_reader_who_leaves_is_no_error(self):
        words = [BINARY, "run", "-m", str(TINY), "--raw", "--prompt", "abc", "--max-tokens", "400"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.read(1)
            process.stdout.close()
            error = process.stderr.read()
            status = process.wait(timeout=120)
        self.assertEqual(error, b"")
        self.assertEqual(status, 0)

    def test_the_harness_says_what_it_lacks(self):
        path = {"PATH": str(self.folder)}
        self.assert_error(1, ["harness"], "python3 cannot be started", env=path)
        bare = self.folder / "python3"  # no installed packages
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E -S "$@"\n', encoding="utf-8")
        bare.chmod(0o755)
        self.assert_error(1, ["harness"], "needs the Python package dalsegno", env=path)

    def test_a_full_device_is_an_error(self):
        with open("/dev/full", "wb") as full:
            words = [BINARY, "inspect", "-m", str(TINY)]
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, timeout=120)
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stderr.startswith(b"error: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
