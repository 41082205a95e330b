"""A tiny model that can hold a conversation: random weights, a chat template and a long context."""

import gguf_edit
import program
from program import TINY

TEMPLATE = (
    "{% for message in messages %}<|bos|>{{ message['role'] }}: {{ message['content'] }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}"
)
LONG_CONTEXT = 65536


class TalkTest(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.model = self.folder / "talk.gguf"
        changes = {"tokenizer.chat_template": TEMPLATE, "llama.context_length": LONG_CONTEXT}
        self.model.write_bytes(gguf_edit.variant(TINY, changes))
