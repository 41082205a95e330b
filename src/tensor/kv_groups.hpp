#pragma once

#include <functional>

#include "tensor/kv_view.hpp"

namespace dalsegno {

// `plain`, a layout of one group, with the layers for which `slides` holds as a group of their own. It stays one group
// if no layer slides, or all do, or there are more than kMostGroupedLayers.
[[nodiscard]] KvLayout with_window(const KvLayout& plain, int window, const std::function<bool(int layer)>& slides);

}  // namespace dalsegno
