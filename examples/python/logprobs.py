"""Next-token log-probabilities as numpy arrays, one by one, in a batch, and awaited: logprobs.py MODEL."""

import asyncio
import sys

import numpy

import dalsegno

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
    cache = dalsegno.LogprobCache(model.engine, max_bytes=16 << 20)
    ids = model.encode("The quick brown fox jumps over the lazy")
    cache.cache_kv(ids)

    row = cache.next_token_logprobs(ids)
    best = numpy.argsort(row)[::-1][:3]
    print([(model.tokenizer.decode([token]), round(float(row[token]), 3)) for token in best])

    rows = cache.next_token_logprobs_batch([ids + [int(token)] for token in best])
    print(len(rows), "rows of", rows[0].shape[0], rows[0].dtype)

    async def particles():
        return await asyncio.gather(*(cache.next_token_logprobs_async(ids) for _ in range(100)))

    assert all((answer == row).all() for answer in asyncio.run(particles()))
    stats = cache.stats()
    print(f"{stats.queries} queries, {stats.computed} computed by the model")
