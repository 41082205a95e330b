#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "tensor/kv_format.hpp"

namespace dalsegno {

// How K and V of a model lie in memory.
// Layer groups: layers that look back without limit (group 0), and those with a window (group 1), which need only the
// last blocks. All pages of a model have one size, so that one pool serves both groups: a page holds 16 tokens of
// `page_layers` layers of one group, and a block of a group takes as many pages as it has slices. Slices
// [0, full_slices) are group 0's.
// Where every layer has a window (max_size, or a model that only slides), all of them are group 1, but in the first
// `sink_blocks` blocks, which stay in sight, group 0.
// Where keys and values become codes at `start` only, a block before it is bf16 and is divided as `early` says: its
// slices follow from kMostSlices on.
// Bytes within a page: [layer of the slice][kv_head][K, V], each part 16 * head_dim values:
//   bf16: K [head_dim/2][16 tokens][2], V [8 token pairs][head_dim][2]
//   f32:  K [head_dim][16 tokens],      V [16 tokens][head_dim]
//   8 and 4 bits: see KvCodes
inline constexpr int kMostSlices = 16;
inline constexpr int kMostEarlySlices = 64;
inline constexpr int kAllSlices = kMostSlices + kMostEarlySlices;
inline constexpr int kMostGroupedLayers = 256;  // a model of more layers is one group

// How the layers of a block are divided among pages.
struct KvDivision {
  int page_layers = 0;  // 0: all
  int slices = 1;
  int full_slices = 1;
  struct Place {
    std::uint8_t slice = 0;
    std::uint8_t index = 0;  // of the layer within a page
    bool operator==(const Place&) const = default;
  };
  std::array<Place, kMostGroupedLayers> places = {};
  bool operator==(const KvDivision&) const = default;
};

struct KvLayout {
  KvFormat format = KvFormat::bf16;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int code_group = 0;  // values that share a scale in 8 and 4 bits; 0: all of a head
  int max_size = 0;    // a query sees the first `keep` tokens and the last max_size - keep; 0: all
  int keep = 0;
  int start = 0;  // positions before are bf16 though `format` is codes; a multiple of 16
  // As kv_groups.hpp makes them; else one slice holds all layers.
  int window = 0;  // a query of group 1 sees itself and the window - 1 tokens before it, and the sink
  int sink_blocks = 0;
  KvDivision division = {};
  KvDivision early = {};

  [[nodiscard]] constexpr bool slides() const { return window > 0; }
  [[nodiscard]] constexpr bool is_early(int block) const { return block < start / kBlockTokens; }
  [[nodiscard]] constexpr KvFormat format_of(bool before_start) const { return before_start ? KvFormat::bf16 : format; }
  [[nodiscard]] constexpr const KvDivision& division_of(bool before_start) const {
    return before_start ? early : division;
  }
  // Pages of group 0 and group 1 in a block; the slices of group 0 come first.
  [[nodiscard]] constexpr int full_pages(int block) const {
    const KvDivision& divided = division_of(is_early(block));
    return block < sink_blocks ? divided.slices : divided.full_slices;
  }
  [[nodiscard]] constexpr int window_pages(int block) const {
    return division_of(is_early(block)).slices - full_pages(block);
  }
  [[nodiscard]] constexpr int pages_in(int block) const { return division_of(is_early(block)).slices; }
  [[nodiscard]] constexpr int most_pages_in_block() const {
    return start > 0 && early.slices > division.slices ? early.slices : division.slices;
  }
  [[nodiscard]] constexpr int first_slice(int block) const { return is_early(block) ? kMostSlices : 0; }
  [[nodiscard]] constexpr int slice_of(int layer, bool before_start = false) const {
    const KvDivision& divided = division_of(before_start);
    return (before_start ? kMostSlices : 0) +
           (divided.page_layers == 0 ? 0 : divided.places[static_cast<std::size_t>(layer)].slice);
  }
  // The first position of the window before `position`: what a query there sees of group 1, beside the sink.
  [[nodiscard]] constexpr int first_seen(int position) const {
    return window > 0 && position >= window ? position + 1 - window : 0;
  }

  [[nodiscard]] constexpr std::size_t part_bytes(bool before_start = false) const {
    return kv_part_bytes(format_of(before_start), head_dim, code_group);
  }
  // Requires: is_quantised(format).
  [[nodiscard]] constexpr KvCodes codes() const { return kv_codes(format, head_dim, code_group); }
  [[nodiscard]] constexpr std::size_t layer_bytes(bool before_start = false) const {
    return static_cast<std::size_t>(kv_heads) * 2 * part_bytes(before_start);
  }
  [[nodiscard]] constexpr std::size_t page_bytes() const {
    const auto bytes = [this](bool before_start) {
      const int in_page = division_of(before_start).page_layers;
      return static_cast<std::size_t>(in_page == 0 ? layers : in_page) * layer_bytes(before_start);
    };
    return start > 0 && bytes(true) > bytes(false) ? bytes(true) : bytes(false);
  }
  // Of 16 tokens in all layers, from `start` on.
  [[nodiscard]] constexpr std::size_t block_bytes() const {
    return static_cast<std::size_t>(division.slices) * page_bytes();
  }
  // Pages that a sequence needs to have `tokens` tokens when it grows by at most `rows` in a step.
  [[nodiscard]] constexpr std::uint64_t pages_for(int tokens, int rows) const {
    const auto blocks = [](std::int64_t count) { return (count + kBlockTokens - 1) / kBlockTokens; };
    const auto at_most = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
    const auto from_zero = [](std::int64_t a) { return a > 0 ? a : 0; };
    const std::int64_t all = blocks(tokens);
    const std::int64_t seen = blocks(at_most(tokens, std::int64_t{window} + rows + 3 * kBlockTokens));
    // Ascending places where blocks change: those of the sink and of `start`.
    const std::int64_t start_block = start / kBlockTokens;
    const std::int64_t edges[] = {0, at_most(sink_blocks, start_block),
                                  sink_blocks > start_block ? sink_blocks : start_block,
                                  std::numeric_limits<std::int32_t>::max()};
    std::int64_t pages = 0;
    std::int64_t in_window = seen;
    for (int i = 0; i < 3; ++i) {
      const std::int64_t count = from_zero(at_most(all, edges[i + 1]) - edges[i]);
      const int block = static_cast<int>(edges[i]);
      pages += count * full_pages(block);
      // Early blocks, which take more pages, as if they stayed in the window for ever.
      const std::int64_t window_blocks = window_pages(block) > 0 ? at_most(count, in_window) : 0;
      pages += window_blocks * window_pages(block);
      in_window -= window_blocks;
    }
    return static_cast<std::uint64_t>(pages);
  }
  // Offset of K of (layer, kv_head) in a page of the layer's slice; V follows at + part_bytes().
  [[nodiscard]] constexpr std::size_t k_offset(int layer, int kv_head, bool before_start = false) const {
    const KvDivision& divided = division_of(before_start);
    const std::size_t index = divided.page_layers == 0 ? static_cast<std::size_t>(layer)
                                                       : divided.places[static_cast<std::size_t>(layer)].index;
    return index * layer_bytes(before_start) + static_cast<std::size_t>(kv_head) * 2 * part_bytes(before_start);
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
  std::array<std::byte* const*, kAllSlices> pages{};  // of each slice [page_count]
  int page_count = 0;

  // Of the layer's blocks from the layout's start on, or of those before (early); the others are absent.
  [[nodiscard]] std::byte* const* pages_for(int layer, bool early = false) const {
    return pages[static_cast<std::size_t>(layout->slice_of(layer, early))];
  }
};

}  // namespace dalsegno
