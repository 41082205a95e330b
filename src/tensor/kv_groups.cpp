#include "tensor/kv_groups.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace dalsegno {
namespace {

struct Groups {
  int full = 0;  // layers
  int sliding = 0;
  [[nodiscard]] int slices(int page_layers) const {
    return (full + page_layers - 1) / page_layers + (sliding + page_layers - 1) / page_layers;
  }
};

// Layers per page: of those that waste fewest layers, the most, and no more slices than there may be.
int best_page_layers(Groups groups) {
  const int all = groups.full + groups.sliding;
  int best = all;
  int least = 2 * all;
  for (int layers = 1; layers <= all; ++layers) {
    const int slices = groups.slices(layers);
    if (slices > kMostSlices || slices * layers > least) continue;
    least = slices * layers;
    best = layers;
  }
  return best;
}

// The same where a page of so many layers in codes also holds some in bf16, at least one: of those that waste fewest
// bytes in blocks of codes, and then in early ones, the most.
int best_page_layers(Groups groups, const KvLayout& layout, int& early_layers) {
  const int all = groups.full + groups.sliding;
  const std::size_t plain = layout.layer_bytes(true);
  int best = all;
  auto least = std::pair(std::numeric_limits<std::size_t>::max(), std::size_t{0});
  for (int layers = 1; layers <= all; ++layers) {
    const std::size_t page = std::max(static_cast<std::size_t>(layers) * layout.layer_bytes(), plain);
    const int early = static_cast<int>(page / plain);
    if (groups.slices(layers) > kMostSlices || groups.slices(early) > kMostEarlySlices) continue;
    const auto bytes = std::pair(static_cast<std::size_t>(groups.slices(layers)) * page,
                                 static_cast<std::size_t>(groups.slices(early)) * page);
    if (bytes > least) continue;
    least = bytes;
    best = layers;
    early_layers = early;
  }
  return best;
}

KvDivision divide(int layers, Groups groups, int page_layers, const std::function<bool(int layer)>& slides) {
  KvDivision division{.page_layers = page_layers};
  division.slices = groups.slices(page_layers);
  division.full_slices = (groups.full + page_layers - 1) / page_layers;
  int next[2] = {0, division.full_slices * page_layers};
  for (int layer = 0; layer < layers; ++layer) {
    const int at = next[slides(layer) ? 1 : 0]++;
    division.places[static_cast<std::size_t>(layer)] = {static_cast<std::uint8_t>(at / page_layers),
                                                        static_cast<std::uint8_t>(at % page_layers)};
  }
  return division;
}

}  // namespace

KvLayout with_window(const KvLayout& plain, int window, const std::function<bool(int layer)>& slides) {
  const bool divisible = plain.layers <= kMostGroupedLayers;
  Groups groups;
  for (int layer = 0; layer < plain.layers; ++layer) ++(window > 0 && slides(layer) ? groups.sliding : groups.full);
  const int last = plain.max_size - plain.keep;
  KvLayout layout = plain;
  std::function<bool(int)> in_window = [&](int layer) { return window > 0 && slides(layer); };
  if (groups.full == 0 && (plain.max_size == 0 || window <= last)) {
    layout.window = window;
  } else if (plain.max_size > 0) {
    layout.window = last;
    layout.sink_blocks = (plain.keep + kBlockTokens - 1) / kBlockTokens;
    groups = {.full = 0, .sliding = plain.layers};
    in_window = [](int) { return true; };
  } else if (groups.sliding > 0 && divisible) {
    layout.window = window;
  } else {
    groups = {.full = plain.layers, .sliding = 0};
    in_window = [](int) { return false; };
  }
  const bool one_group = groups.full == 0 || groups.sliding == 0;
  if (!divisible || (one_group && plain.start == 0)) {
    layout.division.full_slices = layout.early.full_slices = groups.full > 0 ? 1 : 0;
    return layout;
  }
  int early_layers = 0;
  const int page_layers = plain.start == 0 ? best_page_layers(groups) : best_page_layers(groups, plain, early_layers);
  layout.division = divide(plain.layers, groups, page_layers, in_window);
  if (plain.start > 0) layout.early = divide(plain.layers, groups, early_layers, in_window);
  return layout;
}

}  // namespace dalsegno
