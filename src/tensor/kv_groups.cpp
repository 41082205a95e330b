#include "tensor/kv_groups.hpp"

namespace dalsegno {
namespace {

int slices_for(int layers, int page_layers) {
  return (layers + page_layers - 1) / page_layers;
}

// Layers per page: of those that waste fewest layers, the most, and no more slices than there may be.
int best_page_layers(int full, int sliding) {
  int best = full + sliding;
  int least = 2 * best;
  for (int layers = 1; layers <= full + sliding; ++layers) {
    const int slices = slices_for(full, layers) + slices_for(sliding, layers);
    if (slices > kMostSlices || slices * layers > least) continue;
    least = slices * layers;
    best = layers;
  }
  return best;
}

}  // namespace

KvLayout with_window(const KvLayout& plain, int window, const std::function<bool(int layer)>& slides) {
  int sliding = 0;
  for (int layer = 0; layer < plain.layers; ++layer) sliding += slides(layer) ? 1 : 0;
  if (window <= 0 || sliding == 0 || sliding == plain.layers || plain.layers > kMostGroupedLayers) return plain;
  KvLayout layout = plain;
  layout.window = window;
  layout.page_layers = best_page_layers(plain.layers - sliding, sliding);
  layout.full_slices = slices_for(plain.layers - sliding, layout.page_layers);
  layout.slices = layout.full_slices + slices_for(sliding, layout.page_layers);
  int next[2] = {0, layout.full_slices * layout.page_layers};
  for (int layer = 0; layer < plain.layers; ++layer) {
    const int at = next[slides(layer) ? 1 : 0]++;
    layout.places[static_cast<std::size_t>(layer)] = {static_cast<std::uint8_t>(at / layout.page_layers),
                                                      static_cast<std::uint8_t>(at % layout.page_layers)};
  }
  return layout;
}

}  // namespace dalsegno
