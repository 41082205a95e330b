#!/usr/bin/env python3
"""make_chat_model.py OUT: a tiny model that chats: random weights, a template that knows tools, a context of 8,192."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "cli"))
import gguf_edit  # noqa: E402

TEMPLATE = (
    "{% if tools %}<|bos|>tools, within <tool_call> tags: {{ tools | tojson }}<|eos|>\n{% endif %}"
    "{% for message in messages %}<|bos|>{{ message['role'] }}: {{ message['content'] }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}"
)


def main():
    changes = {"tokenizer.chat_template": TEMPLATE, "llama.context_length": 8192}
    model = gguf_edit.variant(HERE / "golden" / "tiny" / "llama-gqa.gguf", changes)
    pathlib.Path(sys.argv[1]).write_bytes(model)


if __name__ == "__main__":
    main()
