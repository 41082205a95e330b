#!/usr/bin/env python3
"""include_edges.py notices each kind of bad edge when one is planted."""

import pathlib
import tempfile
import unittest

import include_edges


class IncludeEdges(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.plant("include/dalsegno/types.hpp", "#include <vector>\n")
        self.plant("src/base/log.hpp", '#include "dalsegno/types.hpp"\n')
        self.plant("src/tensor/shape.hpp", '#include "base/log.hpp"\n')
        self.plant("src/model/llama.hpp", '#include "tensor/shape.hpp"\n')
        self.plant("src/cache/pool.hpp", '#include "base/log.hpp"\n#include <fmt/core.h>\n')
        self.plant("src/runtime/engine.cpp", '#include "model/llama.hpp"\n#include "cache/pool.hpp"\n')
        self.plant("src/base/log_test.cpp", "#include <gtest/gtest.h>\n")

    def plant(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def assert_only(self, *words):
        found = include_edges.check(self.root)
        self.assertEqual(len(found), 1, found)
        for word in words:
            self.assertIn(word, found[0])

    def test_a_good_tree_has_no_complaints(self):
        self.assertEqual(include_edges.check(self.root), [])

    def test_an_upward_include(self):
        self.plant("src/base/bad.cpp", 'int x;\n  #  include "runtime/engine.cpp"\n')
        self.assert_only("src/base/bad.cpp:2", "runtime/engine.cpp", "no other folder")

    def test_a_sideways_include(self):
        self.plant("src/cache/bad.cpp", '#include "model/llama.hpp"\n')
        self.assert_only("src/cache/bad.cpp:1", "cache may include base, tensor")

    def test_a_unit_test_stands_on_its_folders_rung(self):
        self.plant("src/model/bad_test.cpp", '#include "cache/pool.hpp"\n')
        self.assert_only("src/model/bad_test.cpp:1")

    def test_a_front_end_sees_only_the_public_api_and_base(self):
        self.plant("src/cli/good.cpp", '#include "dalsegno/types.hpp"\n#include "base/log.hpp"\n')
        self.plant("src/cli/bad.cpp", '#include "cache/pool.hpp"\n')
        self.assert_only("src/cli/bad.cpp:1")

    def test_the_public_api_leans_on_the_standard_library_alone(self):
        self.plant("include/dalsegno/bad.hpp", "#include <fmt/core.h>\n")
        self.assert_only("include/dalsegno/bad.hpp:1", "standard library")

    def test_the_c_interface_is_for_bindings(self):
        self.plant("include/dalsegno.h", "#include <stdint.h>\n")
        self.plant("bindings/c/handles.hpp", '#include "dalsegno.h"\n')
        self.plant("bindings/c/good.cpp", '#include "bindings/c/handles.hpp"\n#include "dalsegno/types.hpp"\n')
        self.plant("bindings/c/bad.cpp", '#include "tensor/shape.hpp"\n')
        self.assert_only("bindings/c/bad.cpp:1", "bindings may include base")
        self.plant("bindings/c/bad.cpp", '#include "bindings/c/none.hpp"\n')
        self.assert_only("bindings/c/bad.cpp:1", "no such header")
        self.plant("bindings/c/bad.cpp", "")
        self.plant("src/cli/bad.cpp", '#include "dalsegno.h"\n')
        self.assert_only("src/cli/bad.cpp:1", "for those who bind it")

    def test_the_public_api_includes_no_folder(self):
        self.plant("include/dalsegno/bad.hpp", '#include "base/log.hpp"\n')
        self.assert_only("include/dalsegno/bad.hpp:1", "below every folder")

    def test_an_include_without_its_folder(self):
        self.plant("src/base/bad.cpp", '#include "log.hpp"\n')
        self.assert_only("src/base/bad.cpp:1", "qualified")

    def test_our_header_in_angle_brackets(self):
        self.plant("src/base/bad.cpp", "#include <runtime/engine.cpp>\n")
        self.assert_only("src/base/bad.cpp:1", "quotes")

    def test_a_header_that_is_not_there(self):
        self.plant("src/model/bad.cpp", '#include "base/nothing.hpp"\n')
        self.assert_only("no such header")

    def test_one_file_of_a_folder(self):
        self.plant("src/cache/tier.hpp", "")
        self.plant("src/store/disk.cpp", '#include "cache/tier.hpp"\n')
        self.plant("src/store/bad.cpp", '#include "cache/pool.hpp"\n')
        self.assert_only("src/store/bad.cpp:1")

    def test_a_folder_without_a_rung(self):
        self.plant("src/extra/bad.cpp", "")
        self.assert_only("no place on the ladder")

    def test_the_bridge_is_seen_by_text_alone(self):
        self.plant("src/text/good.cpp", '#include "dalsegno_bridge.h"\n')
        self.plant("src/model/bad.cpp", '#include "dalsegno_bridge.h"\n')
        self.assert_only("src/model/bad.cpp:1", "src/text")

    def test_a_file_that_is_too_long(self):
        self.plant("tests/golden/long.cpp", "\n" * 601)
        self.plant("scripts/good", "\n" * 600)
        self.plant("include/dalsegno.h", "\n" * 601)
        self.plant("scripts/bad", "\n" * 601)
        self.assert_only("scripts/bad: 601 lines")


if __name__ == "__main__":
    unittest.main()
