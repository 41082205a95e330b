#pragma once

#include <CLI/CLI.hpp>

#include "dalsegno/types.hpp"

namespace dalsegno::cli {

// What a reply's text must look like: --json-schema, --regex, --grammar, --choice.
void add_constraint(CLI::App& app, GenerateOptions& options);

}  // namespace dalsegno::cli
