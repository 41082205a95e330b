"""Calls into the extension whose arguments do not fit: one sentence that names the call and the argument."""

import inspect
import os
import shutil

import numpy
import pytest

import dalsegno
from conftest import TINY
from dalsegno import _calls, _dalsegno
from test_sentences import HALF, PROMPT, refused

IDS = [70, 72, 75]
KINDS = (TypeError, ValueError)


@pytest.mark.parametrize("call,words", [
    (lambda m: m.session().respond(None), ("Session.respond(): argument user_text must be a str, not None",)),
    (lambda m: m.session().respond(), ("Session.respond(): argument user_text is missing",)),
    (lambda m: m.session().respond(HALF), ("user_text holds half of a surrogate pair",)),
    (lambda m: m.session().stream(user_text=5), ("Session.stream(): argument user_text must be a str, not an int",)),
    (lambda m: m.session().respond("a", user_text="b"), ("argument user_text is given twice",)),
    (lambda m: m.session().run_tools("a", most_rounds="b"), ("argument most_rounds must be an int, not a str",)),
    (lambda m: m.session().rewind(10**30), ("Session.rewind(): argument turn is out of range",)),
    (lambda m: m.session().edit(1.5, "a"), ("argument turn must be an int, not a float",)),
    (lambda m: m.session().fork(True), ("Session.fork() takes no arguments without a name, and 1 was given",)),
    (lambda m: m.session().trim(1, salt=b"a"), ("argument salt must be a str, not a bytes",)),
    (lambda m: dalsegno.Session(None), ("Session(): argument engine must be an Engine, not None",)),
    (lambda m: dalsegno.Session(m), ("argument engine must be an Engine, not a Model; give the model's engine",)),
    (lambda m: dalsegno.Session(m.engine, pin="a"), ("argument pin must be a bool, not a str",)),
    (lambda m: dalsegno.Session(m.engine, instruction="a"), ("Session(): there is no argument instruction",)),
    (lambda m: dalsegno.Session.load(m.engine), ("Session.load(): argument path is missing",)),
    (lambda m: dalsegno.Session.respond(5, "a"), ("respond(): it must be called on an object of its class, not on an int",)),
    (lambda m: dalsegno.BatchGenerator("x"), ("BatchGenerator(): argument engine must be an Engine, not a str",)),
    (lambda m: m.batch().insert(5), ("BatchGenerator.insert(): argument prompts must be list[Iterable[int]], not an int",)),
    (lambda m: m.batch().insert([IDS], keep_cache="a"), ("argument keep_cache must be a bool",)),
    (lambda m: m.batch().remove(None), ("BatchGenerator.remove(): argument uid must be an int, not None",)),
    (lambda m: m.batch().extract_cache(-1), ("argument uid is out of range",)),
    (lambda m: dalsegno.LogprobCache("x"), ("LogprobCache(): argument engine must be an Engine",)),
    (lambda m: m.logprob_cache(max_bytes=1.5), ("argument max_bytes must be an int, not a float",)),
    (lambda m: m.logprob_cache(max_bytes=numpy.float32(1)), ("argument max_bytes must be an int, not a float32",)),
    (lambda m: m.logprob_cache(max_byte=1), ("LogprobCache(): there is no argument max_byte",)),
    (lambda m: dalsegno.ModelRegistry(max_models="x"), ("ModelRegistry(): argument max_models must be an int, not a str",)),
    (lambda m: dalsegno.ModelRegistry(5), ("ModelRegistry() takes no arguments without a name",)),
    (lambda m: m.engine.pin(IDS, 5), ("Engine.pin(): argument salt must be a str, not an int",)),
    (lambda m: m.engine.audit_cache("x"), ("argument blocks must be an int",)),
    (lambda m: m.tokenizer.encode(b"a"), ("Tokenizer.encode(): argument text must be a str, not a bytes",)),
    (lambda m: m.tokenizer.encode("a", True), ("takes 1 argument without a name, and 2 were given",)),
    (lambda m: m.tokenizer.token_bytes("x"), ("argument id must be an int",)),
    (lambda m: m.tokenizer.token_text(1 << 40), ("argument id is out of range",)),
    (lambda m: m.tokenizer.render(None), ("argument messages_json must be a str, not None",)),
    (lambda m: m.prompt_cache(IDS).trim("x"), ("PromptCache.trim(): argument tokens must be an int",)),
    (lambda m: dalsegno.PromptCache.make(m, IDS), ("PromptCache.make(): argument engine must be an Engine, not a Model",)),
    (lambda m: dalsegno.memory_report(1), ("memory_report() takes no arguments without a name",)),
    (lambda m: dalsegno.load(TINY / "tiny_chat.gguf", kv={"start": 1 << 40}), ("start: a whole number from -2**31 to 2**31 - 1 is wanted",)),
    (lambda m: dalsegno.load(TINY / "tiny_chat.gguf", quotas={"a": -1}), ("quotas: a dict of salts to bytes, each from 0 to 2**64 - 1",)),
    (lambda m: setattr(m.session(), "tags", 5), ("tags: a list of texts is wanted",)),
])
def test_an_argument_that_does_not_fit_is_named(model, call, words):
    refused(lambda: call(model), *words)


def test_no_function_of_the_extension_shows_its_overloads(model):
    """Whatever it is called with: a place too many, and a name that it does not have."""
    tried = 0
    objects = [model.engine, model.tokenizer, model.session(), model.batch(), model.logprob_cache(max_bytes=1 << 20),
               model.prompt_cache(IDS), dalsegno.ModelRegistry(), model.stream(PROMPT)]
    calls = [(name, getattr(each, name)) for each in objects for name, member in vars(type(each)).items()
             if callable(member) and not name.endswith("_async")]
    calls += [(name, getattr(_dalsegno, name)) for name in dir(_dalsegno)]
    for name, call in calls:
        if name.startswith("_") or not callable(call) or inspect.isclass(call):
            continue
        for given, named in (([object()] * 9, {}), ([], {"no_such_argument": 1}), ([object()], {})):
            try:
                call(*given, **named)
            except KINDS as error:
                assert "\n" not in str(error) and "incompatible" not in str(error), (name, error)
                tried += 1
            except Exception as error:  # it fits, and something else is wrong: closed by one before, say
                assert "\n" not in str(error) and "bad_cast" not in str(error), (name, error)
    assert tried > 80


def test_a_message_that_cannot_be_read_is_cut():
    odd = "f(): incompatible function arguments. The following argument types are supported:\n    1. f(self, a: <odd>)\n\n"
    assert str(_calls.refusal(odd)) == "f(): incompatible function arguments"


@pytest.mark.parametrize("wrong", [5, None, [1.5], [None], ["a"], [1 << 70], [-1], "text"])
def test_token_ids_that_are_none_are_named(model, wrong):
    cache = model.logprob_cache(max_bytes=1 << 20)
    for call, name in ((model.engine.generate, "prompt"), (model.engine.stream, "prompt"), (model.engine.explain, "prompt"),
                       (model.engine.pin, "prefix"), (model.tokenizer.decode, "ids"), (cache.next_token_logprobs, "prompt"),
                       (cache.cache_kv, "prompt"), (lambda ids: dalsegno.PromptCache.make(model.engine, ids), "tokens"),
                       (lambda ids: cache.next_token_logprobs_batch([IDS, ids]), "prompts, item 1"),
                       (lambda ids: model.batch().insert([ids]), "prompts, item 0")):
        refused(lambda: call(wrong), f"argument {name} must be" if wrong is None and "item" not in name else f"{name}")


def test_what_an_iterator_of_token_ids_raises_comes_out(model):
    def ids():
        yield 70
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.engine.explain(ids())


@pytest.mark.parametrize("wrong,word", [(HALF, "surrogate"), (b"\xff", "surrogate"), ("a\0b", "null character"), (None, "None"),
                                        (5, "5"), (object(), "object")])
def test_a_path_that_is_none(model, monkeypatch, tmp_path, wrong, word):
    cache, session = model.prompt_cache(IDS), model.session()
    for call in (cache.save, session.save, lambda path: dalsegno.PromptCache.load(model.engine, path),
                 lambda path: dalsegno.Session.load(model.engine, path), dalsegno.Engine, dalsegno.Tokenizer, _dalsegno.layers,
                 dalsegno.ModelRegistry().acquire, dalsegno.load):
        refused(lambda: call(wrong), "path", word)
    refused(lambda: dalsegno.load(model.path, draft_model=wrong or 5), "" if wrong is None else word)
    monkeypatch.chdir(tmp_path)
    cache.save(b"bytes.kv")
    assert os.listdir(tmp_path) == ["bytes.kv"]


def test_a_registry_finds_models_by_name(monkeypatch, tmp_path):
    shutil.copy(TINY / "tiny_chat.gguf", tmp_path / "Tiny-Chat.Q8_0.gguf")
    monkeypatch.setenv("DALSEGNO_MODELS", str(tmp_path))
    registry = dalsegno.ModelRegistry(max_models=1)
    options = {"memory": 256 << 20, "threads": 2}
    with registry.acquire("Tiny-Chat.Q8_0", **options), registry.acquire(tmp_path / "Tiny-Chat.Q8_0.gguf", **options):
        (loaded,) = registry.report()
        assert loaded.users == 2 and loaded.path == str(tmp_path / "Tiny-Chat.Q8_0.gguf")
    refused(lambda: registry.acquire("none-such"), "there is no model 'none-such'", "Tiny-Chat.Q8_0.gguf",
            kind=dalsegno.NotFoundError)
    refused(lambda: registry.acquire("Tiny", draft_model="none-such"), "none-such", kind=dalsegno.NotFoundError)
