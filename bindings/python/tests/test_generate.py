"""Model and Engine: what a request gives, its options, callbacks and errors."""

import asyncio

import numpy
import pytest

import dalsegno

PROMPT = "the quick brown fox jumps over the lazy dog. " * 4


def test_a_repeated_prompt_is_reused_and_the_reply_is_the_same(cold):
    first = cold.generate(PROMPT, max_tokens=12)
    again = cold.generate(PROMPT, max_tokens=12)
    assert first.usage.reused_tokens == 0 and first.reuse.stopped == "cold"
    assert again.usage.prefilled_tokens == 1 and again.reuse.tier == "ram"
    assert again.ids == first.ids and again.text == first.text
    assert first.prompt_ids == cold.encode(PROMPT)


def test_explain_says_what_generate_would_reuse(cold):
    assert cold.explain(PROMPT).reused_tokens == 0
    reply = cold.generate(PROMPT, max_tokens=4)
    explained = cold.explain(PROMPT)
    assert explained.reused_tokens == explained.prompt_tokens - 1 == len(reply.prompt_ids) - 1


def test_messages_are_rendered_by_the_template(model):
    reply = model.generate([{"role": "user", "content": "hello"}], max_tokens=4)
    assert reply.prompt_ids == model.tokenizer.encode(
        model.tokenizer.render('[{"role":"user","content":"hello"}]'), special=True)


def test_token_ids_may_be_any_whole_numbers(model):
    ids = model.encode(PROMPT)
    replies = [model.engine.generate(form, max_tokens=4).ids for form in (ids, tuple(ids), numpy.array(ids), iter(ids))]
    assert replies.count(replies[0]) == 4


def test_logprobs_are_an_array_that_is_not_copied(model):
    reply = model.generate(PROMPT, max_tokens=8, logprobs=True)
    array = reply.logprobs
    assert array.dtype == numpy.float64 and array.shape == (len(reply.ids),)
    assert (array <= 0).all() and not array.flags.owndata and not array.flags.writeable
    del reply
    assert numpy.isfinite(array).all()  # the array keeps what it shows


def test_seeds_decide_draws(model):
    def draw(seed):
        return model.generate(PROMPT, max_tokens=12, temperature=1.5, seed=seed).ids

    assert draw(1) == draw(1) != draw(2)


def test_on_text_gets_all_the_text_and_may_end_the_reply(model):
    texts = []
    reply = model.generate(PROMPT, max_tokens=12, on_text=texts.append)
    assert "".join(texts) == reply.text and len(texts) > 1
    seen = []
    cut = model.generate(PROMPT, max_tokens=12, on_text=lambda text: bool(seen.append(text)))
    assert seen == texts[:1] and cut.text == texts[0] and cut.finish_reason == "cancelled"


def test_on_prefill_is_told_the_prompts_tokens_and_may_cancel(cold):
    told = []
    ids = cold.encode(PROMPT)
    cold.generate(ids, max_tokens=1, chunk=16, on_prefill=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(ids), len(ids)) and told == sorted(told)
    cold.reset_cache()
    reply = cold.generate(ids * 20, max_tokens=1, chunk=16, on_prefill=lambda done, total: False)
    assert reply.finish_reason == "cancelled" and reply.text == ""


@pytest.mark.parametrize("where", ["on_text", "on_prefill", "logits_processor"])
def test_what_a_callback_raises_comes_out_and_the_model_stays_usable(cold, where):
    class Mine(Exception):
        pass

    def fail(*_):
        raise Mine("mine")

    with pytest.raises(Mine, match="mine"):
        cold.generate(PROMPT, max_tokens=12, **{where: fail})
    assert cold.generate(PROMPT, max_tokens=4).ids


def test_a_logits_processor_sees_the_tokens_and_decides(model):
    seen = []

    def only(token):
        def process(tokens, logits):
            seen.append((tokens.copy(), logits.dtype, logits.shape))
            logits[:] = -1e30
            logits[token] = 0

        return process

    reply = model.generate(PROMPT, max_tokens=3, logits_processor=only(70))
    assert reply.ids == [70] * 3
    assert [len(tokens) for tokens, _, _ in seen] == [len(reply.prompt_ids) + i for i in range(3)]
    assert seen[0][1:] == (numpy.float32, (model.tokenizer.vocabulary_size,))

    returned = model.generate(PROMPT, max_tokens=3, logits_processor=lambda tokens, logits: -logits)
    assert returned.ids != model.generate(PROMPT, max_tokens=3).ids
    with pytest.raises(ValueError, match="size"):
        model.generate(PROMPT, max_tokens=3, logits_processor=lambda tokens, logits: logits[1:])


def test_a_stream_is_an_iterator_that_ends_with_the_reply(model):
    stream = model.stream(PROMPT, max_tokens=12)
    with pytest.raises(dalsegno.InvalidArgumentError, match="not complete"):
        stream.reply
    text = "".join(stream)
    assert stream.reply.text == text == model.generate(PROMPT, max_tokens=12).text
    assert next(stream, None) is None


def test_a_stream_that_is_left_ends_its_request(cold):
    with cold.stream(PROMPT, max_tokens=4000) as stream:
        first = next(stream)
    rest = "".join(stream)
    assert rest == "" and stream.reply.text == first and stream.reply.finish_reason == "cancelled"
    abandoned = cold.stream(PROMPT, max_tokens=4000)
    next(abandoned)
    del abandoned
    assert cold.generate(PROMPT, max_tokens=4).ids


def test_async_streams_and_replies(model):
    async def both():
        stream = model.stream(PROMPT, max_tokens=12)
        texts = [text async for text in stream]
        replies = await asyncio.gather(*(model.generate_async(PROMPT + str(i), max_tokens=6) for i in range(8)))
        return "".join(texts), stream.reply.text, [reply.ids for reply in replies]

    text, whole, ids = asyncio.run(both())
    assert text == whole
    assert ids == [model.generate(PROMPT + str(i), max_tokens=6).ids for i in range(8)]


def test_cancelling_a_task_cancels_its_request(model):
    async def cancelled():
        task = asyncio.create_task(model.generate_async(PROMPT, max_tokens=4000))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert model.generate(PROMPT, max_tokens=4).ids


def test_errors_carry_the_engines_sentence(model, tmp_path):
    with pytest.raises(dalsegno.InvalidArgumentError, match="empty") as caught:
        model.engine.generate([])
    assert isinstance(caught.value, dalsegno.DalSegnoError) and caught.value.code == "invalid_argument"
    with pytest.raises(dalsegno.InvalidArgumentError, match="vocabulary|outside"):
        model.engine.generate([10**6])
    with pytest.raises(dalsegno.InvalidArgumentError, match="no token id"):
        model.engine.generate([-1])
    with pytest.raises(dalsegno.NotFoundError, match="nowhere"):
        dalsegno.load("nowhere")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(dalsegno.DalSegnoError, match="broken.gguf"):
        dalsegno.load(broken, memory=256 << 20)


def test_options_are_checked_by_name_and_type(model):
    with pytest.raises(TypeError, match="there is no option 'temprature'"):
        model.generate(PROMPT, temprature=1)
    with pytest.raises(TypeError, match="max_tokens: a whole number"):
        model.generate(PROMPT, max_tokens="many")
    with pytest.raises(TypeError, match="not text"):
        model.engine.generate("text")


def test_guesses_change_no_token_and_are_counted(model):
    off = model.generate(PROMPT, max_tokens=40, speculation="off")
    guessed = [model.generate(PROMPT, max_tokens=40, speculation="automatic") for _ in range(3)]
    assert off.usage.proposed_tokens == off.usage.accepted_tokens == 0
    for reply in guessed:
        assert list(reply.ids) == list(off.ids)
        assert 0 <= reply.usage.accepted_tokens <= reply.usage.proposed_tokens
    with pytest.raises(ValueError, match="speculation: 'on' is none of automatic, off"):
        model.generate(PROMPT, speculation="on")


def test_a_draft_model_changes_no_token_and_reports_itself(model, tmp_path):
    plain = model.generate(PROMPT, max_tokens=60, speculation="off")
    assert model.engine.draft_report() is None
    options = {"memory": 256 << 20, "threads": 2}
    with dalsegno.load(model.path, draft_model=model.path, **options) as drafted:
        reply = drafted.generate(PROMPT, max_tokens=60)
        assert list(reply.ids) == list(plain.ids)
        report = drafted.engine.draft_report()
        assert len(report["proposed"]) == len(report["accepted"]) == 16
        assert report["pass_ms"] > 0 and sum(report["accepted"]) <= sum(report["proposed"])
    damaged = tmp_path / "draft.gguf"
    damaged.write_bytes(b"GGUF")
    with pytest.raises(dalsegno.CorruptError, match="the draft model: "):
        dalsegno.load(model.path, draft_model=damaged, **options)


def test_every_option_has_a_type():
    from dalsegno import _dalsegno, options

    generate, engine = _dalsegno._option_names()
    assert sorted(generate) == sorted(options.GenerateOptions.__annotations__)
    assert sorted(engine) == sorted(options.EngineOptions.__annotations__)


def test_stop_texts_and_biases(model):
    plain = model.generate(PROMPT, max_tokens=12)
    stopped = model.generate(PROMPT, max_tokens=12, stop=plain.text[3:5])
    assert stopped.finish_reason == "stop" and stopped.text == plain.text[: plain.text.index(plain.text[3:5])]
    assert model.generate(PROMPT, max_tokens=1, logit_bias={plain.ids[0]: float("-inf")}).ids != plain.ids[:1]


def test_memory_can_be_read_and_given_back(cold):
    cold.generate(PROMPT * 8, max_tokens=4)
    before = dalsegno.memory_report()
    assert before.limit == 256 << 20 and before.kv > 0 and before.engines >= 1
    dalsegno.release_all()
    assert dalsegno.memory_report().kv < before.kv
    assert cold.generate(PROMPT, max_tokens=4).usage.reused_tokens == 0


def test_a_pin_stays_through_reset(cold):
    ids = cold.encode(PROMPT)
    with cold.engine.pin(ids) as pin:
        assert 0 < pin.tokens <= len(ids)
        cold.reset_cache()
        assert cold.explain(PROMPT).reused_tokens >= pin.tokens - 1
    cold.reset_cache()
    assert cold.explain(PROMPT).reused_tokens == 0


def test_the_cache_can_be_audited(cold):
    cold.generate(PROMPT, max_tokens=8)
    report = cold.engine.audit_cache(4)
    assert report.mismatched == 0 and report.checked + report.skipped >= 1


def test_the_cache_says_what_it_did(cold):
    before = cold.engine.cache_report()
    ids = cold.encode(PROMPT)
    cold.generate(ids, max_tokens=1)
    cold.generate(ids, max_tokens=1)
    after = cold.engine.cache_report()
    assert after["requests"] == before["requests"] + 2
    assert after["reused_tokens"] == before["reused_tokens"] + len(ids) - 1
    assert after["by_cause"]["cold"]["requests"] == before["by_cause"]["cold"]["requests"] + 1
    assert after["blocks"] > 0 and sum(after["reused"]["buckets"].values()) == after["reused"]["count"]
