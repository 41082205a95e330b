#!/usr/bin/env python3
"""llama.cpp through the low-level functions of llama-cpp-python; see peer.py. A setting is flash attention on or off
and, for batches, whether all sequences share one K/V buffer ("unified") or have one each."""

import time

import numpy  # noqa: F401  part of every interpreter that is measured
import peer

UBATCH = 512  # its default: the tokens it computes at a time


def load_engine():
    import ctypes

    import numpy as np
    from llama_cpp import llama_cpp as api

    class LlamaCpp:
        def __init__(self, model, threads, context, batch, setting):
            self.silence = api.llama_log_callback(lambda *_: None)
            api.llama_log_set(self.silence, ctypes.c_void_p(0))
            api.llama_backend_init()
            model_params = api.llama_model_default_params()
            model_params.n_gpu_layers = 0
            self.model = api.llama_model_load_from_file(model.encode(), model_params)
            if not self.model:
                raise SystemExit(f"error: llama.cpp cannot load {model}")
            self.unified = (setting or "").endswith("unified")
            params = api.llama_context_default_params()
            params.n_ctx = context * batch
            params.n_batch = max(UBATCH, context)
            params.n_ubatch = UBATCH
            params.n_seq_max = batch
            params.n_threads = params.n_threads_batch = threads
            flash = not (setting or "").startswith("plain")
            params.flash_attn_type = (
                api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
            )
            params.kv_unified = self.unified
            self.context = api.llama_init_from_model(self.model, params)
            if not self.context:
                raise SystemExit(f"error: llama.cpp gives no context of {context} tokens for {batch} sequences")
            self.memory = api.llama_get_memory(self.context)
            self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
            self.batch = api.llama_batch_init(params.n_batch, 0, batch)
            self.prompts = []

        def compute(self, tokens):
            """tokens: (id, position, sequence, logits wanted)."""
            batch = self.batch
            batch.n_tokens = len(tokens)
            for i, (token, position, sequence, wanted) in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = wanted
            status = api.llama_decode(self.context, batch)
            if status != 0:
                raise SystemExit(f"error: llama_decode failed with {status}")

        def likeliest(self, i):
            logits = api.llama_get_logits_ith(self.context, i)
            return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.vocabulary,))))

        def prefill(self, ids):
            api.llama_memory_clear(self.memory, False)
            self.compute([(token, i, 0, i == len(ids) - 1) for i, token in enumerate(ids)])
            return self.likeliest(len(ids) - 1)

        def prepare(self, prompts):
            api.llama_memory_clear(self.memory, True)
            self.prompts = prompts
            common = len(prompts) > 1 and all(ids[:-1] == prompts[0][:-1] for ids in prompts)
            for sequence, ids in enumerate(prompts):
                if common and sequence > 0:
                    api.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
                elif len(ids) > 1:
                    self.compute([(token, i, sequence, False) for i, token in enumerate(ids[:-1])])

        def step(self, tokens, position):
            self.compute([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            return [self.likeliest(i) for i in range(len(tokens))]

        def decode(self, steps):
            depth = len(self.prompts[0]) - 1
            for sequence in range(len(self.prompts)):
                api.llama_memory_seq_rm(self.memory, sequence, depth, -1)
            tokens = self.step([ids[-1] for ids in self.prompts], depth)
            start = time.perf_counter()
            for i in range(steps):
                tokens = self.step(tokens, depth + 1 + i)
            return time.perf_counter() - start

    return LlamaCpp


if __name__ == "__main__":
    peer.main(load_engine)
