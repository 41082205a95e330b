#!/usr/bin/env python3
"""scripts/bench_compare in its short mode, without the peers that must be fetched: another run of our own program
stands for one. Never how fast anything is."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("DALSEGNO_BINARY", str(ROOT / "build" / "release" / "dalsegno"))
TINY = ROOT / "tests" / "golden" / "tiny" / "llama-q4_0.gguf"
sys.path.insert(0, str(ROOT / "bench" / "compare"))


class BenchCompare(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def compare(self, *words, model=TINY):
        command = [sys.executable, ROOT / "scripts" / "bench_compare", "--model", model, "--short", "--peers", "none",
                   "--out", self.folder, "--threads", "2", *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600,
                              env=dict(os.environ, DALSEGNO_BINARY=BINARY))

    def report(self):
        return json.loads((self.folder / "compare.json").read_text(encoding="utf-8"))

    def test_every_row_has_a_figure_a_ratio_and_its_share_of_the_limit(self):
        done = self.compare("--also", f"again={BINARY} bench", "--also", "broken=false")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = self.report()
        rows = report["runs"][0]["rows"]
        self.assertEqual({row["test"] for row in rows}, {"load", "memory", "prefill", "decode", "batch", "shared_prefix"})
        for row in rows:
            self.assertEqual(set(row["engines"]), {"dalsegno", "again"}, row)
            self.assertEqual(row["fastest"], "again")
            self.assertGreater(row["ratios"]["again"]["median"], 0)
            self.assertGreater(row["limit_share"], 0)
            self.assertIn("said nothing", row["failed"]["broken"])
        written = (self.folder / "compare.md").read_text(encoding="utf-8")
        for word in ("| prefill 32 | tok/s |", "again", "GB/s", "no figure from broken", report["cpu"]):
            self.assertIn(word, written)
        self.assertIn("ratio", done.stdout)

    def test_chosen_rows(self):
        done = self.compare("--rows", "decode,batch:3:5:2")
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.report()["runs"][0]["rows"]
        self.assertEqual([(row["test"], row["tokens"], row["batch"]) for row in rows], [("decode", 4, 1), ("batch", 3, 2)])
        self.assertIsNone(rows[0]["fastest"])
        self.assertNotEqual(self.compare("--rows", "flying").returncode, 0)

    def test_a_row_that_ours_cannot_do_fails(self):
        done = self.compare("--rows", "decode:4:1000000:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("skipped", self.report()["runs"][0]["rows"][0]["failed"]["dalsegno"])

    def test_a_model_that_is_not_there(self):
        done = self.compare(model=self.folder / "absent.gguf")
        self.assertEqual(done.returncode, 1)
        self.assertIn("absent.gguf", done.stderr)


class Docs(unittest.TestCase):
    def test_the_tables_go_between_the_marks(self):
        import report as report_of

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "performance.md"
            path.write_text(f"above\n{report_of.BEGIN}\nold\n{report_of.END}\nbelow\n", encoding="utf-8")
            report_of.write_docs({"cpu": "a CPU", "threads": 2, "engines": [], "runs": []}, path)
            text = path.read_text(encoding="utf-8")
            self.assertTrue(text.startswith("above\n") and text.endswith("below\n"))
            self.assertIn("a CPU", text)
            self.assertNotIn("old", text)
            path.write_text("no marks", encoding="utf-8")
            with self.assertRaises(SystemExit):
                report_of.write_docs({"cpu": "", "threads": 2, "engines": [], "runs": []}, path)

    def test_performance_md_has_the_marks(self):
        import report as report_of

        text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
        self.assertEqual((text.count(report_of.BEGIN), text.count(report_of.END)), (1, 1))


class Curves(unittest.TestCase):
    def test_a_line_has_no_residuals_and_batches_are_compared_by_the_time_of_their_steps(self):
        import curves

        def row(test, depth, batch, speed):
            return {"test": test, "depth": depth, "batch": batch, "engines": {"ours": {"median": speed, "values": [speed]}}}

        rows = [row("decode", depth, 1, 1 / (0.002 + depth * 1e-6)) for depth in (0, 1000, 4000)]
        rows += [row("batch", 128, 1, 100), row("batch", 128, 2, 160)]
        found = {"engines": ["ours", "absent"], "rows": rows}
        base, slope, off = curves.residuals(curves.points(found, "decode", "ours"))
        self.assertAlmostEqual(base, 0.002)
        self.assertAlmostEqual(slope, 1e-6)
        self.assertLess(max(map(abs, off)), 1e-9)
        self.assertEqual(curves.batch_costs(found, "ours"), [(2, 1, 1.25)])
        self.assertEqual(len(list(curves.summary(found))), 2)

    def test_batches_are_compared_within_a_pass(self):
        import curves

        rows = [{"test": "batch", "depth": 128, "batch": 1, "engines": {"ours": {"median": 50, "values": [100, 10, 50]}}},
                {"test": "batch", "depth": 128, "batch": 2, "engines": {"ours": {"median": 90, "values": [160, 16, 90]}}}]
        self.assertEqual(curves.batch_costs({"rows": rows}, "ours"), [(2, 1, 1.25)])

    def test_passes_measure_every_row_before_any_again(self):
        import measure

        calls = []

        class Fake:
            name, settings = "dalsegno", ()

            def run(self, model, threads, row, repeat, setting):
                calls.append(row["batch"])
                if len(calls) == 6:
                    raise measure.Failed("it ended with 1")
                return {"test": row["test"], "tokens_per_second": {"median": len(calls)}}

        rows = [measure.RowMeasurement([Fake()], "model", 2, {"test": "batch", "batch": batch}, 1) for batch in (1, 2)]
        passes = []
        measure.measure_passes(rows, 3, lambda number, reports: passes.append((number, reports)))
        self.assertEqual(calls, [1, 2, 1, 2, 1, 2])
        self.assertEqual([number for number, _ in passes], [1, 2, 3])
        self.assertEqual(passes[2][1][0]["engines"]["dalsegno"]["values"], [1, 3, 5])
        self.assertEqual(passes[1][1][1]["engines"]["dalsegno"]["values"], [2, 4])
        self.assertEqual(passes[2][1][1]["failed"], {"dalsegno": "it ended with 1"})


if __name__ == "__main__":
    unittest.main()
