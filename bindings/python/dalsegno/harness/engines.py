"""Who answers a scenario: Dal Segno, or another engine by its Python package. Each run has a process of its own."""

from __future__ import annotations

import importlib.util
import resource
import statistics
import time
from dataclasses import asdict, dataclass, field

from .scenarios import Scenario


@dataclass
class Turn:
    """One answer. reused_tokens: None where the engine does not tell."""

    turn: int
    prompt_tokens: int
    reused_tokens: int | None
    ttft_ms: float
    tokens_per_second: float
    reply_tokens: int
    text: str = ""
    prompt_ids: list[int] = field(default_factory=list, repr=False)


@dataclass
class Settings:
    model: str
    max_tokens: int
    threads: int
    memory: int  # bytes; 0: by default


def _ours(scenario: Scenario, settings: Settings, cache: bool) -> list[Turn]:
    import dalsegno

    options = {"threads": settings.threads}
    if settings.memory:
        options["memory"] = settings.memory
    with dalsegno.load(settings.model, **options) as model:
        asked = {"max_tokens": settings.max_tokens, "reuse": cache}
        # The first request of a process also pays for buffers that are touched for the first time.
        model.generate(list(range(1, 65)), max_tokens=2, reuse=False)
        if scenario.together:
            return _ours_together(model, scenario, asked)
        session = model.session(scenario.instructions)
        turns = []
        for number, said in enumerate(scenario.says, 1):
            reply = session.respond(said, **asked)
            turns.append(
                Turn(number, reply.usage.prompt_tokens, reply.usage.reused_tokens, reply.ttft_ms, reply.tokens_per_second,
                     reply.usage.reply_tokens, reply.text, list(reply.prompt_ids))
            )
        return turns


def _ours_together(model, scenario: Scenario, asked: dict) -> list[Turn]:
    import dalsegno

    batch = dalsegno.BatchGenerator(model.engine)
    prompts = [
        model.encode([{"role": "system", "content": scenario.instructions}, {"role": "user", "content": said}])
        for said in scenario.says
    ]
    start = time.perf_counter()
    uids = batch.insert(prompts, keep_cache=False, **asked)
    turns = {uid: Turn(number, len(prompts[number - 1]), 0, 0, 0, 0, prompt_ids=list(prompts[number - 1]))
             for number, uid in enumerate(uids, 1)}
    while responses := batch.next():
        now = time.perf_counter()
        for response in responses:
            turn = turns[response.uid]
            if turn.ttft_ms == 0:
                turn.ttft_ms = 1e3 * (now - start)
            turn.text += response.text
            if response.finish_reason:
                turn.reused_tokens = response.usage.reused_tokens
                turn.reply_tokens = response.usage.reply_tokens
                after_first = now - start - 1e-3 * turn.ttft_ms
                turn.tokens_per_second = (turn.reply_tokens - 1) / after_first if turn.reply_tokens > 1 else 0
    return list(turns.values())


def _llama_cpp(scenario: Scenario, settings: Settings, cache: bool, prompts: list[list[int]]) -> list[Turn]:
    """The same prompts, token for token. It keeps one sequence; with the cache it goes on from the common beginning."""
    import llama_cpp

    context = max(map(len, prompts)) + settings.max_tokens + 8
    threads = settings.threads or None
    engine = llama_cpp.Llama(settings.model, n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
    turns = []
    for number, prompt in enumerate(prompts, 1):
        if not cache:
            engine.reset()
            engine._ctx.kv_cache_clear()
        start = time.perf_counter()
        first = 0.0
        count = 0
        text = b""
        for token in engine.generate(prompt, temp=0.0, reset=cache):
            count += 1
            first = first or time.perf_counter()
            if token == engine.token_eos() or count > settings.max_tokens:
                break
            text += engine.detokenize([token])
            if count == settings.max_tokens:
                break
        seconds = time.perf_counter() - first
        turns.append(
            Turn(number, len(prompt), None, 1e3 * (first - start), (count - 1) / seconds if count > 1 else 0, count,
                 text.decode(errors="replace"))
        )
    return turns


PEERS = {"llama_cpp": _llama_cpp}


def installed_peers() -> list[str]:
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


def run(engine: str, scenario: Scenario, settings: Settings, cache: bool, prompts: list[list[int]]) -> dict:
    """All turns of a scenario, as plain values; call it in a process of its own, whose peak memory it tells.

    prompts: what Dal Segno was asked, [turn] token ids, for other engines.
    """
    if engine == "dalsegno":
        turns = _ours(scenario, settings, cache)
    else:
        turns = PEERS[engine](scenario, settings, cache, prompts)
    later = [turn.ttft_ms for turn in turns[1:]] or [turns[0].ttft_ms]
    rates = [turn.tokens_per_second for turn in turns if turn.tokens_per_second > 0]
    return {
        "scenario": scenario.name,
        "engine": engine,
        "cache": cache,
        "turns": [asdict(turn) for turn in turns],
        "ttft_ms_first": turns[0].ttft_ms,
        "ttft_ms_later_median": statistics.median(later),
        "ttft_ms_later_max": max(later),
        "tokens_per_second": statistics.median(rates) if rates else 0.0,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def answer(pipe, *arguments) -> None:
    """Sends (what run() gives, "") by a pipe, or (None, a sentence)."""
    from dalsegno import DalSegnoError

    try:
        pipe.send((run(*arguments), ""))
    except Exception as error:
        kind = "" if isinstance(error, DalSegnoError) else f"{arguments[0]} failed with {type(error).__name__}: "
        pipe.send((None, f"{kind}{error}"))
