// memory_mix MODEL BUDGET SESSIONS: many conversations at once within a small budget; what the operating system says
// of the process's memory, as `word bytes` lines for scripts/memory_mix.

#include "dalsegno/memory.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "dalsegno/session.hpp"

namespace {

using dalsegno::Engine;
using dalsegno::Session;

constexpr int kTurns = 3;

// A line of /proc/self/status, in bytes.
std::uint64_t status(const std::string& field) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    std::uint64_t kib = 0;
    if (word == field + ":" && file >> kib) return kib << 10;
  }
  return 0;
}

void say(const char* word, std::uint64_t value) {
  std::printf("%s %llu\n", word, static_cast<unsigned long long>(value));  // NOLINT(google-runtime-int)
}

// Prompts from a few to some hundred tokens; two in three begin with the same system message.
std::string question(int session, int turn) {
  std::string text = "Question " + std::to_string(session * kTurns + turn) + ": ";
  for (int i = 0; i < (session * 7 + turn * 13) % 40; ++i)
    text += "the river runs past house " + std::to_string(i) + ", ";
  return text + "what comes next?";
}

void converse(Engine& engine, int session, std::atomic<int>& failures) {
  std::vector<dalsegno::Message> begin;
  if (session % 3 != 0)
    begin.push_back({"system", "You are a careful guide to rivers and houses. Answer in one line."});
  Session conversation(engine, std::move(begin));
  for (int turn = 0; turn < kTurns; ++turn) {
    const auto reply = conversation.respond(question(session, turn), {.max_tokens = 32});
    if (reply.ok()) continue;
    std::fprintf(stderr, "session %d, turn %d: %s\n", session, turn, reply.error().message.c_str());
    ++failures;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  options.memory.bytes = std::strtoull(argv[2], nullptr, 10);
  const int sessions = std::atoi(argv[3]);

  std::ofstream("/proc/self/clear_refs") << 5;  // the peak counts from here
  say("before", status("VmRSS"));
  auto engine = Engine::open(options);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.error().message.c_str());
    return 1;
  }
  say("loaded", status("VmRSS"));
  say("load_peak", status("VmHWM"));
  std::atomic<int> failures{0};
  {
    std::vector<std::thread> threads;
    for (int i = 0; i < sessions; ++i) threads.emplace_back([&, i] { converse(**engine, i, failures); });
    for (std::thread& thread : threads) thread.join();
  }
  say("peak", status("VmHWM"));
  say("after", status("VmRSS"));
  const auto report = dalsegno::memory_report();
  say("reserved", report->weights + report->kv + report->index + report->log_probs + report->work);
  dalsegno::release_all();
  say("released", status("VmRSS"));
  say("failures", static_cast<std::uint64_t>(failures.load()));
  return failures > 0 ? 1 : 0;
}
