"""Samplers: the same seed draws the same text, and a processor of one's own changes logits: sampling.py MODEL."""

import asyncio
import sys

import dalsegno

PROMPT = "The quick brown fox"
SAMPLER = {"temperature": 0.8, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "max_tokens": 12}

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
    first = model.generate(PROMPT, seed=1, **SAMPLER)
    assert model.generate(PROMPT, seed=1, **SAMPLER).ids == first.ids
    print(repr(first.text), "and by another seed", repr(model.generate(PROMPT, seed=2, **SAMPLER).text))

    def without_the_letter_e(tokens, logits):  # [so far] int32 and [vocabulary] float32: copies
        logits[forbidden] = -1e9

    tokenizer = model.tokenizer
    forbidden = [i for i in range(tokenizer.vocabulary_size) if b"e" in tokenizer.token_bytes(i)]
    text = model.generate(PROMPT, logits_processor=without_the_letter_e, max_tokens=12).text
    print(repr(text))
    assert "e" not in text

    async def together():
        return await asyncio.gather(*(model.generate_async(PROMPT, seed=seed, **SAMPLER) for seed in (1, 2, 3)))

    assert asyncio.run(together())[0].ids == first.ids
