"""Forks, rewinding, saving and loading of a conversation: session.py MODEL."""

import pathlib
import sys
import tempfile

import dalsegno

with dalsegno.load(sys.argv[1], memory=1 << 30) as model, tempfile.TemporaryDirectory() as folder:
    session = dalsegno.Session(model.engine, "You tell stories.")
    print(session.prewarm(), "tokens cached before the first question")
    session.respond("Tell me of a fox.", max_tokens=16)

    other = session.fork()
    other.respond("And then?", max_tokens=16)
    session.respond("Why?", max_tokens=16)
    print(session.turns, "turns here,", [message["role"] for message in other.transcript], "there")

    file = pathlib.Path(folder) / "story"
    session.save(file)
    session.rewind(1)
    loaded = dalsegno.Session.load(model.engine, file)
    reply = loaded.respond("Go on.", max_tokens=8)
    print(f"loaded: {reply.usage.reused_tokens} of {reply.usage.prompt_tokens} tokens reused")
