"""Replies that must look like something: constraints.py MODEL."""

import json
import sys

import dalsegno
from dalsegno import constraints

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Grace", "Edsger"]}, "living": {"type": "boolean"}},
    "required": ["name", "living"],
    "additionalProperties": False,
}

with dalsegno.load(sys.argv[1], memory=1 << 30) as model:

    def ask(question, constraint):
        reply = model.generate([{"role": "user", "content": question}], max_tokens=60, constraint=constraint)
        print(f"{question} {reply.text!r} ({reply.finish_reason}, {reply.usage.reused_tokens} tokens reused)")
        return reply.text

    assert ask("Is the sky blue?", constraints.choices(["yes", "no"])) in ("yes", "no")
    ask("Is the sky blue?", None)  # the same cache serves it
    ask("When was the first moon landing?", constraints.regex("(19|20)[0-9]{2}"))
    ask("What is two and two?", constraints.grammar('start: "2 + 2 = " /[0-9]/'))
    assert set(json.loads(ask("Name a mathematician.", constraints.json_schema(PERSON, compact=True)))) == {"name", "living"}
