"""A conversation whose second turn computes only the new words: chat.py MODEL."""

import sys

import dalsegno

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:
    session = model.session("You are brief.")
    for question in ("Hello!", "What did I say first?"):
        for text in session.stream(question, max_tokens=40):
            print(text, end="", flush=True)
        usage = session.reports[-1].usage
        print(f"\n[{usage.reused_tokens} of {usage.prompt_tokens} tokens reused]")
