// speculation MODEL.gguf [PAIRS [THREADS [DRAFT.gguf]]]: decode speed with guesses and without, in turns, on three
// kinds of text; with a draft model, of an engine that has it and one that guesses from what was said alone. Editing
// and agent traces are scripted: each reply is given, token by token, whatever the logits say, so that they are what a
// model answers that can do the task. What is said freely the model itself says, at temperature 0.8. Prints medians,
// their ratio and its spread, and how many guesses were right.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/local_engine.hpp"
#include "runtime/waiter.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

using Clock = std::chrono::steady_clock;
using Tokens = std::vector<TokenId>;

struct Turn {
  std::string asked;
  std::string said;
};

constexpr const char* kProgram = R"(import csv
import sys
from collections import defaultdict


def read_rows(path):
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            yield row["shelf"], row["title"], int(row["copies"])


def count_by_shelf(rows):
    totals = defaultdict(int)
    for shelf, title, copies in rows:
        totals[shelf] += copies
    return totals


def longest_title(rows):
    best = ""
    for shelf, title, copies in rows:
        if len(title) > len(best):
            best = title
    return best


def main():
    rows = list(read_rows(sys.argv[1]))
    for shelf, copies in count_by_shelf(rows).items():
        print(f"{shelf}: {copies}")
    print("longest:", longest_title(rows))


main()
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// The whole file comes back with each change.
std::vector<Turn> editing() {
  const std::string first = replaced(kProgram, "longest_title", "find_longest_title");
  const std::string second =
      replaced(first, "        print(f\"{shelf}: {copies}\")", "        print(f\"{shelf:>12}: {copies}\")");
  const std::string third =
      replaced(second, "    best = \"\"\n", "    best = \"\"  # of equally long ones the first\n");
  return {{std::string("Here is a program:\n") + kProgram + "\nRename longest_title to find_longest_title.\n", first},
          {"\nNow align the names of the shelves to the right.\n", second},
          {"\nSay in a comment which title is found if several are equally long.\n", third}};
}

// Tools are called with parts of files, and what they say is quoted.
std::vector<Turn> agent() {
  const std::string path = "library/report.py";
  const std::string read = R"({"name": "read_file", "arguments": {"path": ")" + path + "\"}}";
  const std::string old_lines =
      "def longest_title(rows):\\n    best = \\\"\\\"\\n    for shelf, title, copies in rows:\\n        if len(title) "
      "> "
      "len(best):\\n            best = title\\n    return best\\n";
  const std::string new_lines =
      "def longest_title(rows):\\n    best = \\\"\\\"\\n    for shelf, title, copies in rows:\\n        if len(title) "
      ">= "
      "len(best):\\n            best = title\\n    return best\\n";
  const std::string escaped = replaced(replaced(kProgram, "\"", "\\\""), "\n", "\\n");
  const std::string edit = R"({"name": "replace_in_file", "arguments": {"path": ")" + path + R"(", "old": ")" +
                           old_lines + R"(", "new": ")" + new_lines + "\"}}";
  const std::string run = R"({"name": "run_tests", "arguments": {"path": "library/test_report.py"}})";
  const std::string failure =
      "FAILED library/test_report.py::test_longest_title - AssertionError: expected 'A Short History of Nearly Every "
      "Garden' but got 'The Lighthouse Keeper and His Seven Daughters'";
  const std::string back = R"({"name": "replace_in_file", "arguments": {"path": ")" + path + R"(", "old": ")" +
                           new_lines + R"(", "new": ")" + old_lines + "\"}}";
  return {{"You can call read_file, replace_in_file and run_tests.\nUser: of equally long titles the last one shall be "
           "found; change library/report.py and run library/test_report.py.\nAssistant: ",
           read},
          {"\nTool: {\"path\": \"" + path + "\", \"content\": \"" + escaped + "\"}\nAssistant: ", edit},
          {"\nTool: {\"path\": \"" + path + "\", \"replaced\": 1}\nAssistant: ", run},
          {"\nTool: {\"passed\": 6, \"failed\": 1, \"output\": \"" + failure + "\"}\nAssistant: ", back},
          {"\nTool: {\"path\": \"" + path + "\", \"replaced\": 1}\nAssistant: ",
           "One test expects the first of equally long titles: " + failure +
               ". I have taken the change back, since the test says otherwise. Shall I change the test too?"}};
}

struct Speed {
  double tokens = 0;
  double seconds = 0;
  int proposed = 0;
  int accepted = 0;
  [[nodiscard]] double rate() const { return tokens / seconds; }
};

// Says what it was given, though it looks for the likeliest token as a reply does.
class Scripted final : public Waiter {
 public:
  explicit Scripted(Tokens said) : said_(std::move(said)) {}
  Decision on_logits(int, std::span<const float> logits, std::span<const TokenId>) override {
    likeliest_ = argmax(logits);
    const auto now = Clock::now();
    if (taken_ == 0) first_ = now;
    last_ = now;
    if (taken_ == said_.size()) return {Decision::Kind::finish, likeliest_, FinishReason::stop};
    return {Decision::Kind::append, said_[taken_++], FinishReason::stop};
  }
  void on_drafted(int proposed, int accepted) override {
    speed_.proposed += proposed;
    speed_.accepted += accepted;
  }
  // After wait().
  [[nodiscard]] Speed speed() const {
    Speed speed = speed_;
    speed.tokens = static_cast<double>(said_.size());
    speed.seconds = std::chrono::duration<double>(last_ - first_).count();
    return speed;
  }

 private:
  const Tokens said_;
  std::size_t taken_ = 0;
  TokenId likeliest_ = 0;
  Clock::time_point first_;
  Clock::time_point last_;
  Speed speed_;
};

void add(Speed& sum, const Speed& more) {
  sum.tokens += more.tokens;
  sum.seconds += more.seconds;
  sum.proposed += more.proposed;
  sum.accepted += more.accepted;
}

template <class T>
T must(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  fmt::print(stderr, "error: {}\n", result.error().message);
  std::exit(1);
}

Speed replay(LocalEngine& engine, const std::vector<Turn>& turns, Speculation speculation) {
  GenerateOptions options;
  options.speculation = speculation;
  Speed all;
  Tokens tokens;
  engine.reset_cache();
  const auto append = [&](const Tokens& more) { tokens.insert(tokens.end(), more.begin(), more.end()); };
  for (const Turn& turn : turns) {
    append(must(engine.tokenizer().encode(turn.asked)));
    const Tokens said = must(engine.tokenizer().encode(turn.said));
    const auto request = std::make_shared<Scripted>(said);
    std::vector<Work> work;
    work.push_back({.request = request,
                    .tokens = tokens,
                    .first_logit = static_cast<int>(tokens.size()) - 1,
                    .drafter = engine.drafter_for(options)});
    engine.scheduler().submit(std::move(work));
    must(request->wait());
    add(all, request->speed());
    append(said);
  }
  return all;
}

Speed talk(LocalEngine& engine, float temperature, std::uint64_t seed, Speculation speculation) {
  Speed all;
  engine.reset_cache();
  for (const char* prompt : {"The old lighthouse keeper put his lamp down and", "What I like about walking is that",
                             "The history of the printing press began when"}) {
    GenerateOptions options;
    options.max_tokens = 200;
    options.sampling.temperature = temperature;
    options.sampling.seed = seed;
    options.speculation = speculation;
    const Reply reply = must(engine.generate(must(engine.tokenizer().encode(prompt)), options, {}));
    if (reply.tokens_per_second <= 0) continue;
    const double tokens = static_cast<double>(reply.ids.size()) - 1;
    add(all, {tokens, tokens / reply.tokens_per_second, reply.usage.proposed_tokens, reply.usage.accepted_tokens});
  }
  return all;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// run(pair, guessed)
void measure(const char* name, int pairs, const auto& run) {
  std::vector<double> with;
  std::vector<double> without;
  std::vector<double> ratios;
  Speed all;
  for (int i = 0; i < pairs; ++i) {
    without.push_back(run(i, false).rate());
    const Speed guessed = run(i, true);
    add(all, guessed);
    with.push_back(guessed.rate());
    ratios.push_back(with.back() / without.back());
  }
  const auto [least, most] = std::ranges::minmax(ratios);
  fmt::print("{}: {:.1f} tok/s without, {:.1f} with guesses, {:.2f} times ({:.2f} to {:.2f}); {} of {} right\n", name,
             median(without), median(with), median(ratios), least, most, all.accepted, all.proposed);
  std::fflush(stdout);
}

void print(const DraftReport& report) {
  std::string places;
  for (std::size_t i = 0; i < report.proposed.size() && report.proposed[i] > 0; ++i) {
    places += fmt::format(" {}/{}", report.accepted[i], report.proposed[i]);
  }
  fmt::print("draft model: right by place{}; {} trials, {} passes of {:.2f} ms, {:.2f} s in all, {} tokens read; {}\n",
             places.empty() ? " none" : places, report.trials, report.passes, report.pass_ms, report.seconds,
             report.read, report.pays ? "pays" : "does not pay");
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: speculation MODEL.gguf [PAIRS [THREADS [DRAFT.gguf]]]\n");
    return 2;
  }
  using dalsegno::LocalEngine;
  using dalsegno::Speculation;
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  options.threads = argc > 3 ? std::atoi(argv[3]) : 0;
  const int pairs = argc > 2 ? std::max(1, std::atoi(argv[2])) : 5;
  const auto engine = dalsegno::must(LocalEngine::open(options));
  if (argc > 4) options.draft_model_path = argv[4];
  const auto drafting = argc > 4 ? dalsegno::must(LocalEngine::open(options)) : nullptr;
  const auto edits = dalsegno::editing();
  const auto calls = dalsegno::agent();
  const auto on = [&](bool guessed, const auto& say) {
    if (drafting != nullptr) return say(guessed ? *drafting : *engine, Speculation::automatic);
    return say(*engine, guessed ? Speculation::automatic : Speculation::off);
  };
  const auto replayed = [&](const auto& turns) {
    return [&](int, bool guessed) {
      return on(guessed, [&](LocalEngine& by, Speculation how) { return dalsegno::replay(by, turns, how); });
    };
  };
  for (LocalEngine* each : {engine.get(), drafting.get()}) {
    if (each != nullptr) dalsegno::replay(*each, edits, Speculation::off);  // warm
  }
  dalsegno::measure("editing", pairs, replayed(edits));
  dalsegno::measure("agent", pairs, replayed(calls));
  const auto said = [&](float temperature) {
    return [&, temperature](int pair, bool guessed) {
      const auto seed = static_cast<std::uint64_t>(pair);
      return on(guessed, [&](LocalEngine& by, Speculation how) { return dalsegno::talk(by, temperature, seed, how); });
    };
  };
  dalsegno::measure("free text", pairs, said(0.8F));
  if (drafting != nullptr) dalsegno::measure("free text, the likeliest tokens", pairs, said(0));
  if (drafting != nullptr) dalsegno::print(drafting->draft_report().value());
  return 0;
}
