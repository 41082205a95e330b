#!/usr/bin/env python3
"""The tiny models of every weight type and architecture against their reference logits."""

import json
import statistics
import unittest

import program
import quality
from program import TINY

VOCABULARY = 264
# Float32 activations: nothing is rounded but K and V.
EXACT = ("llama-gqa", "llama-rope3", "llama-f16", "llama-bf16", "qwen2-bias", "qwen3-qknorm", "gemma3-swa")
ROUNDED = tuple(f"llama-{kind}" for kind in ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_k", "q5_k", "q6_k"))


class TinyQuality(program.ProgramTest):
    def log_probs(self, kind, *words):
        """(reference, ours), each a list of the whole vocabulary's log-probabilities per position."""
        golden = json.loads((TINY.parent / f"{kind}.json").read_text(encoding="ascii"))
        at = ",".join(map(str, golden["at"]))
        words = ["--ids", self.ids_file(golden["ids"]), "--at", at, "--top", VOCABULARY, *words]
        score = self.one_json("score", "-m", TINY.parent / f"{kind}.gguf", *words)
        ours = [[table[i] for i in range(VOCABULARY)] for table in quality.tables(score)]
        return [quality.log_softmax(logits) for logits in golden["logits"]], ours

    def largest_difference(self, kind, *words):
        reference, ours = self.log_probs(kind, *words)
        return max(abs(p - q) for a, b in zip(reference, ours) for p, q in zip(a, b))

    def test_unrounded_weights_with_f32_keys_and_values(self):
        for kind in EXACT:
            with self.subTest(kind):
                self.assertLess(self.largest_difference(kind, "--kv", "f32"), 2e-4)

    def test_activations_of_16_bits(self):
        def divergence(kind, kv):
            return statistics.mean(map(quality.kl, *self.log_probs(kind, "--kv", kv, "--activations", "16")))

        # What is left with bf16 keys and values is their rounding alone.
        self.assertLess(statistics.mean(divergence(kind, "bf16") for kind in ROUNDED), 2e-4)
        for kind in ROUNDED:
            with self.subTest(kind):
                self.assertLess(divergence(kind, "f32"), 2e-8)

    def test_rounded_activations(self):
        for kind in ROUNDED:
            for kv in ("bf16", "f32"):
                with self.subTest(kind, kv=kv):
                    reference, ours = self.log_probs(kind, "--kv", kv)
                    self.assertLess(statistics.mean(map(quality.kl, reference, ours)), 2e-3)
                    self.assertLess(self.largest_difference(kind, "--kv", kv), 0.5)


if __name__ == "__main__":
    unittest.main()
