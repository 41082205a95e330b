"""JSON schemas of mixed difficulty, made at random, of keywords that are enforced."""

WORDS = "name age city color size price email status items tags owner parent label note code level score date".split()
COLORS = ["red", "green", "blue", "deep \"black\"", "caf\u00e9", "a\\b", "two words"]
PATTERNS = ["^[a-z]{1,8}$", "^[A-Z][a-z]+$", "^\\d{3}-\\d{4}$", "^(yes|no|maybe)$", "^#[0-9a-f]{6}$", "^v\\d+(\\.\\d+){1,2}$"]
FORMATS = ["date", "time", "date-time", "email", "uuid", "ipv4"]


def string(random):
    kind = random.randrange(6)
    if kind == 0:
        return {"type": "string", "pattern": random.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": random.choice(FORMATS)}
    if kind == 2:
        return {"enum": random.sample(COLORS, random.randint(1, 4))}
    if kind == 3:
        return {"const": random.choice(COLORS)}
    least = random.randrange(4)
    return {"type": "string", "minLength": least, "maxLength": least + random.randint(1, 12)}


def number(random):
    schema = {"type": random.choice(["integer", "number"])}
    least = random.randint(-1000, 1000)
    if random.random() < 0.8:
        schema[random.choice(["minimum", "exclusiveMinimum"])] = least
    if random.random() < 0.8:
        schema[random.choice(["maximum", "exclusiveMaximum"])] = least + random.randint(2, 5000)
    if schema["type"] == "integer" and random.random() < 0.3:
        schema["multipleOf"] = random.choice([2, 5, 10])
        if "maximum" in schema or "exclusiveMaximum" in schema:
            schema[next(k for k in schema if k.lower().endswith("maximum"))] = least + 1000
    return schema


def leaf(random):
    kind = random.randrange(8)
    if kind == 0:
        return {"type": "boolean"}
    if kind == 1:
        return {"type": "null"}
    return string(random) if kind < 5 else number(random)


def array(random, depth):
    least = random.randrange(3)
    schema = {"type": "array", "items": any_schema(random, depth - 1), "minItems": least,
              "maxItems": least + random.randrange(3)}
    if random.random() < 0.25:
        schema["prefixItems"] = [leaf(random) for _ in range(random.randint(1, 2))]
        if random.random() < 0.5:
            schema["items"] = False
            schema["minItems"] = min(least, len(schema["prefixItems"]))
            schema["maxItems"] = len(schema["prefixItems"])
    return schema


def an_object(random, depth):
    names = random.sample(WORDS, random.randint(1, 4))
    schema = {"type": "object", "properties": {name: any_schema(random, depth - 1) for name in names}}
    schema["required"] = [name for name in names if random.random() < 0.7]
    if random.random() < 0.8:
        schema["additionalProperties"] = False
    elif random.random() < 0.5:
        schema["additionalProperties"] = leaf(random)
    return schema


def any_schema(random, depth):
    kind = random.random()
    if depth <= 0 or kind < 0.3:
        return leaf(random)
    if kind < 0.7:
        return an_object(random, depth)
    if kind < 0.85:
        return array(random, depth)
    if kind < 0.95:
        return {"anyOf": [any_schema(random, depth - 1) for _ in range(random.randint(2, 3))]}
    return {"type": ["string", "integer", "null"], "maxLength": 10, "maximum": 100}


def tree(random):
    """A schema that refers to itself."""
    return {"$defs": {"node": {"type": "object", "properties": {
        "value": leaf(random), "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
        "required": ["value"], "additionalProperties": False}}, "$ref": "#/$defs/node"}


def all_of(random, depth):
    names = random.sample(WORDS, 2)
    parts = [{"type": "object", "properties": {name: any_schema(random, depth - 1)}, "required": [name]} for name in names]
    return {"allOf": parts}


def generate(random, count):
    for i in range(count):
        depth = i % 5  # 0: a single value
        if i % 20 == 18:
            yield tree(random)
        elif i % 20 == 19:
            yield all_of(random, 2)
        else:
            yield any_schema(random, depth) if depth == 0 else an_object(random, depth)
