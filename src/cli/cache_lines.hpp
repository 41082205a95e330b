#pragma once

#include <string>

#include "dalsegno/engine.hpp"

namespace dalsegno::cli {

// What an engine's cache has done and holds, in a few lines for people; causes that did not occur are left out.
[[nodiscard]] std::string cache_lines(const CacheReport& report);
// "draft model: 40 of 52 guesses right, ..."
[[nodiscard]] std::string draft_line(const DraftReport& report);

}  // namespace dalsegno::cli
