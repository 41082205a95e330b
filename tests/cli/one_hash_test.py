#!/usr/bin/env python3
"""score --hash prints one value for the same ids, however they are computed."""

import random
import unittest

import program
from program import TINY

LENGTH = 150
MIXED = (["--kv", "8", "--kv-start", "37"], ["--kv", "4", "--kv-start", "80", "--max-kv", "100", "--keep", "20"])


class OneHash(program.ProgramTest):
    def setUp(self):
        super().setUp()
        draw = random.Random(7)
        self.ids = self.ids_file([draw.randrange(256) for _ in range(LENGTH)])

    def score(self, *words, env=None, model=TINY):
        return self.one_json("score", "-m", model, "--ids", self.ids, "--hash", *words, env=env)

    def levels(self):
        shown = self.output("--version")
        return [level for level in ("scalar", "avx2", "avx512", "neon") if level in shown]

    def assert_one_hash(self, runs):
        hashes = {run["hash"] for run in runs}
        self.assertEqual(len(hashes), 1, hashes)

    def test_for_threads_and_chunks(self):
        runs = [self.score("--threads", threads) for threads in (1, 2, 3)]
        runs += [self.score("--chunk", chunk) for chunk in (1, 7, 64, 4096)]
        self.assert_one_hash(runs)

    def test_for_cpu_levels_weights_and_kv_formats(self):
        kinds = ("llama-gqa", "llama-q4_1", "llama-q6_k", "llama-bf16", "qwen2-bias", "qwen3-qknorm", "gemma3-swa")
        for kind in kinds:
            model = TINY.parent / f"{kind}.gguf"
            for words in (["--kv", "bf16"], ["--kv", "f32"], ["--activations", "16"], *MIXED):
                runs = [self.score(*words, model=model, env={"DALSEGNO_CPU": level}) for level in self.levels()]
                self.assertGreaterEqual(len(runs), 1)
                self.assert_one_hash(runs)

    def test_where_codes_start_later(self):
        for kind in ("llama-gqa", "gemma3-swa"):
            model = TINY.parent / f"{kind}.gguf"
            for words in MIXED:
                start = ["--from", 120]
                runs = [self.score(*words, *start, *how, model=model)
                        for how in ([], ["--chunk", 5], ["--threads", 1], ["--warm", 120], ["--warm", 90, "--evict"])]
                self.assert_one_hash(runs)
                plain = self.score("--from", 120, model=model)["hash"]
                self.assertNotEqual(runs[0]["hash"], plain)
            never = self.score("--kv", "8", "--kv-start", LENGTH, "--from", 120, model=model)
            self.assertEqual(never["hash"], plain)

    def test_only_quantised_weights_tell_the_precision_of_activations(self):
        for kind, same in (("bf16", True), ("gqa", True), ("q4_1", False), ("q6_k", False)):
            model = TINY.parent / f"llama-{kind}.gguf"
            hashes = [self.score("--activations", bits, model=model)["hash"] for bits in (8, 16)]
            self.assertEqual(hashes[0] == hashes[1], same, kind)

    def test_another_text_has_another_hash(self):
        before = self.score()["hash"]
        self.ids = self.ids_file([1] * LENGTH)
        self.assertNotEqual(self.score()["hash"], before)

    def test_for_cold_warm_and_evicted(self):
        for start in (1, 63, 64, 65, LENGTH // 2, LENGTH - 1):
            cold = self.score("--from", start)
            warm = self.score("--from", start, "--warm", start)
            evicted = self.score("--from", start, "--warm", start, "--evict")
            self.assert_one_hash([cold, warm, evicted])
            self.assertEqual(cold["usage"]["reused_tokens"], 0)
            self.assertEqual(warm["usage"]["reused_tokens"], start)
            self.assertEqual(evicted["usage"]["reused_tokens"], 0)


if __name__ == "__main__":
    unittest.main()
