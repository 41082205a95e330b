#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "dalsegno/result.hpp"

namespace dalsegno::cli {

// What a verb does once its options are read; the value is the program's exit status.
using Action = std::function<Result<int>()>;

// Each adds its verb to the program and, when the verb is chosen, sets `action`.
void add_run(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_template(CLI::App& app, Action& action);
void add_explain(CLI::App& app, Action& action);
void add_score(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_harness(CLI::App& app, Action& action);

}  // namespace dalsegno::cli
