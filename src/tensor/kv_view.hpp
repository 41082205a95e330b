#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "tensor/kv_format.hpp"

namespace dalsegno {

// How K and V of a model lie in memory.
// Layer groups: layers that look back without limit (group 0), and sliding-window layers (group 1), which need only
// the last blocks. All pages of a model have one size, so that one pool serves both groups: a page holds 16 tokens of
// `page_layers` layers of one group, and a block of a group takes as many pages as it has slices. Slices
// [0, full_slices) are group 0's. Layers that all slide are one group, whose blocks are kept like any other's.
// Bytes within a page: [layer of the slice][kv_head][K, V], each part 16 * head_dim values:
//   bf16: K [head_dim/2][16 tokens][2], V [8 token pairs][head_dim][2]
//   f32:  K [head_dim][16 tokens],      V [16 tokens][head_dim]
//   8 and 4 bits: see KvCodes
inline constexpr int kMostSlices = 16;
inline constexpr int kMostGroupedLayers = 256;  // a model of more layers is one group

struct KvLayout {
  KvFormat format = KvFormat::bf16;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int code_group = 0;  // values that share a scale in 8 and 4 bits; 0: all of a head
  int max_size = 0;    // a query sees the first `keep` tokens and the last max_size - keep; 0: all
  int keep = 0;
  // Of a model with both groups, as kv_groups.hpp makes it; else one slice holds all layers.
  int window = 0;       // a query sees itself and the window - 1 tokens before it
  int page_layers = 0;  // 0: all
  int slices = 1;
  int full_slices = 1;
  struct Place {
    std::uint8_t slice = 0;
    std::uint8_t index = 0;  // of the layer within a page
    bool operator==(const Place&) const = default;
  };
  std::array<Place, kMostGroupedLayers> places = {};

  [[nodiscard]] constexpr int slice_of(int layer) const {
    return page_layers == 0 ? 0 : places[static_cast<std::size_t>(layer)].slice;
  }
  [[nodiscard]] constexpr int window_slices() const { return slices - full_slices; }
  // 0: no limit.
  [[nodiscard]] constexpr int window_of(int slice) const { return slice < full_slices ? 0 : window; }
  // The first position that a query at `position` sees in the sliding layers.
  [[nodiscard]] constexpr int first_seen(int position) const {
    return window > 0 && position >= window ? position + 1 - window : 0;
  }

  [[nodiscard]] constexpr std::size_t part_bytes() const { return kv_part_bytes(format, head_dim, code_group); }
  // Requires: is_quantised(format).
  [[nodiscard]] constexpr KvCodes codes() const { return kv_codes(format, head_dim, code_group); }
  [[nodiscard]] constexpr std::size_t layer_bytes() const {
    return static_cast<std::size_t>(kv_heads) * 2 * part_bytes();
  }
  [[nodiscard]] constexpr std::size_t page_bytes() const {
    return static_cast<std::size_t>(page_layers == 0 ? layers : page_layers) * layer_bytes();
  }
  // Of 16 tokens in all layers.
  [[nodiscard]] constexpr std::size_t block_bytes() const { return static_cast<std::size_t>(slices) * page_bytes(); }
  // Pages that a sequence needs to have `tokens` tokens when it grows by at most `rows` in a step.
  [[nodiscard]] constexpr std::uint64_t pages_for(int tokens, int rows) const {
    const auto blocks = [](std::int64_t count) {
      return static_cast<std::uint64_t>(count + kBlockTokens - 1) / kBlockTokens;
    };
    const std::int64_t most = std::int64_t{window} + rows + 3 * kBlockTokens;
    const std::int64_t seen = tokens < most ? tokens : most;
    return blocks(tokens) * static_cast<std::uint64_t>(full_slices) +
           blocks(seen) * static_cast<std::uint64_t>(window_slices());
  }
  // Offset of K of (layer, kv_head) in a page of the layer's slice; V follows at + part_bytes().
  [[nodiscard]] constexpr std::size_t k_offset(int layer, int kv_head) const {
    const std::size_t index =
        page_layers == 0 ? static_cast<std::size_t>(layer) : places[static_cast<std::size_t>(layer)].index;
    return index * layer_bytes() + static_cast<std::size_t>(kv_head) * 2 * part_bytes();
  }
  bool operator==(const KvLayout&) const = default;
};

// One sequence's K/V as the model sees it: page b of a slice holds positions 16b .. 16b+15 of its layers.
// nullptr: the block is absent, since nothing that is computed may look at it; kernels take it for zeros, so that a
// tile of which some blocks are absent needs no care. Blocks that the step writes are present.
// Slots not yet written hold finite values (zeros or another token's); masked
// probabilities are exact zeros, so those values change no bit.
// Lifetime: valid for one step. The step writes its own new positions through it.
struct KvView {
  const KvLayout* layout = nullptr;
  std::array<std::byte* const*, kMostSlices> pages{};  // of each slice [page_count]
  int page_count = 0;

  [[nodiscard]] std::byte* const* pages_for(int layer) const {
    return pages[static_cast<std::size_t>(layout->slice_of(layer))];
  }
};

}  // namespace dalsegno
