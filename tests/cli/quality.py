"""How far score's log-probabilities are from the reference's. All in nats."""

import json
import math
import statistics

import program
from program import GOLDEN

LIKELY = 2000  # tokens that nearly always hold the 32 that the reference lists


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


class ModelQuality(program.ProgramTest):
    """A test of one real model: `name` in the golden files, its `path` and the size of its `vocabulary`."""

    def listed(self, prompt, options):
        """The listed KL at each golden position of one prompt."""
        at = ",".join(map(str, prompt["at"]))
        words = ["score", "-m", self.path, "--ids", self.ids_file(prompt["ids"]), "--at", at, *options]
        reference = [dict(map(tuple, top)) for top in prompt["top"]]
        ours = tables(self.one_json(*words, "--top", LIKELY))
        if any(listed.keys() - table.keys() for listed, table in zip(reference, ours)):
            ours = tables(self.one_json(*words, "--top", self.vocabulary))
        return [listed_kl(listed, table) for listed, table in zip(reference, ours)]

    def all_listed(self, *options):
        values = []
        for prompt in program.golden_lines(f"logits-{self.name}.jsonl"):
            values += self.listed(prompt, options)
        self.show("listed KL", values, options)
        return values

    def nll_distances(self, *options):
        golden = json.loads((GOLDEN / f"nll-{self.name}.json").read_text(encoding="ascii"))
        score = self.one_json("score", "-m", self.path, "--ids", self.ids_file(golden["ids"]), *options)
        self.assertEqual(len(score["nll"]), len(golden["nll"]))
        values = [abs(p - q) for p, q in zip(golden["nll"], score["nll"])]
        self.show("|NLL - reference|", values, options)
        return values

    def show(self, what, values, options):
        print(f"{what} {' '.join(options)}: mean {statistics.mean(values):.3g}, "
              f"p99 {percentile(values, 0.99):.3g}, max {max(values):.3g}")

    def assert_within(self, values, mean, p99, largest):
        self.assertLessEqual(statistics.mean(values), mean)
        self.assertLessEqual(percentile(values, 0.99), p99)
        self.assertLessEqual(max(values), largest)
