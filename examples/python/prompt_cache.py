"""A prompt's K/V, kept, saved, loaded and continued: prompt_cache.py MODEL."""

import pathlib
import sys
import tempfile

import dalsegno

with dalsegno.load(sys.argv[1], memory=1 << 30) as model, tempfile.TemporaryDirectory() as folder:
    ids = model.encode("A document that several questions will be asked about. " * 8)
    cache = dalsegno.PromptCache.make(model.engine, ids)
    file = pathlib.Path(folder) / "document.safetensors"
    cache.save(file)
    print(f"{len(cache)} tokens in {file.stat().st_size} bytes")

    del cache
    model.reset_cache()
    cache = dalsegno.PromptCache.load(model.engine, file)
    reply = model.engine.generate(ids + model.tokenizer.encode("What is it about?"), max_tokens=8)
    print(reply.usage)
    assert reply.usage.reused_tokens == len(ids)

    cache.trim(4)
    print(f"{len(cache)} tokens after trimming")
