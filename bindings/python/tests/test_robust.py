"""What goes wrong in one place stays there: nothing hangs, ends the process, or takes what belongs to others."""

import asyncio
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy
import pytest

import dalsegno

TINY = pathlib.Path(os.environ["DALSEGNO_TINY"]) / "tiny_chat.gguf"
BUDGET = 256 << 20
PROMPT = "Once upon a time "


def run(program, timeout=60):
    """A program of its own, which may hang or die."""
    begin = "import sys\nimport dalsegno\nmodel = dalsegno.load(sys.argv[1], memory=1 << 30, threads=1)\n"
    done = subprocess.run([sys.executable, "-c", begin + program, str(TINY)], capture_output=True, text=True, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


# What daemon threads do when the program ends.
DAEMONS = {
    "stream": "list(model.stream('Once', max_tokens=200))",
    "callback": "model.generate('Once', max_tokens=50, on_text=lambda text: time.sleep(0.01))",
    "prefill": "(model.reset_cache(), model.generate(ids * 40, max_tokens=1, on_prefill=lambda *_: time.sleep(0.01)))",
    "explain": "model.explain('Once upon a time')",
    "session": "model.session().respond('hello', max_tokens=20)",
    "logprobs": "cache.next_token_logprobs([next(numbers) % 200, next(numbers) % 200])",
    "encode": "model.encode('a long text ' * 20000)",
    "ids": "model.generate((time.sleep(0.001) or token for token in ids), max_tokens=1)",
    "processor": "model.generate('Once', max_tokens=50, logits_processor=lambda tokens, logits: time.sleep(0.001))",
}


@pytest.mark.parametrize("what", DAEMONS)
def test_daemon_threads_may_be_anywhere_when_the_program_ends(what):
    assert run(f"""
import itertools, threading, time
ids, cache, numbers = model.encode("Once upon a time "), model.logprob_cache(max_bytes=8 << 20), itertools.count()
def forever():
    while True:
        {DAEMONS[what]}
for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.4)
print("ending", flush=True)
""") == "ending\n"


WITHIN = {
    "generate": "model.generate('y', max_tokens=1)",
    "stream": "next(model.stream('y', max_tokens=1))",
    "explain": "model.explain('y')",
    "reset_cache": "model.reset_cache()",
    "cache_report": "model.engine.cache_report()",
    "audit_cache": "model.engine.audit_cache(1)",
    "logprobs": "cache.next_token_logprobs(model.encode('y'))",
    "async": "asyncio.run(model.generate_async('y', max_tokens=1))",
    "async logprobs": "asyncio.run(cache.next_token_logprobs_async(model.encode('y')))",
    "session": "model.session().respond('y', max_tokens=1)",
    "prompt_cache": "model.prompt_cache('y' * 99)",
    "pin": "model.engine.pin(model.encode('y' * 99))",
    "batch": "(batch.insert([model.encode('y')], max_tokens=1), batch.next())",
    "release_all": "dalsegno.release_all()",
    "load": "dalsegno.load(sys.argv[1], memory=1 << 30)",
}


@pytest.mark.parametrize("what", WITHIN)
def test_a_processor_cannot_ask_its_own_engine(what):
    assert run(f"""
import asyncio
cache, batch = model.logprob_cache(max_bytes=8 << 20), model.batch()
cache.next_token_logprobs(model.encode("y"))
expected = model.generate("x", max_tokens=3).ids
def process(tokens, logits):
    {WITHIN[what]}
try:
    model.generate("x", max_tokens=1, logits_processor=process)
except dalsegno.InvalidArgumentError as error:
    assert "a logits processor runs within a step of its engine" in str(error), error
    print("refused")
assert model.generate("x", max_tokens=3).ids == expected
""") == "refused\n"


def test_a_processor_may_use_what_needs_no_engine_and_another_engine():
    assert run("""
other = dalsegno.load(sys.argv[1], memory=1 << 30, threads=1)
expected = other.generate("y", max_tokens=2).text
seen = []
def process(tokens, logits):
    model.tokenizer.decode([int(token) for token in tokens])
    seen.append(other.generate("y", max_tokens=2).text)
model.generate("x", max_tokens=3, logits_processor=process)
assert seen == [expected] * 3, seen
print("asked")
""") == "asked\n"


def test_two_engines_whose_processors_ask_each_other_are_refused_not_locked():
    assert run("""
import threading
other = dalsegno.load(sys.argv[1], memory=1 << 30, threads=1)
both, refused = threading.Barrier(2), []
def ask(mine, theirs):
    def process(tokens, logits):
        both.wait()
        theirs.explain("y")
    try:
        mine.generate("x", max_tokens=1, logits_processor=process)
    except dalsegno.InvalidArgumentError as error:
        refused.append(str(error))
threads = [threading.Thread(target=ask, args=pair) for pair in ((model, other), (other, model))]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(refused) == 1 and "within a step" in refused[0], refused
assert model.generate("x", max_tokens=1).ids == other.generate("x", max_tokens=1).ids
print("refused")
""") == "refused\n"


def test_a_processor_may_let_go_of_the_last_of_an_engine():
    assert run("""
held = [model, model.batch(), model.session(), model.prompt_cache("something to keep " * 9)]
ids = model.encode("x")
del model
batch = held[1]
def process(tokens, logits):
    global batch
    held.clear()
    batch = None
batch.insert([ids], max_tokens=4, logits_processor=process)
try:
    while batch.next():
        pass
except AttributeError:
    pass
import time
while dalsegno.memory_report() is not None:
    time.sleep(0.01)
print("gone")
""") == "gone\n"


def test_what_one_processor_of_a_batch_raises_takes_nothing_from_the_others(model):
    ids = model.encode(PROMPT)
    alone = model.generate(ids, max_tokens=12, temperature=1, seed=7).ids

    class Mine(Exception):
        pass

    def fail(tokens, logits):
        if len(tokens) == len(ids) + 3:
            raise Mine("in the middle")

    batch = model.batch()
    others = [{"seed": 7}, {"seed": 7, "logits_processor": fail}, {"seed": 7}, {"seed": 7, "logits_processor": fail}, {"seed": 7}]
    uids = batch.insert([ids] * 5, max_tokens=12, temperature=1, options=others)
    tokens, errors = {uid: [] for uid in uids}, {}
    while responses := batch.next():
        for response in responses:
            if response.token is not None:
                tokens[response.uid].append(response.token)
            if response.finish_reason == "error":
                errors[response.uid] = response
    assert [tokens[uid][:len(alone)] for uid in uids[::2]] == [alone] * 3
    assert sorted(errors) == uids[1::2]
    for uid, response in errors.items():
        assert tokens[uid] == alone[:3]
        assert response.error == "the logits processor raised Mine: Mine('in the middle')"
        assert type(response.exception) is Mine and response.exception.__traceback__ is not None


def threads():
    return len(os.listdir("/proc/self/task"))


def test_streams_that_nobody_reads_take_no_threads(model):
    ids = model.encode(PROMPT)
    before = threads()
    kept = [model.stream(ids, max_tokens=30) for _ in range(500)]
    session = model.session()
    kept += [session.stream("hello", max_tokens=30) for _ in range(500)]
    for _ in range(500):
        model.stream(ids, max_tokens=30)
    assert threads() == before
    assert session.transcript == []
    assert "".join(kept[0]) == "".join(kept[1]) == model.generate(ids, max_tokens=30).text
    assert "".join(kept[-1]) == session.transcript[-1]["content"]


def test_a_stream_that_was_closed_before_it_was_read_has_ended(model):
    stream = model.stream(PROMPT)
    stream.close()
    assert list(stream) == [] and stream.has_ended
    with pytest.raises(dalsegno.InvalidArgumentError, match="closed before it was read"):
        stream.reply


def test_no_more_threads_is_an_error_with_a_sentence():
    assert run("""
import resource
ids = model.encode("Once upon a time ")
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20), -1))
streams = [model.stream(ids, max_tokens=30) for _ in range(200)]
try:
    for stream in streams:
        next(stream)
except dalsegno.ExhaustedError as error:
    assert "no more threads" in str(error), error
    print("exhausted")
stream = streams[0]
del streams
"".join(stream)
assert model.generate(ids, max_tokens=3).ids
""") == "exhausted\n"


def test_two_threads_that_read_one_stream_get_each_piece_once_or_a_sentence(model):
    for _ in range(10):
        stream = model.stream(PROMPT, max_tokens=60, temperature=1, seed=3)
        pieces, wrong = [], []

        def read():
            while True:
                try:
                    for text in stream:
                        pieces.append(text)
                    return
                except dalsegno.InvalidArgumentError as error:
                    wrong.append(str(error))
                    time.sleep(0.001)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        expected = model.generate(PROMPT, max_tokens=60, temperature=1, seed=3).text
        assert sorted("".join(pieces)) == sorted(expected) and stream.reply.text == expected
        assert all("is being read already" in sentence for sentence in wrong)


def test_a_second_task_that_reads_a_stream_is_refused(model):
    async def read(stream):
        return "".join([text async for text in stream])

    async def main():
        go_on = threading.Event()
        stream = model.stream(PROMPT, max_tokens=20, logits_processor=lambda *_: go_on.wait(30) and None)
        first = asyncio.ensure_future(read(stream))
        await asyncio.sleep(0)  # it has begun, and waits
        try:
            with pytest.raises(dalsegno.InvalidArgumentError, match="is being read already"):
                await read(stream)
        finally:
            go_on.set()
        return await asyncio.wait_for(first, 30)

    assert asyncio.run(main()) == model.generate(PROMPT, max_tokens=20).text


def test_one_bad_query_fails_alone(model):
    cache = model.logprob_cache(max_bytes=8 << 20)

    async def main():
        queries = [[5, 6], [-1], ["a"], [7], [10**9], [2**70], []]
        return await asyncio.gather(*map(cache.next_token_logprobs_async, queries), return_exceptions=True)

    answers = asyncio.run(main())
    assert numpy.array_equal(answers[0], cache.next_token_logprobs([5, 6]))
    assert numpy.array_equal(answers[3], cache.next_token_logprobs([7]))
    kinds = [type(answer) for answer in answers]
    assert kinds[1] is kinds[4] is kinds[6] is dalsegno.InvalidArgumentError and kinds[2] is TypeError
    assert issubclass(kinds[5], Exception)


INTERRUPTED = """
import os, signal, threading, time
def interrupt():
    time.sleep(0.3)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
sent = []
threading.Thread(target=interrupt).start()
"""


def test_an_interrupted_audit_stops():
    out = run(INTERRUPTED + """
model.generate(model.encode("word ") * 500, max_tokens=1)
try:
    model.engine.audit_cache(1000000)
except KeyboardInterrupt:
    left = time.monotonic() - sent[0]
begin = time.monotonic()
assert model.generate("x", max_tokens=1).ids
assert left < 5 and time.monotonic() - begin < 10, (left, time.monotonic() - begin)
print(model.engine.audit_cache(0).mismatched)
""")
    assert out == "0\n"


def test_an_audit_checks_as_many_blocks_as_it_was_asked_for(cold):
    cold.generate(PROMPT * 20, max_tokens=1)
    before = cold.engine.audit_cache()
    after = cold.engine.audit_cache(5)
    assert after.checked + after.skipped == before.checked + before.skipped + 5 and after.mismatched == 0


def test_ctrl_c_leaves_the_tokeniser():
    assert run("import time\ntext = 'some words ' * 3000000\n" + INTERRUPTED + """
begin = time.monotonic()
try:
    model.encode(text)
    print("not interrupted")
except KeyboardInterrupt:
    print("left", "at once" if time.monotonic() - sent[0] < 0.5 else time.monotonic() - sent[0])
""") == "left at once\n"


def test_the_event_loop_goes_on_while_a_long_text_is_tokenised(model):
    async def main():
        turns = 0
        asking = asyncio.ensure_future(model.generate_async("some words " * 500000, max_tokens=1))
        while not asking.done():
            await asyncio.sleep(0.001)
            turns += 1
        with pytest.raises(dalsegno.DalSegnoError, match="context"):
            await asking
        return turns

    assert asyncio.run(main()) > 5  # one or two, where the loop waits for the text


def test_long_and_short_texts_give_the_same_ids(model):
    word = model.encode("word")
    text = "word\n" * 20000
    ids = model.tokenizer.encode(text)
    assert model.tokenizer.decode(ids) == text
    assert ids == model.tokenizer.encode("word\n" * 100) * 200 and word


def collected(make):
    """Whether what make() returns goes with the next collection, though it refers to itself."""
    watched = make()
    for _ in range(5):
        gc.collect()
        if watched() is None:
            return True
        time.sleep(0.1)
    return False


class Witness:
    """Lives as long as the cycle that it is in."""


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("option", ["on_prefill", "logits_processor"])
def test_a_stream_that_refers_to_itself_is_collected(model, option, begun):
    def make():
        cycle = Witness()
        cycle.stream = model.stream(PROMPT, max_tokens=500, **{option: lambda *_: cycle and None})
        if begun:
            next(cycle.stream)
        return weakref.ref(cycle)

    assert collected(make)


def test_a_session_whose_tool_refers_to_it_is_collected(tool_model):
    def make():
        cycle = Witness()
        tool = {"name": "clock", "description": "", "handler": lambda: cycle and "12:00"}
        cycle.session = tool_model.session(tools=[tool])
        cycle.stream = cycle.session.stream("what time is it?", max_tokens=100)
        next(cycle.stream)
        return weakref.ref(cycle)

    assert collected(make)


def test_a_batch_whose_processor_refers_to_it_is_collected(model):
    def make():
        cycle = Witness()
        cycle.batch = model.batch()
        cycle.batch.insert([model.encode(PROMPT)] * 3, max_tokens=500, logits_processor=lambda *_: cycle and None)
        cycle.batch.next()
        return weakref.ref(cycle)

    assert collected(make)


def test_a_response_whose_exception_refers_to_it_is_collected(model):
    def make():
        cycle = Witness()

        def fail(tokens, logits):
            raise KeyError(cycle)

        cycle.batch = model.batch()
        cycle.batch.insert([model.encode(PROMPT)] * 2, logits_processor=fail)
        cycle.responses = cycle.batch.next()
        return weakref.ref(cycle)

    assert collected(make)


def test_what_is_in_use_is_not_collected(model):
    seen = []

    def process(tokens, logits):
        gc.collect()
        seen.append(len(tokens))

    batch = model.batch()
    batch.insert([model.encode(PROMPT)], max_tokens=4, logits_processor=process)
    stream = model.stream(PROMPT, max_tokens=4, logits_processor=process, on_prefill=lambda *_: gc.collect() and None)
    del process
    gc.collect()
    assert "".join(stream) == stream.reply.text
    while batch.next():
        gc.collect()
    assert len(seen) == 8


def test_objects_say_what_they_are(model):
    assert repr(model.engine) == f"Engine('{TINY}', context={model.engine.context})"
    with dalsegno.load(TINY, memory=BUDGET, threads=2) as other:
        pass
    assert repr(other.engine) == "Engine(closed)"
    session = model.session("Be brief.")
    assert repr(session) == "Session(0 turns, 1 messages)"
    session.respond("hello", max_tokens=2)
    assert repr(session) == "Session(1 turns, 3 messages)"
    stream = session.stream("hello", max_tokens=50)
    next(stream)
    assert repr(session) == "Session(a call is under way)"
    stream.close()
    session.close()
    assert repr(session) == "Session(closed)"
