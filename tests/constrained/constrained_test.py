#!/usr/bin/env python3
"""constrained_test.py REPLIES FOLDER: SmolLM2's replies to JSON schemas validate, by the package jsonschema: to schemas
made at random, and to those of the required cases of the JSON Schema Test Suite, which that package's source carries.
So do the arguments of the calls that it must make of tools whose parameters are such schemas.
What cannot be enforced is refused with a sentence. No instance that the suite calls invalid is accepted.
FOLDER: where the package is installed, and its source unpacked, the first time."""

import collections
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))
import program  # noqa: E402

sys.path.insert(0, str(HERE))
import schemas  # noqa: E402

SOURCE = "jsonschema-4.25.1"
SOURCE_SHA256 = "e4a9655ce0da0c0b67a085847e00a3a51449e1157f4f75e9fb5aa545e122eb85"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
RANDOM_SCHEMAS = 200
TOOL_SETS = 50
# Of the suite's 2020-12 groups; what is refused is printed. More would mean that something was lost.
MOST_REFUSED = 0.1
# A small model likes to go on with digits and strings, where the schema does not say how far; of each kind.
MOST_UNFINISHED = 0.15


def pip(*words):
    # That of scripts/python_environment, where there is one: Debian's python3 has no pip.
    environment = program.ROOT / "build/python/bin/python"
    python = environment if environment.exists() else sys.executable
    done = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, words)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: pip cannot fetch what the test needs: {done.stderr.strip().splitlines()[-1:]}")


def fetch(folder):
    """The package, and the suite in its source."""
    packages, source = folder / "packages", folder / "source"
    if not (packages / "jsonschema").is_dir():
        pip("install", "--target", packages, "--no-deps", "-r", HERE / "requirements.txt")
    if not (source / SOURCE).is_dir():
        pip("download", "--no-deps", "--no-binary", ":all:", "-d", source, SOURCE.replace("-", "=="))
        archive = source / f"{SOURCE}.tar.gz"
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SOURCE_SHA256:
            sys.exit(f"error: {archive} is not the file that it was")
        with tarfile.open(archive) as tar:
            tar.extractall(source, filter="data")
    sys.path.insert(0, str(packages))
    return source / SOURCE / "json" / "tests" / "draft2020-12"


def suite_cases(folder):
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            yield {"name": f"{path.stem}: {group['description']}", "schema": group["schema"],
                   "invalid": [test["data"] for test in group["tests"] if not test["valid"]]}


def random_cases():
    for i, schema in enumerate(schemas.generate(random.Random(7), RANDOM_SCHEMAS)):
        yield {"name": f"random {i}", "schema": {"$schema": DRAFT, **schema}, "invalid": []}


def tool_cases():
    chosen = random.Random(8)
    for i in range(TOOL_SETS):
        objects = [schema for schema in schemas.generate(chosen, 12) if schema.get("type") == "object"][:4]
        if i % 5 == 0:
            objects.insert(0, schemas.tree(chosen))
        tools = [{"name": f"tool_{place}", "parameters": {"$schema": DRAFT, **schema}}
                 for place, schema in enumerate(objects or [{"type": "object"}])]
        choice = "required" if i % 3 else {"name": tools[-1]["name"]}
        calls = {"style": ["hermes", "llama3", "json"][i % 3], "tools": tools, "tool_choice": choice}
        yield {"name": f"tools {i}", "schema": calls, "tool_calls": True, "invalid": []}


def replies(binary, cases):
    lines = []
    for case in cases:
        schema = json.dumps(case["schema"])
        texts = [json.dumps(data, ensure_ascii=False) for data in case["invalid"]]
        kind = "tool_calls" if case.get("tool_calls") else "schema"
        lines.append(json.dumps({"prompt": f"Reply with short JSON for this schema: {schema[:800]}", kind: schema,
                                 "texts": texts}))
    done = subprocess.run([binary, program.SMOLLM2], input="\n".join(lines) + "\n", capture_output=True, text=True,
                          encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"error: {binary} ended with {done.returncode}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def wrong_calls(asked, reply, validate):
    if reply.get("malformed") or not reply["calls"]:
        return f"{reply['text']!r}: {reply.get('malformed', 'no call')}"
    for name, arguments in reply["calls"]:
        if asked["tool_choice"] not in ("required", {"name": name}):
            return f"{reply['text']!r}: {name} is called"
        validate(arguments, next(tool["parameters"] for tool in asked["tools"] if tool["name"] == name))
    return None


def wrong(case, reply, validate):
    """What is wrong with a reply, or None."""
    if "refused" in reply:
        return None if reply["refused"].startswith("the JSON schema cannot be used: ") else reply["refused"]
    for data, accepted in zip(case["invalid"], reply["accepted"]):
        if accepted:
            return f"the grammar accepts {json.dumps(data)}"
    if reply["finish"] == "length":
        return None
    if reply["finish"] != "stop":
        return f"{reply['finish']}: {reply.get('error')} after {reply['text']!r}"
    try:
        if case.get("tool_calls"):
            return wrong_calls(case["schema"], reply, validate)
        validate(json.loads(reply["text"]), case["schema"])
    except Exception as error:  # not JSON, or not valid
        return f"{reply['text']!r}: {str(error).splitlines()[0]}"
    return None


def main():
    binary, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    program.need_smollm2()
    suite = fetch(folder)
    import jsonschema  # of the folder

    def validate(instance, schema):
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).validate(instance)

    cases = [*random_cases(), *tool_cases(), *suite_cases(suite)]
    results, refused, broken = collections.Counter(), collections.Counter(), []
    for case, reply in zip(cases, replies(binary, cases), strict=True):
        kind = case["name"].split()[0] if case["name"].startswith(("random ", "tools ")) else "suite"
        ending = "refused" if "refused" in reply else reply["finish"]
        results[kind, ending] += 1
        if "refused" in reply:
            refused[reply["refused"].removeprefix("the JSON schema cannot be used: ")[:100]] += 1
        fault = wrong(case, reply, validate)
        if fault:
            broken.append(f"{case['name']}: {fault}\n    {json.dumps(case['schema'])[:300]}")
    for (kind, ending), count in sorted(results.items()):
        print(f"{kind}: {count} {ending}")
    for sentence, count in refused.most_common():
        print(f"  refused {count} times: {sentence}")
    for each in broken:
        print(f"wrong: {each}")
    for kind, most_refused in ("random", 0), ("suite", MOST_REFUSED):
        count = sum(n for (of, _), n in results.items() if of == kind)
        if results[kind, "refused"] > most_refused * count or results[kind, "length"] > MOST_UNFINISHED * count:
            sys.exit(f"error: of {count} schemas of the kind {kind} {results[kind, 'refused']} were refused, and "
                     f"{results[kind, 'length']} got no whole reply")
    # They may be called again and again, which a small model likes.
    if results["tools", "stop"] < TOOL_SETS / 3:
        sys.exit(f"error: only {results['tools', 'stop']} of {TOOL_SETS} sets of tools were called by a whole reply")
    if broken:
        sys.exit(f"error: {len(broken)} of {len(cases)} replies are wrong")


if __name__ == "__main__":
    main()
