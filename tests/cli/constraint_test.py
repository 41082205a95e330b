#!/usr/bin/env python3
"""Replies of a given form: --json-schema, --regex, --grammar, --choice."""

import json
import re
import unittest

import program
from program import TINY

RUN = ["run", "-m", TINY, "--raw", "--prompt", "hello there"]
SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["a", "bc"]}, "count": {"type": "integer", "minimum": 1,
          "maximum": 9}}, "required": ["kind", "count"], "additionalProperties": False,
          "x-guidance": {"whitespace_flexible": False}}


class Constraints(program.ProgramTest):
    def file(self, text):
        path = self.folder / "form.txt"
        path.write_text(text, encoding="utf-8")
        return path

    def test_a_json_schema(self):
        value = self.one_json(*RUN, "--json-schema", self.file(json.dumps(SCHEMA)))
        reply = json.loads(value["text"])
        self.assertIn(reply["kind"], ("a", "bc"))
        self.assertIn(reply["count"], range(1, 10))
        self.assertEqual(value["finish_reason"], "stop")

    def test_a_regular_expression(self):
        value = self.one_json(*RUN, "--regex", "[ab]{3}-[0-9]{2}", "--temperature", 1)
        self.assertRegex(value["text"], re.compile(r"^[ab]{3}-[0-9]{2}\Z"))

    def test_a_grammar(self):
        value = self.one_json(*RUN, "--grammar", self.file('start: "<" /[a-c]/ ("," /[a-c]/){2} ">"\n'))
        self.assertRegex(value["text"], r"^<[a-c],[a-c],[a-c]>\Z")

    def test_choices(self):
        value = self.one_json(*RUN, "--choice", "one way", "--choice", "another")
        self.assertIn(value["text"], ("one way", "another"))

    def test_a_reply_that_is_too_long_says_so(self):
        value = self.one_json(*RUN, "--regex", "[ab]{30}", "--max-tokens", 10)
        self.assertEqual((len(value["text"]), value["finish_reason"]), (10, "length"))

    def test_a_dead_end(self):
        value = self.one_json(*RUN, "--regex", "ab[cd]", "--logit-bias", f"{ord('c')}=-inf", "--logit-bias",
                              f"{ord('d')}=-inf")
        self.assertEqual((value["text"], value["finish_reason"]), ("ab", "dead_end"))

    def test_a_conversation(self):
        chat = program.ROOT / "build" / "release" / "tiny_chat.gguf"
        if not chat.is_file():
            self.skipTest("the model with a template was not made")
        for value in self.json_lines("chat", "-m", chat, "--choice", "yes", "--choice", "no", stdin="One?\nTwo?\n"):
            self.assertIn(value["text"], ("yes", "no"))

    def test_what_cannot_be_used(self):
        self.assert_error(1, [*RUN, "--regex", "("], "the regular expression cannot be used")
        self.assert_error(1, [*RUN, "--json-schema", self.file("{")], "the JSON schema cannot be used: it is not JSON")
        self.assert_error(1, [*RUN, "--json-schema", self.file('{"$ref":"elsewhere.json"}')], "elsewhere.json")
        self.assert_error(1, [*RUN, "--grammar", self.file("start: none\n")], "none")
        self.assert_error(1, [*RUN, "--regex", "(" * 60000 + ")" * 60000], "the limit")

    def test_what_is_not_utf8(self):
        path = self.folder / "form.txt"
        path.write_bytes(b"ab\xff")
        for option in ("--json-schema", "--grammar"):
            self.assert_error(2, [*RUN, option, path], f"{option}: ", "form.txt is not valid UTF-8 at byte offset 2",
                              "convert")
        for option in ("--regex", "--choice"):
            self.assert_error(2, [*RUN, option, "ab\udcff"], f"{option}: ", "not valid UTF-8 at byte offset 2", "convert")

    def test_wrong_usage(self):
        self.assert_error(2, [*RUN, "--json-schema", self.folder / "absent"], "absent")
        self.assert_error(2, [*RUN, "--grammar", self.folder], "Is a directory")
        self.assert_error(2, [*RUN, "--choice", "a", "--regex", "b"], "give one of")


if __name__ == "__main__":
    unittest.main()
