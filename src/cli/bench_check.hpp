#pragma once

#include "cli/options.hpp"

namespace dalsegno::cli {

// Opens the engine that is to be measured, once it has shown that its answer is right: the logits of a prompt have
// the same bits on one thread and on all, whole and in chunks, token by token, alone and within a batch.
// Errors: numeric, where they differ.
Result<std::unique_ptr<Engine>> open_checked(const CommonOptions& options, bool brief);

}  // namespace dalsegno::cli
