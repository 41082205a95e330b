#!/usr/bin/env python3
"""bench: the shape of what it prints and what it refuses. Never how fast anything is."""

import json
import unittest

import program
from program import TINY

NUMBER = (int, float)
TESTS = {"load", "memory", "prefill", "decode", "batch", "shared_prefix"}


class Bench(program.ProgramTest):
    def assert_spread(self, spread):
        self.assertLess(0, spread["min"])
        self.assertLessEqual(spread["min"], spread["median"])
        self.assertLessEqual(spread["median"], spread["max"])

    def short(self, *words, env=None):
        return self.json_lines("bench", "-m", TINY, "--short", *words, env=env)

    def test_rows(self):
        rows = self.short("--threads", 2)
        self.assertEqual({row["test"] for row in rows}, TESTS)
        for row in rows:
            for name in ("tokens", "depth", "batch"):
                self.assertIsInstance(row[name], int, row)
            self.assert_spread(row["tokens_per_second"])
            self.assert_spread(row["seconds"])
            self.assertGreater(row["limit_share"], 0)
            for name in ("read_gb_per_second", "int8_gops", "bf16_gflops"):
                self.assertGreater(row["limits"][name], 0, name)
            self.assertEqual("mib" in row, row["test"] == "memory")
        memory = next(row for row in rows if row["test"] == "memory")
        self.assert_spread(memory["mib"])
        self.assertGreater(memory["mib"]["median"], 1)

    def test_chosen_rows_and_level(self):
        rows = self.short("--test", "decode,prefill", env={"DALSEGNO_CPU": "scalar"})
        self.assertEqual({row["test"] for row in rows}, {"decode", "prefill"})
        self.assertEqual({row["limits"]["level"] for row in rows}, {"scalar"})

    def test_the_table_names_units_and_limits(self):
        shown = self.output("bench", "-m", TINY, "--short", "--repeat", 2)
        for word in ("tok/s", "MiB", " ms ", "limits (", "GB/s", "GOPS", "of limit"):
            self.assertIn(word, shown)

    def test_rows_beyond_the_context_are_named_as_skipped(self):
        done = self.run_program("bench", "-m", TINY, "--test", "prefill,decode", "--repeat", 1, "--json", "--context", 72)
        self.assertEqual(done.returncode, 0, done.stderr)
        skipped = done.stderr.decode()
        self.assertIn("skipped: prefill of 512 tokens", skipped)
        self.assertIn("depth 4096", skipped)
        self.assertEqual([json.loads(line)["depth"] for line in done.stdout.splitlines()], [0])

    def test_compare(self):
        path = self.folder / "before.json"
        earlier = self.short()
        for row in earlier:
            if row["test"] == "decode":
                row["tokens_per_second"] = {"median": 1e-6, "min": 1e-6, "max": 1e-6}
        path.write_text("\n".join(map(json.dumps, earlier[1:])), encoding="ascii")
        for row in self.short("--compare", path):
            if row["test"] == earlier[0]["test"]:
                self.assertIsNone(row["ratio"])
                self.assertFalse(row["beyond_spread"])
            elif row["test"] == "decode":
                self.assertGreater(row["ratio"], 1)
                self.assertTrue(row["beyond_spread"])
            else:
                self.assertGreater(row["ratio"], 0)
        shown = self.output("bench", "-m", TINY, "--short", "--test", "decode", "--compare", path)
        self.assertIn("beyond both spreads", shown)

    def test_compare_refuses_what_is_no_earlier_output(self):
        words = ["bench", "-m", TINY, "--short", "--compare"]
        self.assert_error(1, [*words, self.folder / "absent.json"], "absent.json")
        path = self.folder / "other.json"
        for text in ("", "not json\n", "[]\n", '{"test":"decode"}\n', '{"test":"decode","tokens":4,"depth":0,"batch":1}'):
            path.write_text(text, encoding="ascii")
            self.assert_error(1, [*words, path], "other.json", "bench --json")

    def test_a_row_of_ones_own(self):
        rows = self.json_lines("bench", "-m", TINY, "--short", "--row", "decode:3:5:1", "--row", "batch:2:7:3")
        self.assertEqual([(row["test"], row["tokens"], row["depth"], row["batch"]) for row in rows],
                         [("decode", 3, 5, 1), ("batch", 2, 7, 3)])
        for row in ("decode", "decode:3:5", "decode:3:5:2", "decode:0:5:1", "prefill:4:4:1", "flying:1:0:1", "batch:1:1:x"):
            self.assert_error(2, ["bench", "-m", TINY, "--row", row], "--row", row)

    def test_a_row_asked_for_that_does_not_fit_is_a_failure(self):
        done = self.run_program("bench", "-m", TINY, "--short", "--row", "decode:3:100000:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("skipped: decode of 3 tokens at depth 100000", done.stderr.decode())

    def test_a_batch_beyond_the_engine_names_the_most(self):
        self.assert_error(2, ["bench", "-m", TINY, "--row", "batch:4:16:257"], "at most 256")

    def test_a_test_that_is_not_there(self):
        self.assert_error(2, ["bench", "-m", TINY, "--test", "flying"], "flying", "shared_prefix")


if __name__ == "__main__":
    unittest.main()
