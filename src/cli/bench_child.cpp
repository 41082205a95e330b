#include "cli/bench_child.hpp"

#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>

#include "cli/terminal.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of this process, in KiB. (Not getrusage(): its figure also counts what the parent held when it started us.)
double peak_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib;
  }
  return 0;
}

std::vector<std::string> child_words(const CommonOptions& options, const BenchRow& row) {
  const EngineOptions& engine = options.engine;
  std::vector<std::string> words{"dalsegno", "bench", "--model", options.model, "--kv", name(engine.kv.format)};
  if (engine.kv.format == KvFormat::q8 || engine.kv.format == KvFormat::q4) {
    words.insert(words.end(),
                 {"--kv-group", std::to_string(engine.kv.group_size), "--kv-start", std::to_string(engine.kv.start)});
  }
  if (engine.kv.max_size > 0) {
    words.insert(words.end(),
                 {"--max-kv", std::to_string(engine.kv.max_size), "--keep", std::to_string(engine.kv.keep)});
  }
  words.insert(words.end(), {"--activations", std::to_string(engine.activation_bits)});
  if (engine.threads > 0) words.insert(words.end(), {"--threads", std::to_string(engine.threads)});
  const MemoryOptions& memory = engine.memory;
  words.insert(words.end(), {"--memory", memory.bytes > 0 ? std::to_string(memory.bytes) : name(memory.preset)});
  const int context = row.is("memory") ? row.context() : engine.context;
  if (context > 0) words.insert(words.end(), {"--context", std::to_string(context)});
  words.insert(words.end(), {"--cold", fmt::format("{},{}", row.depth, row.tokens)});
  return words;
}

// A started process and the reading end of its standard output; waits for its end when it goes.
class Child {
 public:
  explicit Child(std::vector<std::string> words) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawn(&id_, "/proc/self/exe", &actions, nullptr, arguments.data(), environ) != 0) id_ = 0;
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  ~Child() {
    if (output_ != nullptr) (void)fclose(output_);
    if (id_ != 0) end();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // A line of its output without the line break; empty at the end.
  std::string line() {
    std::string text;
    for (int c = 0; output_ != nullptr && (c = fgetc(output_)) != EOF && c != '\n';) text += static_cast<char>(c);
    return text;
  }
  // Waits. True if it ended well.
  bool end() {
    int status = 0;
    const bool waited = id_ != 0 && waitpid(id_, &status, 0) == id_;
    id_ = 0;
    return waited && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t id_ = 0;
  FILE* output_ = nullptr;
};

}  // namespace

Result<int> run_cold(const CommonOptions& options, const BenchRow& row) {
  DALSEGNO_ASSIGN(engine, open_engine(options));
  if (row.depth > 0) {
    DALSEGNO_TRY(time_decode(*engine, row.depth - 1, 1, row.tokens, false));
  } else {
    DALSEGNO_TRY(time_prefill(*engine, row.tokens));
    say("first\n");
  }
  say(fmt::format("{}\n", peak_kib()));
  return 0;
}

Result<ColdRun> time_cold(const CommonOptions& options, const BenchRow& row) {
  const Clock::time_point start = Clock::now();
  Child child(child_words(options, row));
  ColdRun run;
  std::string line = child.line();
  if (line == "first") {
    run.first_token_seconds = since(start);
    line = child.line();
  }
  run.seconds = since(start);
  double kib = 0;
  const bool understood = parse_number(line, kib);
  if (!child.end() || !understood) {
    return Error{ErrorCode::io, "the process started for a cold run failed; see the lines above"};
  }
  run.peak_mib = kib / 1024;
  return run;
}

}  // namespace dalsegno::cli
