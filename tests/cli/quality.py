"""How far score's log-probabilities are from the reference's. All in nats."""

import json
import math

from program import GOLDEN


def log_softmax(logits):
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - total for x in logits]


def kl(reference, ours):
    """KL(reference || ours) of two lists of log-probabilities."""
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(reference, ours) if p > -1000)


def listed_kl(reference, ours):
    """KL over the tokens that `reference` lists, and one bucket for the probability that is left.
    reference, ours: {id: log-probability}; ours lists at least the same ids."""
    ids = sorted(reference)

    def with_rest(table):
        rest = max(1 - math.fsum(math.exp(table[i]) for i in ids), 1e-12)
        return [table[i] for i in ids] + [math.log(rest)]

    return kl(with_rest(reference), with_rest(ours))


def percentile(values, share):
    """Linear between the two nearest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def tables(score):
    """{id: log-probability} of each position of a score."""
    return [{token: log_prob for token, log_prob in position["top"]} for position in score["positions"]]


def llamacpp(model, kv="kv_f16"):
    with open(GOLDEN / "kld-llamacpp.json", encoding="ascii") as file:
        return json.load(file)[kv][model]
