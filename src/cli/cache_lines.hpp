#pragma once

#include <string>

#include "dalsegno/cache_report.hpp"

namespace dalsegno::cli {

// What an engine's cache has done and holds, in a few lines for people; causes that did not occur are left out.
[[nodiscard]] std::string cache_lines(const CacheReport& report);

}  // namespace dalsegno::cli
