#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <array>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

constexpr std::array kVerbs{&add_run,     &add_chat,    &add_tokenize, &add_template, &add_score,
                            &add_explain, &add_inspect, &add_bench,    &add_harness};

int fail(int status, const std::string& message) {
  note(fmt::format("error: {}\n", one_line(message)));
  return status;
}

// Where the words of the argument parser are not a sentence, ours are.
std::string usage_sentence(const CLI::App& app, const CLI::ParseError& error) {
  const bool has_verb = !app.get_subcommands().empty();
  const std::string verb = has_verb ? app.get_subcommands().front()->get_name() + " " : "";
  std::string sentence = error.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const auto extras = app.remaining(true);
    const std::string first = extras.empty() ? "" : extras.front();
    sentence = first.starts_with("-") ? fmt::format("there is no option {} here", first)
               : has_verb             ? fmt::format("'{}' was not expected here", first)
                                      : fmt::format("there is no verb '{}'", first);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    sentence = sentence.substr(0, sentence.find(':')) + " needs exactly one value";
  }
  return fmt::format("{}; see dalsegno {}--help", sentence, verb);
}

Result<int> print_version() {
  DALSEGNO_ASSIGN(levels, asked_for(cpu_levels()));
  say(fmt::format("dalsegno {}\nnumerics version {}\nCPU levels: {} (chosen: {})\n", DALSEGNO_VERSION, kNumericsVersion,
                  fmt::join(levels.available, ", "), levels.chosen));
  return kDone;
}

void describe(CLI::App& app, bool& wants_version, Action& action) {
  app.description("Dal Segno runs local language models and never computes the same token twice.");
  app.add_flag("--version", wants_version, "print the version, the numerics version and the CPU levels");
  app.require_subcommand(0, 1);
  app.footer(
      "Example:\n  dalsegno chat -m smollm2\n\n"
      "`dalsegno VERB --help` shows a verb's options and an example. DALSEGNO_CPU=scalar|avx2|avx512 forces a\n"
      "CPU level; DALSEGNO_MODELS names the models folder.");
  for (const auto add : kVerbs) add(app, action);
}

Result<int> act(const Action& action) {
  auto status = action();
  if (auto output = finish_output(); status.ok() && !output.ok()) return std::move(output).error();
  return status;
}

int show_help(const CLI::App& app, const CLI::ParseError& request) {
  std::ostringstream help;
  app.exit(request, help);
  say(help.str());
  const auto output = finish_output();
  return output.ok() ? kDone : fail(kFailed, output.error().message);
}

int run(int argc, char** argv) {
  end_when_reader_leaves();
  CLI::App app("", "dalsegno");
  Action action;
  bool wants_version = false;
  describe(app, wants_version, action);
  try {
    app.parse(argc, argv);
    if (!wants_version && action == nullptr) {
      return fail(kWrongUsage, "no verb given, such as run, chat or inspect; see dalsegno --help");
    }
    const auto status = act(wants_version ? Action(&print_version) : action);
    return status.ok() ? *status : fail(kFailed, status.error().message);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return show_help(app, error);
    return fail(kWrongUsage, usage_sentence(app, error));
  } catch (const std::bad_alloc&) {
    return fail(kFailed, "out of memory; give a smaller --memory or --context");
  } catch (const std::exception& error) {
    const auto* refused = dynamic_cast<const std::system_error*>(&error);
    if (refused != nullptr && refused->code() == std::errc::resource_unavailable_try_again) {
      return fail(kFailed,
                  "the system refused a thread; raise its limits (ulimit -u, ulimit -v) or give fewer --threads");
    }
    return fail(kFailed, fmt::format("unexpected: {}", error.what()));
  }
}

}  // namespace
}  // namespace dalsegno::cli

int main(int argc, char** argv) {
  return dalsegno::cli::run(argc, argv);
}
