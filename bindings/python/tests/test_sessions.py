"""Sessions, prompt caches, batches, log-probabilities, the registry."""

import asyncio
import gc
import json

import numpy
import pytest

import dalsegno

TEXT = "A text that is long enough for several blocks of the cache, whatever the tokenizer makes of it. " * 2


def test_a_second_turn_computes_only_what_is_new(cold):
    session = cold.session("be brief")
    session.respond(TEXT, max_tokens=8)
    session.respond("and?", max_tokens=8)
    first, second = session.reports
    assert first.usage.reused_tokens == 0 and second.turn == 2
    assert second.usage.reused_tokens >= first.usage.prompt_tokens + first.usage.reply_tokens - 1
    assert [message["role"] for message in session.transcript] == ["system", "user", "assistant", "user", "assistant"]


def test_streams_of_a_session_keep_what_was_read(model):
    session = model.session()
    with session.stream("hello", max_tokens=60) as stream:
        first = next(stream)
    assert session.transcript[-1] == {"role": "assistant", "content": first}
    assert "".join(session.stream("again", max_tokens=6)) == session.transcript[-1]["content"]


def test_forks_rewinds_and_edits(model):
    session = model.session()
    session.respond("one", max_tokens=4)
    fork = session.fork()
    assert fork.respond("two", max_tokens=4).text == session.respond("two", max_tokens=4).text
    session.rewind(1)
    assert session.turns == 1 and fork.turns == 2
    fork.edit(1, "three")
    assert fork.reply(max_tokens=4).ids and fork.turns == 1
    with pytest.raises(dalsegno.InvalidArgumentError):
        session.rewind(7)
    session.set_transcript([{"role": "user", "content": "anew"}])
    assert session.reply(max_tokens=4).ids
    assert session.trim(2).prompt_tokens > 0


def test_a_saved_session_goes_on_as_it_would_have(cold, tmp_path):
    session = cold.session("be brief")
    session.tags = ["story"]
    session.respond(TEXT, max_tokens=6)
    session.save(tmp_path / "talk")
    expected = session.respond("next", max_tokens=6)
    cold.reset_cache()
    loaded = dalsegno.Session.load(cold.engine, tmp_path / "talk")
    assert loaded.tags == ["story"]
    reply = loaded.respond("next", max_tokens=6)
    assert reply.ids == expected.ids and reply.usage.reused_tokens == expected.usage.reused_tokens


def test_prewarming_computes_the_beginning(cold):
    session = cold.session(TEXT)
    cached = session.prewarm()
    reply = session.respond("hello", max_tokens=2)
    assert 0 < cached <= reply.usage.reused_tokens


def tools_of(handler):
    return [{"name": "clock", "description": "The time of day.", "handler": handler,
             "parameters": {"type": "object", "properties": {}}}]


def test_tools_run_on_the_callers_thread(tool_model):
    import threading

    seen = []

    def handler(**arguments):
        seen.append((threading.get_ident(), arguments))
        return {"hour": 20}

    session = tool_model.session(tools=tools_of(handler))
    answer = session.run_tools("What time is it?", max_tokens=100)
    assert seen and seen[0][0] == threading.get_ident()
    assert answer.runs[0].result == '{"hour": 20}' and not answer.runs[0].failed


def test_what_a_tool_raises_is_told_to_the_model(tool_model):
    def handler(**arguments):
        raise LookupError("no clock")

    answer = tool_model.session(tools=tools_of(handler)).run_tools("What time is it?", max_tokens=100)
    assert answer.runs[0].failed and "no clock" in answer.runs[0].result


def test_text_of_a_tool_that_is_no_unicode_is_told_to_the_model(tool_model):
    def fails(**arguments):
        raise LookupError("no clock \ud800")

    for handler, word in ((lambda **arguments: "a\ud800", "surrogates not allowed"), (fails, "no clock ?")):
        answer = tool_model.session(tools=tools_of(handler)).run_tools("What time is it?", max_tokens=100)
        assert answer.runs[0].failed and word in answer.runs[0].result
    answer = tool_model.session(tools=tools_of(lambda **arguments: "a\0b")).run_tools("What time is it?", max_tokens=100)
    assert answer.runs[0].result == "a\0b"


def test_a_keyboard_interrupt_in_a_tool_ends_the_call(tool_model):
    def handler(**arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool_model.session(tools=tools_of(handler)).run_tools("What time is it?", max_tokens=100)


def test_a_tool_that_must_be_called_is(cold):
    rome = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}},
                                              "required": ["city"], "additionalProperties": False}}
    session = cold.session(tools=[rome, {"name": "now"}], tool_choice="none")
    options = {"max_tokens": 300, "temperature": 1.0}
    for seed in range(8):
        assert "<tool_call>" not in session.respond("x", seed=seed, **options).text
        called = session.respond("x", seed=seed, tool_choice={"name": "weather"}, **options)
        call, _, rest = called.text.removeprefix("<tool_call>").partition("</tool_call>")
        if called.finish_reason == "stop" or rest:
            assert json.loads(call)["arguments"]["city"] in ("Rome", "Oslo")
    by_hand = dalsegno.constraints.tool_calls([rome], style="llama3", tool_choice="required")
    assert cold.generate(TEXT, constraint=by_hand, **options).text[0] in "{<"


def test_tools_that_cannot_be_enforced_are_refused(cold):
    odd = [{"name": "odd", "parameters": {"$ref": "https://example.com/x"}}]
    with pytest.raises(dalsegno.errors.InvalidArgumentError, match='"odd"'):
        cold.session(tools=odd)
    free = cold.session(tools=odd, strict=False)
    assert free.respond("x", max_tokens=2).text is not None
    with pytest.raises(dalsegno.errors.InvalidArgumentError, match="strict"):
        free.respond("x", tool_choice="required")
    for wrong in ("perhaps", {"tool": "x"}, 3):
        with pytest.raises((ValueError, TypeError), match="tool_choice"):
            free.respond("x", tool_choice=wrong)


def test_a_prompt_cache_stays_and_is_a_value(cold, tmp_path):
    ids = cold.encode(TEXT)
    cache = dalsegno.PromptCache.make(cold.engine, ids)
    assert len(cache) == len(ids) and cache.tokens == ids and cache.format["format"] == "bf16"
    fork = cache.fork()
    assert fork.trim(5) == len(ids) - 5 == len(fork) and len(cache) == len(ids)
    cache.save(tmp_path / "cache")
    cold.reset_cache()
    assert cold.explain(ids).reused_tokens >= len(ids) - 1
    del cache, fork
    gc.collect()
    cold.reset_cache()
    assert cold.explain(ids).reused_tokens == 0
    loaded = dalsegno.PromptCache.load(cold.engine, tmp_path / "cache")
    reply = cold.engine.generate(ids + [5], max_tokens=1)
    assert loaded.tokens == ids and reply.usage.reused_tokens == len(ids)
    with pytest.raises(dalsegno.NotFoundError):
        dalsegno.PromptCache.load(cold.engine, tmp_path / "nothing")


def test_a_damaged_cache_is_refused(cold, tmp_path):
    file = tmp_path / "cache"
    dalsegno.PromptCache.make(cold.engine, cold.encode(TEXT)).save(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(dalsegno.CorruptError):
        dalsegno.PromptCache.load(cold.engine, file)


def replies_of(batch):
    ids, ends = {}, {}
    while responses := batch.next():
        for response in responses:
            if response.token is not None:
                ids.setdefault(response.uid, []).append(response.token)
            if response.finish_reason:
                ends[response.uid] = response
    return ids, ends


def test_a_batch_gives_what_each_request_gives_alone(cold):
    prompts = [cold.encode(TEXT[: 20 * i]) for i in range(1, 6)]
    alone = [cold.engine.generate(prompt, max_tokens=8).ids for prompt in prompts]
    batch = cold.batch()
    uids = batch.insert(prompts, max_tokens=[8, 8, 3, 8, 8])
    ids, ends = replies_of(batch)
    assert [ids[uid][:3] for uid in uids] == [one[:3] for one in alone]
    assert ids[uids[0]] == alone[0] and ends[uids[2]].finish_reason == "length"
    assert ends[uids[0]].cache.tokens == prompts[0] + alone[0][:-1]


def test_a_finished_requests_cache_goes_into_another_batch(cold, tmp_path):
    prompt = cold.encode(TEXT)
    whole = cold.engine.generate(prompt, max_tokens=12).ids
    first = cold.batch()
    first.insert([prompt], max_tokens=6)
    ids, ends = replies_of(first)
    (uid,) = ids
    ends[uid].cache.save(tmp_path / "cache")
    del ends
    cold.reset_cache()
    cache = dalsegno.PromptCache.load(cold.engine, tmp_path / "cache")
    second = cold.batch()
    second.insert([prompt + ids[uid]], max_tokens=6, caches=[cache])
    more, ends = replies_of(second)
    (other,) = more
    assert ids[uid] + more[other] == whole
    assert ends[other].usage.prefilled_tokens == 1  # the last token, which had no K/V yet


def test_options_of_a_batch_are_of_all_or_of_each(model):
    prompt = model.encode(TEXT)
    batch = model.batch()
    batch.insert([prompt] * 3, options=[{"max_tokens": 1}, None, {"stop": "never", "seed": 4}], max_tokens=None,
                 temperature=1.2, seed=3)
    ids, _ = replies_of(batch)
    assert len(ids[0]) == 1
    alone = model.engine.generate(prompt, temperature=1.2, seed=3).ids
    assert ids[1][: len(alone)] == alone  # an end-of-turn token may follow
    with pytest.raises(ValueError, match="one for each"):
        batch.insert([prompt], caches=[None, None])


def test_logits_of_a_batch_are_the_distribution_drawn_from(model):
    prompt = model.encode(TEXT)
    cache = model.logprob_cache(max_bytes=8 << 20)
    batch = model.batch()
    batch.insert([prompt], max_tokens=3, keep_logits=True, logprobs=True)
    tokens = list(prompt)
    while responses := batch.next():
        (response,) = responses
        row = response.logprobs_row()
        assert row.dtype == numpy.float32 and (row == cache.next_token_logprobs(tokens)).all()
        assert abs(float(row[response.token]) - response.logprob) < 1e-6
        assert response.logprobs_row() is None
        tokens.append(response.token)


def test_requests_can_be_removed_and_their_caches_taken(model):
    prompt = model.encode(TEXT)
    batch = model.batch()
    (uid,) = batch.insert([prompt], max_tokens=4000)
    batch.next()
    assert len(batch.extract_cache(uid)) >= len(prompt)
    batch.remove(uid)
    with pytest.raises(dalsegno.NotFoundError):
        batch.remove(uid)
    assert batch.next() == []


def test_what_a_processor_of_a_batch_raises_comes_with_its_last_response(model):
    def fail(tokens, logits):
        raise ZeroDivisionError("mine")

    batch = model.batch()
    batch.insert([model.encode(TEXT)], logits_processor=fail)
    (response,) = batch.next()
    with pytest.raises(ZeroDivisionError, match="mine"):
        raise response.exception


def test_log_probabilities_are_normalised_shared_and_read_only(cold):
    ids = cold.encode(TEXT)
    cache = cold.logprob_cache(max_bytes=8 << 20)
    row = cache.next_token_logprobs(ids)
    assert row.shape == (cold.tokenizer.vocabulary_size,) and abs(numpy.exp(row.astype(float)).sum() - 1) < 1e-4
    with pytest.raises(ValueError):
        row[0] = 0
    again = cache.next_token_logprobs(ids)
    assert again.ctypes.data == row.ctypes.data  # the same memory
    assert int(row.argmax()) == cold.engine.generate(ids, max_tokens=1).ids[0]
    rows = cache.next_token_logprobs_batch([ids, ids[:-1], ids])
    assert (rows[0] == row).all() and (rows[2] == row).all()
    stats = cache.stats()
    assert stats.computed == 2 and stats.queries == 5
    cache.clear_cache()
    assert cache.stats().rows == 0 and (row == again).all()
    with pytest.raises(dalsegno.InvalidArgumentError):
        cache.next_token_logprobs([])


def test_queries_of_tasks_are_gathered_and_errors_are_their_own(cold):
    ids = cold.encode(TEXT)
    cache = cold.logprob_cache(max_bytes=8 << 20)

    async def ask():
        return await asyncio.gather(*(cache.next_token_logprobs_async(ids[: i % 4]) for i in range(40)),
                                    return_exceptions=True)

    answers = asyncio.run(ask())
    for i, answer in enumerate(answers):
        if i % 4 == 0:
            assert isinstance(answer, dalsegno.InvalidArgumentError)
        else:
            assert (answer == cache.next_token_logprobs(ids[: i % 4])).all()
    assert cache.stats().computed == 3


def test_cache_kv_keeps_a_prompt(cold):
    ids = cold.encode(TEXT)
    cache = cold.logprob_cache(max_bytes=8 << 20)
    cache.cache_kv(ids)
    cold.reset_cache()
    assert cold.explain(ids).reused_tokens >= len(ids) // 16 * 16 - 1
    cache.clear_kv_cache()
    assert cold.explain(ids).reused_tokens == 0


def test_a_registry_loads_a_model_once(model):
    registry = dalsegno.ModelRegistry(max_models=1)
    options = {"memory": 256 << 20, "threads": 2}
    first, second = registry.acquire(model.path, **options), registry.acquire(model.path, **options)
    (loaded,) = registry.report()
    assert loaded.users == 2 and loaded.bytes > 0 and loaded.path == model.path
    ids = first.tokenizer.encode(TEXT)
    first.generate(ids, max_tokens=1)
    assert second.generate(ids, max_tokens=1).usage.reused_tokens == len(ids) - 1
    first.close()
    assert registry.close_idle() == 0
    second.close()
    assert registry.close_idle() == 1 and registry.report() == []


def test_a_tokenizer_alone(model):
    tokenizer = dalsegno.Tokenizer(model.path)
    ids = tokenizer.encode("hello there")
    assert tokenizer.decode(ids) == "hello there" and tokenizer.has_template
    assert tokenizer.vocabulary_size == model.tokenizer.vocabulary_size
    with pytest.raises(dalsegno.InvalidArgumentError):
        tokenizer.decode([10**6])
