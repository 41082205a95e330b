"""Several users of one model, loaded once, and what the process's memory is spent on: models.py MODEL, a file
or a name in the models folder."""

import sys

import dalsegno

registry = dalsegno.ModelRegistry(max_models=1)
first = dalsegno.Model(registry.acquire(sys.argv[1], memory=1 << 30))
second = dalsegno.Model(registry.acquire(sys.argv[1], memory=1 << 30))
first.generate("Hello, once upon a time", max_tokens=4)
print("reused by the other:", second.generate("Hello, once upon a time", max_tokens=4).usage.reused_tokens)
for model in registry.report():
    print(model.users, "users,", model.bytes, "bytes")
print("K/V:", dalsegno.memory_report().kv, "bytes")
dalsegno.release_all()
first.close()
second.close()
print("closed:", registry.close_idle())
