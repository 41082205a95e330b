#pragma once

#include <functional>

#include "tensor/kv_view.hpp"

namespace dalsegno {

// `plain`, a layout of one group, with its layers grouped and divided among pages: those for which `slides` holds have
// a window of their own. It stays one group without a window if no layer slides, or some do and there are more than
// kMostGroupedLayers. With max_size every layer has the same window, the widest that any of them needs.
[[nodiscard]] KvLayout with_window(const KvLayout& plain, int window, const std::function<bool(int layer)>& slides);

}  // namespace dalsegno
