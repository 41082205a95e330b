#!/usr/bin/env python3
"""make_tool_model.py OUT: a model that calls the tool `clock` and answers once it was told the time. Attention and
feed-forward are zero, so that a token alone decides the next one: the template ends a prompt with a token of its own
before and after a tool has answered, one is followed by the call, the other by the answer, both by the end."""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "cli"))
import gguf_edit  # noqa: E402

WIDTH = 32
CALL = '<tool_call>{"name":"clock","arguments":{}}</tool_call>'
ANSWER = "\u0120It\u0120is\u0120what\u0120the\u0120clock\u0120says."  # U+0120 stands for a space
NORMAL, CONTROL = 1, 3
TEMPLATE = (
    "{% if tools %}<|bos|>tools, within <tool_call> tags: {{ tools | tojson }}<|eos|>\n{% endif %}"
    "{% for message in messages %}<|bos|>{{ message['role'] }}: {{ message['content'] }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}{% if messages[-1]['role'] == 'tool' %}<|told|>{% else %}<|asked|>{% endif %}{% endif %}"
)


def byte_characters():
    """The 256 characters that stand for bytes in byte-level vocabularies."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


TOKENS = [*byte_characters(), "ab", "<|bos|>", "<|eos|>", "<|asked|>", "<|told|>", CALL, ANSWER]
FOLLOWED_BY = {"<|asked|>": CALL, "<|told|>": ANSWER, CALL: "<|eos|>", ANSWER: "<|eos|>"}


def array(element, values, layout):
    """An array's value: of strings, or of numbers with this layout."""
    body = b"".join(gguf_edit.packed_string(v) if layout is None else struct.pack(layout, v) for v in values)
    return struct.pack("<IQ", element, len(values)) + body


def metadata():
    """[(key, type, bytes)], GGUF's types: 4 uint32, 5 int32, 6 float32, 8 string, 9 array."""
    numbers = {"context_length": 4096, "embedding_length": WIDTH, "block_count": 1, "feed_forward_length": WIDTH}
    numbers |= {"attention.head_count": 2, "attention.head_count_kv": 1}
    yield "general.architecture", 8, gguf_edit.packed_string("llama")
    for key, value in numbers.items():
        yield f"llama.{key}", 4, struct.pack("<I", value)
    yield "llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)
    yield "tokenizer.ggml.model", 8, gguf_edit.packed_string("gpt2")
    yield "tokenizer.ggml.pre", 8, gguf_edit.packed_string("smollm")
    yield "tokenizer.ggml.tokens", 9, array(8, TOKENS, None)
    yield "tokenizer.ggml.token_type", 9, array(5, [CONTROL if t.startswith("<|") else NORMAL for t in TOKENS], "<i")
    yield "tokenizer.ggml.merges", 9, array(8, ["a b"], None)
    yield "tokenizer.ggml.bos_token_id", 4, struct.pack("<I", TOKENS.index("<|bos|>"))
    yield "tokenizer.ggml.eos_token_id", 4, struct.pack("<I", TOKENS.index("<|eos|>"))
    yield "tokenizer.chat_template", 8, gguf_edit.packed_string(TEMPLATE)


def tensors():
    """[(name, sizes, values)], the fastest size first. Channel i is what the i-th token that decides has alone."""
    embedding = [[0.0] * WIDTH for _ in TOKENS]
    output = [[0.0] * WIDTH for _ in TOKENS]
    for row in embedding:
        row[WIDTH - 1] = 1.0
    for channel, (token, following) in enumerate(FOLLOWED_BY.items()):
        embedding[TOKENS.index(token)][channel] = 1.0
        output[TOKENS.index(following)][channel] = 8.0
    yield "token_embd.weight", (WIDTH, len(TOKENS)), sum(embedding, [])
    yield "output.weight", (WIDTH, len(TOKENS)), sum(output, [])
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        yield f"{name}.weight", (WIDTH,), [1.0] * WIDTH
    for name, rows in {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32}.items():
        yield f"blk.0.{name}.weight", (WIDTH, rows), [0.0] * (WIDTH * rows)
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        yield f"blk.0.{name}.weight", (WIDTH, WIDTH), [0.0] * (WIDTH * WIDTH)


def main():
    pairs, all_tensors = list(metadata()), list(tensors())
    head = gguf_edit.HEADER.pack(b"GGUF", 3, len(all_tensors), len(pairs))
    for key, kind, value in pairs:
        head += gguf_edit.packed_string(key) + struct.pack("<I", kind) + value
    data = b""
    for name, sizes, values in all_tensors:
        head += gguf_edit.packed_string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        head += struct.pack("<IQ", 0, len(data))  # float32
        data += struct.pack(f"<{len(values)}f", *values)
        data = data.ljust(gguf_edit.aligned(len(data)), b"\0")
    pathlib.Path(sys.argv[1]).write_bytes(head.ljust(gguf_edit.aligned(len(head)), b"\0") + data)


if __name__ == "__main__":
    main()
