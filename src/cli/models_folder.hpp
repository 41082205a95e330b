#pragma once

#include <string>

#include "dalsegno/result.hpp"

namespace dalsegno::cli {

// $DALSEGNO_MODELS, else $XDG_DATA_HOME/dalsegno/models, else $HOME/.local/share/dalsegno/models; empty if none of
// these is set.
[[nodiscard]] std::string models_folder();

// The path of the model that `name` means: an existing file, or the one file of the models folder whose
// name it is, with or without .gguf, in any case, or whose only beginning it is.
// Errors: not_found, invalid_argument (a folder, an ambiguous beginning); the sentence says where it looked
// and what is there.
Result<std::string> find_model(const std::string& name);

}  // namespace dalsegno::cli
