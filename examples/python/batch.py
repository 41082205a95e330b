"""Requests that run together, and one that goes on from another's cache: batch.py MODEL."""

import sys

import dalsegno

PROMPTS = ("Once upon a time", "The capital of France is", "To boil an egg,")

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
    batch = dalsegno.BatchGenerator(model.engine)
    prompts = [model.encode(prompt) for prompt in PROMPTS]
    uids = batch.insert(prompts, max_tokens=[4, 8, 12])
    texts, caches = dict.fromkeys(uids, ""), {}
    while responses := batch.next():
        for response in responses:
            texts[response.uid] += response.text
            if response.finish_reason:
                caches[response.uid] = response.cache
                print(f"{response.uid} {response.finish_reason}: {texts[response.uid]!r}")

    cache = caches[uids[0]]
    batch.insert([cache.tokens + model.tokenizer.encode(" and")], max_tokens=4, caches=[cache])
    while responses := batch.next():
        usage = responses[-1].usage
    print(f"continued: {usage.reused_tokens} tokens reused, {usage.prefilled_tokens} computed")
