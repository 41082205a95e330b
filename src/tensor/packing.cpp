#include "tensor/packing.hpp"

#include <bit>
#include <cassert>
#include <cstdint>
#include <cstring>

#include "tensor/packing_blocks.hpp"

namespace dalsegno {
namespace {

using packing::GroupCodes;

std::size_t group_count(int k) {
  return static_cast<std::size_t>(k / kGroup);
}

template <GroupLayout L>
void store_codes(const GroupCodes& group, int column, std::byte* out) {
  std::byte* at = out + 4 * column;
  if constexpr (L.code_bits == 8) {
    for (int quad = 0; quad < 8; ++quad) std::memcpy(at + 4 * kPanelColumns * quad, &group.quads[quad], 4);
  } else {
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t low = group.quads[2 * pair] & packing::kLowNibbles;
      const std::uint32_t high = group.quads[2 * pair + 1] & packing::kLowNibbles;
      const std::uint32_t nibbles = low | high << 4;
      std::memcpy(at + 4 * kPanelColumns * pair, &nibbles, 4);
    }
  }
  if constexpr (L.upper_bits > 0) {
    std::uint32_t upper[L.upper_bits] = {};
    for (int quad = 0; quad < 8; ++quad) {
      const std::uint32_t bits = group.quads[quad] >> 4 & packing::in_every_byte(L.upper_mask >> 4);
      upper[quad * L.upper_bits / 8] |= bits << (quad * L.upper_bits % 8);
    }
    for (int i = 0; i < L.upper_bits; ++i) {
      std::memcpy(at + L.upper_offset + 4 * kPanelColumns * i, &upper[i], 4);
    }
  }
}

// Both kinds of scale are kept as the bits that are stored.
template <GroupLayout L>
void store_scales(const GroupCodes& group, int column, std::byte* out) {
  const auto put = [&](int offset, std::uint32_t bits) {
    std::memcpy(out + offset + L.scale_bytes * column, &bits, static_cast<std::size_t>(L.scale_bytes));
  };
  put(L.scale_offset, group.scale[0]);
  if constexpr (L.scales == 2) put(L.scale_offset + kPanelColumns * L.scale_bytes, group.scale[1]);
  if constexpr (L.minimum) put(L.minimum_offset, group.minimum);
}

// Columns inside groups: 32 rows are read side by side, and the group being written stays in L1.
template <class Block>
bool pack_quantised(const std::byte* source, int columns, int k, std::byte* out) {
  constexpr GroupLayout layout = group_layout(Block::kFormat);
  constexpr int groups_per_block = Block::kElements / kGroup;
  const std::size_t row_bytes = static_cast<std::size_t>(k / Block::kElements) * Block::kBytes;
  bool finite = true;
  for (int g = 0; g < k / kGroup; ++g, out += layout.bytes) {
    const std::byte* block = source + static_cast<std::size_t>(g / groups_per_block) * Block::kBytes;
    for (int column = 0; column < columns; ++column, block += row_bytes) {
      GroupCodes group;
      finite &= Block::unpack(block, g % groups_per_block, group);
      store_codes<layout>(group, column, out);
      store_scales<layout>(group, column, out);
    }
  }
  return finite;
}

template <class Word, Word kExponent>
bool pack_floats(const std::byte* source, int columns, int k, std::byte* out) {
  constexpr int block = 16;  // at least half a cache line of each row is used before it goes
  const std::size_t row_bytes = static_cast<std::size_t>(k) * sizeof(Word);
  bool finite = true;
  for (int first = 0; first < k; first += block) {
    const int last = first + block < k ? first + block : k;
    for (int column = 0; column < columns; ++column) {
      const std::byte* row = source + static_cast<std::size_t>(column) * row_bytes;
      for (int i = first; i < last; ++i) {
        Word word;
        std::memcpy(&word, row + static_cast<std::size_t>(i) * sizeof(Word), sizeof(Word));
        finite &= (word & kExponent) != kExponent;
        std::memcpy(
            out + (static_cast<std::size_t>(i) * kPanelColumns + static_cast<std::size_t>(column)) * sizeof(Word),
            &word, sizeof(Word));
      }
    }
  }
  return finite;
}

using PackPanel = bool (*)(const std::byte* source, int columns, int k, std::byte* out);

struct Packer {
  PackedFormat format;
  PackPanel pack;
};

template <class Block>
constexpr Packer quantised() {
  return {Block::kFormat, pack_quantised<Block>};
}

Packer packer(TensorType type) {
  switch (type) {
    case TensorType::f32:
      return {PackedFormat::f32, pack_floats<std::uint32_t, 0x7f800000>};
    case TensorType::f16:
      return {PackedFormat::f16, pack_floats<std::uint16_t, 0x7c00>};
    case TensorType::bf16:
      return {PackedFormat::bf16, pack_floats<std::uint16_t, 0x7f80>};
    case TensorType::q4_0:
      return quantised<packing::Q4_0>();
    case TensorType::q4_1:
      return quantised<packing::Q4_1>();
    case TensorType::q5_0:
      return quantised<packing::Q5_0>();
    case TensorType::q5_1:
      return quantised<packing::Q5_1>();
    case TensorType::q8_0:
      return quantised<packing::Q8_0>();
    case TensorType::iq4_nl:
      return quantised<packing::IQ4_NL>();
    case TensorType::q4_k:
      return quantised<packing::Q4_K>();
    case TensorType::q5_k:
      return quantised<packing::Q5_K>();
    case TensorType::q6_k:
      return quantised<packing::Q6_K>();
  }
  assert(false && "a TensorType without a packed form");
  return {};
}

}  // namespace

PackedFormat packed_format(TensorType type) {
  return packer(type).format;
}

std::size_t packed_panel_bytes(PackedFormat format, int k) {
  if (!is_float(format)) return group_count(k) * static_cast<std::size_t>(group_layout(format).bytes);
  return static_cast<std::size_t>(k) * kPanelColumns * (format == PackedFormat::f32 ? 4 : 2);
}

std::size_t packed_bytes(PackedFormat format, int n, int k) {
  const int panels = n / kPanelColumns + (n % kPanelColumns != 0 ? 1 : 0);
  return static_cast<std::size_t>(panels) * packed_panel_bytes(format, k);
}

bool pack_panels(TensorType type, const std::byte* source, int n, int k, int panel_begin, int panel_end,
                 std::byte* out) {
  const TensorTypeTraits& blocks = traits(type);
  assert(k % blocks.block_elements == 0);
  const Packer entry = packer(type);
  const std::size_t panel_bytes = packed_panel_bytes(entry.format, k);
  const std::size_t row_bytes =
      static_cast<std::size_t>(k / blocks.block_elements) * static_cast<std::size_t>(blocks.block_bytes);
  bool finite = true;
  for (int p = panel_begin; p < panel_end; ++p) {
    std::byte* panel = out + static_cast<std::size_t>(p) * panel_bytes;
    const int left = n - p * kPanelColumns;
    const int columns = left < kPanelColumns ? left : kPanelColumns;
    if (columns < kPanelColumns) std::memset(panel, 0, panel_bytes);
    finite &= entry.pack(source + static_cast<std::size_t>(p) * kPanelColumns * row_bytes, columns, k, panel);
  }
  return finite;
}

}  // namespace dalsegno
