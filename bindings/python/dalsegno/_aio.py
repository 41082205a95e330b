"""Event loops: waiting for the engine by a file descriptor, so that no thread of ours ever needs the GIL."""

from __future__ import annotations

import asyncio
import weakref

from . import _arguments


async def readable(fd: int) -> None:
    """Waits until `fd` is readable."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def texts(stream):
    """The texts of a Stream. Leaving early cancels it."""
    while True:
        stream._open()  # where it raises, another task or thread reads, which goes on
        try:
            try:
                while (text := stream._poll()) is None:
                    await readable(stream._event_fd())
            finally:
                stream._close()
            if text is True:
                return
            yield text
        except BaseException:
            stream.cancel()
            raise


async def result(stream, on_text=None):
    """Reads a Stream to its end and gives its reply."""
    async for text in texts(stream):
        if on_text is not None and _arguments.ends(on_text(text)):
            stream.cancel()
    return stream.reply


async def encoded(encode, prompt) -> list[int]:
    """The token ids of a prompt. What may take long, all but short texts and ids, is done beside the event loop."""
    is_short = isinstance(prompt, str) and len(prompt) < 1 << 15
    are_ids = isinstance(prompt, (list, tuple)) and not (prompt and isinstance(prompt[0], dict))
    return encode(prompt) if is_short or are_ids else await asyncio.to_thread(encode, prompt)


class _Gathering:
    """The queries of one turn of an event loop, which enter the engine's queue together."""

    def __init__(self, cache):
        self.cache = weakref.ref(cache)
        self.prompts = []
        self.futures = []

    async def answer(self):
        cache = self.cache()
        if cache is None or not self.prompts:
            return
        prompts, futures = self.prompts, self.futures
        self.prompts, self.futures = [], []
        try:
            queries = cache._begin(prompts)
            fd = queries.event_fd()
            while (answers := queries.poll()) is None:
                await readable(fd)
        except BaseException as error:
            answers = [(None, error)] * len(futures)
        for future, (row, error) in zip(futures, answers):
            if future.done():
                continue
            if error is None:
                future.set_result(row)
            else:
                future.set_exception(error)


_gatherings: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by event loop: {id of a cache: _Gathering}


async def next_token_logprobs(cache, prompt):
    """The answer of a LogprobCache. Queries that tasks make in one turn of the loop run in common steps."""
    loop = asyncio.get_running_loop()
    of_loop = _gatherings.setdefault(loop, weakref.WeakKeyDictionary())
    gathering = of_loop.setdefault(cache, None) or _Gathering(cache)
    of_loop[cache] = gathering
    future = loop.create_future()
    gathering.prompts.append(_arguments.token_ids("prompt", prompt))
    gathering.futures.append(future)
    if len(gathering.prompts) == 1:
        loop.call_soon(lambda: _keep(loop.create_task(gathering.answer())))
    return await future


_tasks: set = set()


def _keep(task):
    _tasks.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_tasks.discard)
