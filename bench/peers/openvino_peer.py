#!/usr/bin/env python3
"""OpenVINO GenAI through its continuous batching pipeline, which reads GGUF files itself; see peer.py. It has no
settings: precision and the 8 bits of its K/V cache are its own defaults."""

import time

import numpy  # noqa: F401  part of every interpreter that is measured
import peer

BATCHED_TOKENS = 4096  # of one step: a whole prompt of the longest row


def load_engine():
    import numpy as np
    import openvino
    import openvino_genai as genai

    class OpenVino:
        def __init__(self, model, threads, context, batch, _setting):
            scheduler = genai.SchedulerConfig()
            scheduler.max_num_batched_tokens = max(BATCHED_TOKENS, context)
            scheduler.max_num_seqs = max(batch, 1)
            scheduler.enable_prefix_caching = True  # a prompt that was prepared is not computed again
            scheduler.cache_size = 0  # grows as needed
            properties = {"INFERENCE_NUM_THREADS": threads}
            self.pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
            self.requests = 0
            self.prompts = []

        def add(self, ids, tokens):
            config = genai.GenerationConfig()
            config.do_sample = False
            config.ignore_eos = True
            config.max_new_tokens = tokens
            self.requests += 1
            tensor = openvino.Tensor(np.array([ids], dtype=np.int64))
            return self.pipeline.add_request(self.requests, tensor, config)

        def finish(self):
            while self.pipeline.has_non_finished_requests():
                self.pipeline.step()

        def prefill(self, ids):
            handle = self.add(ids, 1)
            self.finish()
            return arrived(handle)

        def prepare(self, prompts):
            self.prompts = prompts
            for ids in prompts:
                self.add(ids, 1)
                self.finish()

        def decode(self, steps):
            """All first tokens come in the first step, unless a prompt had to be computed again; then they start
            one after another, and the clock starts with the last."""
            slack = 2 * len(self.prompts)
            handles = [self.add(ids, steps + slack + 1) for ids in self.prompts]
            waiting = set(range(len(handles)))
            while waiting:
                self.pipeline.step()
                waiting = {i for i in waiting if arrived(handles[i]) == 0}
            start = time.perf_counter()
            for _ in range(steps):
                self.pipeline.step()
            seconds = time.perf_counter() - start
            tokens = sum(arrived(handle) for handle in handles)
            if tokens < steps * len(handles):
                raise peer.Unsupported(f"only {tokens} tokens came in {steps} steps of {len(handles)} sequences")
            for handle in handles:
                handle.stop()
            self.finish()
            return seconds

    return OpenVino


def arrived(handle):
    """Tokens that have come since this was last asked."""
    count = 0
    while handle.can_read():
        count += sum(len(output.generated_ids) for output in handle.read().values())
    return count


if __name__ == "__main__":
    peer.main(load_engine)
