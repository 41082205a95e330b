#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Tokens per block. 16 keys are one SIMD group; an attention tile of 64 is four blocks.
inline constexpr int kBlockTokens = 16;

[[nodiscard]] constexpr std::size_t element_bytes(KvFormat format) {
  return format == KvFormat::bf16 ? 2 : 4;
}

// Some of a model's first 1024 layers.
class LayerSet {
 public:
  static constexpr int kMost = 1024;

  constexpr void add(int layer) { words_[word(layer)] |= bit(layer); }
  [[nodiscard]] constexpr bool contains(int layer) const {
    return layer < kMost && (words_[word(layer)] & bit(layer)) != 0;
  }
  // How many of its members come before `layer`.
  [[nodiscard]] constexpr int before(int layer) const {
    int count = 0;
    for (std::size_t i = 0; i < words_.size() && static_cast<int>(i) * 64 < layer; ++i) {
      const int bits = layer - static_cast<int>(i) * 64;
      count += std::popcount(bits < 64 ? words_[i] & (bit(bits) - 1) : words_[i]);
    }
    return count;
  }
  [[nodiscard]] constexpr int size() const { return before(kMost); }
  bool operator==(const LayerSet&) const = default;

 private:
  [[nodiscard]] static constexpr std::size_t word(int layer) { return static_cast<std::size_t>(layer) / 64; }
  [[nodiscard]] static constexpr std::uint64_t bit(int layer) { return std::uint64_t{1} << (layer % 64); }
  std::array<std::uint64_t, kMost / 64> words_{};
};

// Layer groups. The layers of one group need K/V of the same positions and share pages. Group 0 looks back without
// limit; group 1 are the sliding-window layers of a model that has both kinds. Layers that all slide form group 0:
// their old blocks are kept.
inline constexpr int kMostGroups = 2;

// How K and V of a model lie in memory: a page holds 16 consecutive tokens for every layer and K/V head of a group.
// Bytes within a page: [layer of the group][kv_head][K, V], each part 16 * head_dim elements:
//   bf16: K [head_dim/2][16 tokens][2], V [8 token pairs][head_dim][2]
//   f32:  K [head_dim][16 tokens],      V [16 tokens][head_dim]
struct KvLayout {
  KvFormat format = KvFormat::bf16;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int window = 0;         // of the sliding layers: a query sees itself and the window - 1 tokens before it
  LayerSet sliding = {};  // which those are

  [[nodiscard]] constexpr int groups() const { return sliding.size() > 0 && sliding.size() < layers ? 2 : 1; }
  [[nodiscard]] constexpr int group_of(int layer) const { return groups() == 2 && sliding.contains(layer) ? 1 : 0; }
  [[nodiscard]] constexpr int index_in_group(int layer) const {
    if (groups() == 1) return layer;
    return sliding.contains(layer) ? sliding.before(layer) : layer - sliding.before(layer);
  }
  [[nodiscard]] constexpr int layers_of(int group) const {
    if (groups() == 1) return group == 0 ? layers : 0;
    return group == 1 ? sliding.size() : layers - sliding.size();
  }
  // What a query of the group's layers needs: itself and this many tokens less one before it; 0: all.
  [[nodiscard]] constexpr int window_of(int group) const { return group == 1 ? window : 0; }

  [[nodiscard]] constexpr std::size_t part_bytes() const {
    return static_cast<std::size_t>(kBlockTokens) * static_cast<std::size_t>(head_dim) * element_bytes(format);
  }
  [[nodiscard]] constexpr std::size_t layer_bytes() const {
    return static_cast<std::size_t>(kv_heads) * 2 * part_bytes();
  }
  // Of one page of the group.
  [[nodiscard]] constexpr std::size_t page_bytes(int group) const {
    return static_cast<std::size_t>(layers_of(group)) * layer_bytes();
  }
  // Of 16 tokens in all groups.
  [[nodiscard]] constexpr std::size_t block_bytes() const { return static_cast<std::size_t>(layers) * layer_bytes(); }
  // Offset of K of (layer, kv_head) in a page of the layer's group; V follows at + part_bytes().
  [[nodiscard]] constexpr std::size_t k_offset(int layer, int kv_head) const {
    return static_cast<std::size_t>(index_in_group(layer)) * layer_bytes() +
           static_cast<std::size_t>(kv_head) * 2 * part_bytes();
  }
  bool operator==(const KvLayout&) const = default;
};

// One sequence's K/V as the model sees it: page b of a group holds positions 16b .. 16b+15 of its layers.
// nullptr: the block is absent, since nothing that is computed may look at it; kernels take it for zeros, so that a
// tile of which some blocks are absent needs no care. Blocks that the step writes are present.
// Slots not yet written hold finite values (zeros or another token's); masked
// probabilities are exact zeros, so those values change no bit.
// Lifetime: valid for one step. The step writes its own new positions through it.
struct KvView {
  const KvLayout* layout = nullptr;
  std::array<std::byte* const*, kMostGroups> pages{};  // of each group [page_count]
  int page_count = 0;

  [[nodiscard]] std::byte* const* pages_for(int layer) const {
    return pages[static_cast<std::size_t>(layout->group_of(layer))];
  }
};

}  // namespace dalsegno
