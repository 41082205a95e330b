"""Threads, signals, lifetimes: nobody waits for anybody in vain, and nothing is left behind."""

import concurrent.futures
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import dalsegno

PROMPT = "Several threads ask about the same thing, number "


def test_a_hundred_threads_get_the_answers_they_would_get_alone(cold):
    alone = [cold.generate(PROMPT + str(i % 10), max_tokens=8, temperature=1, seed=i).ids for i in range(100)]
    cold.reset_cache()
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        begin = threading.Barrier(100)

        def ask(i):
            begin.wait()
            return cold.generate(PROMPT + str(i % 10), max_tokens=8, temperature=1, seed=i, on_text=lambda _: True).ids

        assert list(pool.map(ask, range(100))) == alone


def test_threads_share_every_object(cold):
    ids = cold.encode(PROMPT * 4)
    cache = cold.logprob_cache(max_bytes=16 << 20)
    kept = dalsegno.PromptCache.make(cold.engine, ids)
    batch = cold.batch()
    expected = [int(cache.next_token_logprobs(ids[:n]).argmax()) for n in range(1, 33)]

    def work(i):
        fork = kept.fork()
        fork.trim(i % 7)
        uid = batch.insert([ids[: i + 1]], max_tokens=2)[0]
        cold.explain(ids)
        return int(cache.next_token_logprobs(ids[: i % 32 + 1]).argmax()), len(fork), uid

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(32)))
    assert [result[0] for result in results] == expected
    assert len({uid for _, _, uid in results}) == 32
    ended = 0
    while responses := batch.next():
        ended += sum(response.finish_reason is not None for response in responses)
    assert ended == 32


def test_logits_processors_of_several_threads_do_not_wait_for_each_other(model):
    def process(tokens, logits):
        time.sleep(0.0005)  # lets go of the GIL in the middle
        return logits

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: model.generate(PROMPT, max_tokens=8, logits_processor=process).ids, range(16)))
    assert made.count(made[0]) == 16


def test_a_callback_may_use_the_engine(model):
    inner = []

    def on_text(text):
        inner.append(model.generate(PROMPT, max_tokens=2).ids)

    model.generate(PROMPT, max_tokens=6, on_text=on_text)
    assert len(inner) > 1 and inner.count(inner[0]) == len(inner)


def test_a_sessions_second_call_is_refused_while_one_runs(model):
    session = model.session()
    stream = session.stream("hello", max_tokens=50)
    next(stream)
    with pytest.raises(dalsegno.InvalidArgumentError, match="under way"):
        session.respond("and again", max_tokens=2)
    stream.close()
    assert session.respond("now", max_tokens=2).ids  # waits for the end of the cancelled one


def test_an_engine_lives_as_long_as_what_was_made_of_it(tmp_path):
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    model = dalsegno.load(tiny, memory=256 << 20)  # beside the one of the other tests
    session, batch, cache = model.session(), model.batch(), model.prompt_cache(PROMPT)
    logprobs = model.logprob_cache(max_bytes=8 << 20)
    ids = model.encode(PROMPT)
    engines = dalsegno.memory_report().engines
    model.close()
    with pytest.raises(dalsegno.InvalidArgumentError, match="closed"):
        model.generate(PROMPT)
    assert session.respond("hello", max_tokens=2).ids
    batch.insert([ids], max_tokens=1, caches=[cache])
    assert batch.next()
    assert logprobs.next_token_logprobs(ids).size
    assert dalsegno.memory_report().engines == engines
    del session, batch, cache, logprobs, model
    gc.collect()
    deadline = time.monotonic() + 30
    while dalsegno.memory_report().engines == engines:
        assert time.monotonic() < deadline, "an engine is left open"
        time.sleep(0.01)


def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_of_each_leave_nothing_behind(model):
    ids = model.encode(PROMPT * 2)
    model.generate(ids, max_tokens=1)

    def cycle(times):
        for _ in range(times):
            session = dalsegno.Session(model.engine, messages=[{"role": "user", "content": "x"}])
            cache = dalsegno.PromptCache.make(model.engine, ids)
            batch = dalsegno.BatchGenerator(model.engine)
            del session, cache, batch

    cycle(1000)
    gc.collect()
    before = resident()
    cycle(10000)
    gc.collect()
    assert resident() - before < 4 << 20  # 400 bytes a cycle would show


# What a terminal's user does: Ctrl-C in the middle, and then goes on. The prompt is long, and one step of it.
INTERRUPTED = """
import os, signal, sys, threading, time
import dalsegno
model = dalsegno.load(sys.argv[1], memory=1 << 30, threads=1)
ids = model.encode("a long prompt of many words ") * 250
ids = ids[:7000]
sent = []
def interrupt():
    time.sleep(0.2)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
def interrupted(call):
    threading.Thread(target=interrupt).start()
    try:
        while True:
            call()
            model.reset_cache()
    except KeyboardInterrupt:
        print(f"{(time.monotonic() - sent.pop()) * 1000:.0f} ms", flush=True)
interrupted(lambda: model.engine.generate(ids, max_tokens=1))
interrupted(lambda: "".join(model.engine.stream(ids, max_tokens=500)))
interrupted(lambda: dalsegno.PromptCache.make(model.engine, ids))
session = model.session()
interrupted(lambda: (session.rewind(0), session.respond("word " * 1000, max_tokens=500)))
batch = model.batch()
batch.insert([ids], max_tokens=500)
interrupted(lambda: batch.next() or batch.insert([ids], max_tokens=500))
logprobs = model.logprob_cache(max_bytes=8 << 20)
interrupted(lambda: (logprobs.clear_cache(), logprobs.next_token_logprobs(ids)))
assert session.respond("still there?", max_tokens=4).ids
assert batch.next()
assert model.generate("still there?", max_tokens=4).ids
print("usable")
"""


def test_ctrl_c_leaves_every_call_and_the_process_stays_usable(tmp_path):
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tiny)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "usable" and done.stdout.count(" ms") == 6


# Nothing that runs when the interpreter ends may keep it or crash it.
LEFT_RUNNING = """
import sys
import dalsegno
model = dalsegno.load(sys.argv[1], memory=1 << 30)
stream = model.stream("left", max_tokens=4000)
next(stream)
batch = model.batch()
batch.insert([model.encode("left")] * 4, max_tokens=4000, logits_processor=lambda tokens, logits: logits)
batch.next()
session = model.session()
talk = session.stream("left", max_tokens=4000)
next(talk)
query = model.logprob_cache(max_bytes=8 << 20)
print("ending", flush=True)
"""


@pytest.mark.parametrize("end", ["", "import threading; threading.Thread(target=lambda: list(stream)).start()",
                                 "raise SystemExit", "model.self = model"])
def test_the_interpreter_may_end_at_any_time(end):
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    done = subprocess.run([sys.executable, "-c", LEFT_RUNNING + end, str(tiny)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and done.stdout == "ending\n" and done.stderr == "", done.stderr


# A child of fork() has the engine's memory and none of its threads.
FORKED = """
import os, sys
import dalsegno
model = dalsegno.load(sys.argv[1], memory=1 << 30)
ids = model.encode("before the fork")
session, batch, cache = model.session(), model.batch(), model.prompt_cache("before the fork, " * 9)
batch.insert([ids], max_tokens=500)
stream, logprobs = model.stream("before", max_tokens=500), model.logprob_cache(max_bytes=8 << 20)
next(stream)
calls = {
    "generate": lambda: model.generate(ids, max_tokens=1), "stream": lambda: next(stream), "batch": lambda: batch.next(),
    "insert": lambda: batch.insert([ids]), "session": lambda: session.respond("hello"), "trim": lambda: cache.trim(1),
    "logprobs": lambda: logprobs.next_token_logprobs(ids), "explain": lambda: model.explain(ids),
    "load": lambda: dalsegno.load(sys.argv[1]), "memory": dalsegno.memory_report,
}
if (child := os.fork()) == 0:
    for name, call in calls.items():
        try:
            call()
            print(name, "did not raise", flush=True)
        except dalsegno.UnsupportedError as error:
            assert "fork" in str(error)
    print(model.tokenizer.decode(ids), flush=True)
    del call, calls, session, batch, cache, stream, logprobs, model
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert next(stream) and model.generate(ids, max_tokens=2).ids
stream.close()
print("parent goes on", flush=True)
"""


def test_a_forked_process_gets_an_exception_and_ends(tmp_path):
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    done = subprocess.run([sys.executable, "-c", FORKED, str(tiny)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "before the fork\nparent goes on\n", "")


def test_engines_may_be_opened_after_a_fork():
    tiny = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
    program = """
import os, sys
import dalsegno
if (child := os.fork()) == 0:
    with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
        assert model.generate("in the child", max_tokens=2).ids
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    done = subprocess.run([sys.executable, "-c", program, str(tiny)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_signals_of_other_handlers_do_not_end_calls(model):
    seen = []
    previous = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begin = time.monotonic()
        while not seen and time.monotonic() - begin < 30:
            assert model.generate(PROMPT, max_tokens=200, temperature=1).ids
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert seen
