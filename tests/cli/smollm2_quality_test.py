#!/usr/bin/env python3
"""SmolLM2 is as near to the reference as llama.cpp: mean KL at most 1.05 times its own, p99 and maximum 1.5 times.
With 16-bit activations it is nearer by far: mean KL at most 0.0002."""

import json
import statistics
import unittest

import program
import quality
from program import GOLDEN, SMOLLM2

VOCABULARY = 49152
LIKELY = 2000  # tokens that nearly always hold the 32 that the reference lists


class SmolLM2Quality(program.ProgramTest):
    def listed(self, prompt, options):
        """The listed KL at each golden position of one prompt."""
        at = ",".join(map(str, prompt["at"]))
        words = ["score", "-m", SMOLLM2, "--ids", self.ids_file(prompt["ids"]), "--at", at, *options]
        reference = [dict(map(tuple, top)) for top in prompt["top"]]
        ours = quality.tables(self.one_json(*words, "--top", LIKELY))
        if any(listed.keys() - table.keys() for listed, table in zip(reference, ours)):
            ours = quality.tables(self.one_json(*words, "--top", VOCABULARY))
        return [quality.listed_kl(listed, table) for listed, table in zip(reference, ours)]

    def all_listed(self, *options):
        values = []
        for prompt in program.golden_lines("logits-smollm2.jsonl"):
            values += self.listed(prompt, options)
        print(f"listed KL {' '.join(options)}: mean {statistics.mean(values):.3g}, "
              f"p99 {quality.percentile(values, 0.99):.3g}, max {max(values):.3g}")
        return values

    def assert_within(self, values, mean, p99, largest):
        self.assertLessEqual(statistics.mean(values), 1.05 * mean)
        self.assertLessEqual(quality.percentile(values, 0.99), 1.5 * p99)
        self.assertLessEqual(max(values), 1.5 * largest)

    def test_listed_divergence(self):
        values = self.all_listed()
        limit = quality.llamacpp("smollm2")["listed"]
        self.assertEqual(len(values), limit["positions"])
        print(f"llama.cpp: {limit['mean']}, {limit['p99']}, {limit['max']}")
        self.assert_within(values, limit["mean"], limit["p99"], limit["max"])

    def test_activations_of_16_bits(self):
        self.assertLessEqual(statistics.mean(self.all_listed("--activations", "16")), 2e-4)
        self.assertLessEqual(statistics.mean(self.all_listed("--activations", "16", "--kv", "f32")), 1e-5)

    def test_nll(self):
        golden = json.loads((GOLDEN / "nll-smollm2.json").read_text(encoding="ascii"))
        score = self.one_json("score", "-m", SMOLLM2, "--ids", self.ids_file(golden["ids"]))
        self.assertEqual(len(score["nll"]), len(golden["nll"]))
        values = [abs(p - q) for p, q in zip(golden["nll"], score["nll"])]
        limit = quality.llamacpp("smollm2")["nll"]
        # One position out of 2047: llama.cpp's own maximum is 0.45 or 0.79, as its K/V are f16 or f32.
        largest = max(limit["max_abs"], quality.llamacpp("smollm2", "kv_f32")["nll"]["max_abs"])
        print(f"|NLL - reference|: mean {statistics.mean(values):.5f}, max {max(values):.4f}")
        self.assert_within(values, limit["mean_abs"], limit["p99_abs"], largest)


if __name__ == "__main__":
    program.need_smollm2()
    unittest.main()
