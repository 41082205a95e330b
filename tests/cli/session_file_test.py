#!/usr/bin/env python3
"""chat --session: a conversation that goes on in the next process, and its file read as docs/saved_caches.md says."""

import hashlib
import json
import os
import struct
import unittest

import talk

TURNS = ["Hello there", "What is a river?", "And a lake?", "Why?"]
SIZES = {"BF16": 2, "F32": 4, "I32": 4, "I8": 1, "U8": 1}
PIECE = 1 << 20


def read_file(data):
    """(metadata, {name: (dtype, shape, bytes)}, names in the order of their bytes) of a saved cache, checked."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    rest = data[8 + length :]
    tensors, order, at = {}, [], 0
    for name, described in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = described["data_offsets"]
        count = 1
        for dim in described["shape"]:
            count *= dim
        assert begin == at and end - begin == count * SIZES[described["dtype"]], name
        tensors[name] = (described["dtype"], described["shape"], rest[begin:end])
        order.append(name)
        at = end
    assert at == len(rest) and order[-1] == "checksum"
    covered = data[:-32]
    pieces = b"".join(hashlib.sha256(covered[i : i + PIECE]).digest() for i in range(0, len(covered), PIECE))
    assert hashlib.sha256(pieces).digest() == data[-32:]
    return metadata, tensors, order


class SessionFile(talk.TalkTest):
    def chat(self, turns, *words):
        sampling = ["--max-tokens", 12, "--temperature", 1.2, "--seed", 4, "--show-ids"]
        return self.json_lines("chat", "-m", self.model, *sampling, *words, stdin="\n".join(turns))

    def session(self):
        return self.folder / "session.safetensors"

    def test_goes_on_in_another_process_as_if_nothing_had_been(self):
        for words in ([], ["--kv", "8"], ["--kv", "4", "--kv-start", 32], ["--max-kv", 64, "--keep", 4]):
            self.session().unlink(missing_ok=True)
            whole = self.chat(TURNS, "--system", "Rhyme.", *words)
            apart = []
            for turn in TURNS:
                apart += self.chat([turn], "--session", self.session(), "--system", "Rhyme.", *words)
            for one, other in zip(whole, apart, strict=True):
                for field in ("turn", "text", "prompt_ids", "reply_ids", "finish_reason"):
                    self.assertEqual(one[field], other[field], words)
            for before, after in zip(apart, apart[1:]):
                known = before["usage"]["prompt_tokens"] + before["usage"]["reply_tokens"]
                self.assertGreaterEqual(after["usage"]["reused_tokens"], known - 1, words)

    def test_the_file_is_what_the_documentation_says(self):
        replies = self.chat(TURNS[:2], "--session", self.session())
        data = self.session().read_bytes()
        metadata, tensors, order = read_file(data)
        ids = replies[-1]["prompt_ids"] + replies[-1]["reply_ids"]
        count = len(ids)
        self.assertEqual(metadata["format"], "dalsegno prompt cache")
        self.assertEqual(metadata["format_version"], "1")
        self.assertEqual(metadata["tokens"], str(count))
        self.assertEqual((metadata["kv"], metadata["activation_bits"], metadata["max_kv"]), ("bf16", "8", "0"))
        self.assertEqual(tensors["tokens"][:2], ("I32", [count]))
        self.assertEqual(list(struct.unpack(f"<{count}i", tensors["tokens"][2])), ids)
        shown = self.one_json("inspect", "-m", self.model)
        layers, heads, dim = (shown[key] for key in ("layers", "kv_heads", "head_dim"))
        names = [f"layers.{layer}.{part}" for layer in range(layers) for part in "kv"]
        self.assertEqual(order, ["tokens", "attached", *names, "checksum"])
        for name in names:
            self.assertEqual(tensors[name][:2], ("BF16", [count, heads, dim]))
            if name.endswith("k"):  # keys know their position, so no two are alike
                row = len(tensors[name][2]) // count
                self.assertEqual(len({tensors[name][2][i * row : (i + 1) * row] for i in range(count)}), count)
        attached = json.loads(tensors["attached"][2])
        self.assertEqual([message[0] for message in attached["messages"]], ["user", "assistant"] * 2)
        self.assertEqual(attached["messages"][1][1], replies[0]["text"])

    def test_another_format_or_beginning_is_refused_and_the_file_stays(self):
        self.chat(TURNS[:1], "--session", self.session(), "--system", "Rhyme.")
        before = self.session().read_bytes()
        words = ["chat", "-m", self.model, "--session", self.session()]
        self.assert_error(1, [*words, "--kv", "f32"], "its K/V are bf16, and here they are f32", stdin="More?")
        self.assert_error(1, [*words, "--system", "Sing."], "another system message", stdin="More?")
        self.assertEqual(self.session().read_bytes(), before)
        self.session().write_bytes(before[:-1])
        self.assert_error(1, words, "cannot be used", stdin="More?")
        self.assertEqual(self.session().read_bytes(), before[:-1])
        self.assert_error(1, [*words[:-1], self.folder / "no" / "session"], "no", stdin="More?")

    def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_turn(self):
        words = ["chat", "-m", self.model, "--session", "/proc/new.st"]  # where not even root makes a file
        done = self.run_program(*words, stdin="Hello")
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn("/proc", self.assert_error(1, words, "cannot be saved", stdin="Hello"))

    def test_an_existing_session_in_such_a_folder_is_refused_too(self):
        self.chat(TURNS[:1], "--session", self.session())
        before = self.session().read_bytes()
        self.folder.chmod(0o555)
        self.addCleanup(self.folder.chmod, 0o755)
        if os.access(self.folder, os.W_OK):
            self.skipTest("root may write anywhere")
        words = ["chat", "-m", self.model, "--session", self.session()]
        self.assertEqual(self.run_program(*words, stdin="More?").stdout, b"")
        self.assert_error(1, words, "cannot be saved", stdin="More?")
        self.assertEqual(self.session().read_bytes(), before)

    def test_nothing_else_is_left_in_its_folder(self):
        self.chat(TURNS, "--session", self.session())
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["session.safetensors", "talk.gguf"])


if __name__ == "__main__":
    unittest.main()
