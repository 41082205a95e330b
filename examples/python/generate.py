"""One prompt in, the reply as it comes, and what was reused: generate.py MODEL [PROMPT]."""

import sys

import dalsegno

PROMPT = "The quick brown fox jumps over the lazy"

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
    prompt = sys.argv[2] if len(sys.argv) > 2 else PROMPT
    reply = model.generate(prompt, max_tokens=16, on_text=lambda text: print(text, end="", flush=True))
    print(f"\n{reply.finish_reason}: {reply.usage}")

    explained = model.explain(prompt)
    print(f"once more, {explained.reused_tokens} of {explained.prompt_tokens} tokens would be reused")
    assert model.generate(prompt, max_tokens=16).ids == reply.ids
