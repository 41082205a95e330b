#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace dalsegno::cli {
namespace {

// The harness is a part of the Python package; what it says and its exit status are this program's.
constexpr const char* kProgram =
    "import sys\n"
    "try:\n"
    "    from dalsegno.harness.__main__ import main\n"
    "except ImportError as error:\n"
    "    sys.exit(f'error: the harness needs the Python package dalsegno: {error}; install it, see docs/python.md')\n"
    "sys.exit(main(sys.argv[1:]))\n";

Result<int> run_python(const std::vector<std::string>& words) {
  DALSEGNO_TRY(finish_output());
  std::vector<std::string> all{"python3", "-c", kProgram};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execvp(arguments.front(), arguments.data());
  return Error{ErrorCode::not_found,
               std::string("the harness runs as a Python program, but python3 cannot be started: ") +
                   std::strerror(errno) + "; install Python 3.10 or newer"};
}

}  // namespace

void add_harness(CLI::App& app, Action& action) {
  auto* verb =
      app.add_subcommand("harness", "Measure scripted agent conversations with the cache on and off (Python package)");
  verb->prefix_command();
  verb->footer(
      "All words go to `python3 -m dalsegno.harness`, whose --help lists the options.\n\n"
      "Example:\n  dalsegno harness smollm2 --out report");
  verb->callback([verb, &action] { action = [words = verb->remaining()] { return run_python(words); }; });
}

}  // namespace dalsegno::cli
