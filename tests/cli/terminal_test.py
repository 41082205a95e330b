#!/usr/bin/env python3
"""chat and run at a terminal: line editing, commands, Ctrl-C."""

import os
import pty
import select
import time
import unittest

import talk
from program import BINARY

PATIENCE_S = 60  # only a hanging program reaches it
CTRL_C, CTRL_D, UP, BACKSPACE = b"\x03", b"\x04", b"\x1b[A", b"\x7f"
# Rewarding the last token makes the model repeat itself, so that its reply goes on until it is interrupted.
ENDLESS = ["--repeat-penalty", "0.01", "--repeat-last", "1", "--max-tokens", "60000"]


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *words):
        self.shown = b""
        self.process, self.stream = pty.fork()
        if self.process == 0:
            os.execv(BINARY, [BINARY, *map(str, words)])

    def type(self, data):
        os.write(self.stream, data)

    def wait_for(self, text):
        """Reads until `text` was shown; what came before it counts as read."""
        deadline = time.monotonic() + PATIENCE_S
        while text.encode() not in self.shown:
            if not self.read_some(deadline):
                raise AssertionError(f"{text!r} was not shown, but {self.shown[-2000:]!r}")
        before, _, self.shown = self.shown.partition(text.encode())
        return before.decode("utf-8", "replace")

    def wait_for_more(self):
        """Reads until anything is shown beyond what wait_for() has read."""
        if not self.shown and not self.read_some(time.monotonic() + PATIENCE_S):
            raise AssertionError("nothing was shown")

    def read_some(self, deadline):
        ready, _, _ = select.select([self.stream], [], [], max(0, deadline - time.monotonic()))
        try:
            data = os.read(self.stream, 65536) if ready else b""
        except OSError:  # how Linux reports that the other side closed
            data = b""
        self.shown += data
        return bool(data)

    def end(self):
        """The exit status, once the program leaves."""
        while self.read_some(time.monotonic() + PATIENCE_S):
            pass
        os.close(self.stream)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


class AtATerminal(talk.TalkTest):
    def start(self, *words):
        return Terminal(*words, "-m", self.model)

    def chat(self, *words):
        terminal = self.start("chat", *words)
        terminal.wait_for("> ")
        return terminal

    def test_ctrl_c_ends_the_reply_and_keeps_the_session(self):
        terminal = self.chat(*ENDLESS)
        terminal.type(b"Hello\n")
        terminal.wait_for("Hello\r\n")
        terminal.wait_for_more()
        terminal.type(CTRL_C)
        terminal.wait_for("interrupted]")
        terminal.wait_for("> ")
        terminal.type(b"And now?\n")
        terminal.wait_for("And now?\r\n")
        terminal.wait_for_more()
        terminal.type(CTRL_C)
        report = terminal.wait_for("interrupted]")
        self.assertIn("reused (ram)", report)
        terminal.wait_for("> ")
        terminal.type(CTRL_D)
        self.assertEqual(terminal.end(), 0)

    def test_ctrl_c_at_the_prompt_drops_the_line(self):
        terminal = self.chat("--max-tokens", 2)
        terminal.type(b"wrong" + CTRL_C)
        terminal.wait_for("^C\r\n")
        terminal.wait_for("> ")
        terminal.type(b"/exit\n")
        self.assertEqual(terminal.end(), 0)

    def test_a_line_can_be_edited_and_recalled(self):
        terminal = self.chat("--max-tokens", 2)
        terminal.type(b"/helo" + BACKSPACE + b"p\n")
        terminal.wait_for("/undo")
        terminal.wait_for("> ")
        terminal.type(UP + b"\n")
        terminal.wait_for("/undo")
        terminal.wait_for("> ")
        terminal.type(CTRL_D)
        self.assertEqual(terminal.end(), 0)

    def test_commands(self):
        terminal = self.chat("--max-tokens", 2)
        for command, answer in ((b"/fly\n", "no command /fly"), (b"/undo\n", "nothing to take back"),
                                (b"A question\n", "0 reused"), (b"/undo\n", "taken back"),
                                (b"A question\n", "reused (ram)"), (b"/trim\n", "How many"), (b"/cache\n", "prompt tokens reused in 2 requests"),
                                (b"/trim 1\n", "Dropped: the end of the last reply. "),
                                (b"/trim 0\n", "Dropped: nothing. "), (b"/trim 999\n", "Dropped: the last 2 messages. The conversation begins again."), (b"/reset\n", "begins again")):
            terminal.type(command)
            terminal.wait_for(answer)
            terminal.wait_for("> ")
        terminal.type(b"/exit\n")
        self.assertEqual(terminal.end(), 0)

    def test_ctrl_c_ends_a_run(self):
        terminal = self.start("run", "--prompt", "Hello", *ENDLESS)
        terminal.wait_for_more()
        terminal.type(CTRL_C)
        terminal.wait_for("interrupted]")
        self.assertEqual(terminal.end(), 130)

    def test_one_ctrl_d_ends_standard_input(self):
        message = b'[{"role":"user","content":"Hi"}]\n'
        for words, typed, answer in ((["run", "--max-tokens", 2], b"Hi\n", "tokens in"),
                                     (["tokenize"], b"Hi\n", "72 105"),
                                     (["score", "--ids", "-"], b"[1, 2]\n", "tokens in"),
                                     (["run", "--max-tokens", 2, "--messages", "-"], message, "tokens in")):
            terminal = self.start(*words)
            terminal.type(typed + CTRL_D)
            terminal.wait_for(answer)
            self.assertEqual(terminal.end(), 0)


if __name__ == "__main__":
    unittest.main()
