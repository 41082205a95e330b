#include "tensor/kv_rows.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace dalsegno {
namespace {

using Bytes = std::vector<std::byte>;

KvLayout layout_of(KvFormat format, int head_dim, int start = 0) {
  return {.format = format, .layers = 1, .kv_heads = 3, .head_dim = head_dim, .code_group = 32, .start = start};
}

Bytes random_bytes(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

// Where kv_view.hpp says that an element of 2 or 4 bytes lies in a part.
std::size_t place(const KvLayout& layout, KvPart part, int token, int dim) {
  const auto t = static_cast<std::size_t>(token);
  const auto d = static_cast<std::size_t>(dim);
  const auto head_dim = static_cast<std::size_t>(layout.head_dim);
  if (layout.format == KvFormat::f32) return 4 * (part == KvPart::keys ? d * 16 + t : t * head_dim + d);
  return 2 * (part == KvPart::keys ? (d / 2 * 16 + t) * 2 + d % 2 : (t / 2 * head_dim + d) * 2 + t % 2);
}

TEST(KvRows, ValuesComeInTheOrderOfTokensHeadsAndDims) {
  for (const KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
    for (const KvPart part : {KvPart::keys, KvPart::values}) {
      const KvLayout layout = layout_of(format, 48);
      const std::size_t size = element_bytes(format);
      const Bytes block = random_bytes(layout.layer_bytes(), 1);
      const KvBlockRows what{&layout, part, KvField::values, false, 11};
      Bytes rows(11 * 3 * 48 * size);
      read_rows(what, block.data(), rows.data());
      for (int token = 0; token < 11; ++token) {
        for (int head = 0; head < 3; ++head) {
          for (int dim = 0; dim < 48; ++dim) {
            const std::size_t from =
                static_cast<std::size_t>(head) * 2 * layout.part_bytes() + place(layout, part, token, dim);
            const std::size_t to =
                (static_cast<std::size_t>(token * 3 + head) * 48 + static_cast<std::size_t>(dim)) * size;
            ASSERT_EQ(std::memcmp(&block[from], &rows[to], size), 0)
                << name(format) << " token " << token << " head " << head << " dim " << dim;
          }
        }
      }
    }
  }
}

// Every byte of a block that the fields describe, and no other, comes back.
TEST(KvRows, WhatWasReadIsWrittenBackToItsPlaces) {
  for (const KvFormat format : {KvFormat::bf16, KvFormat::f32, KvFormat::q8, KvFormat::q4}) {
    for (const int head_dim : {16, 48, 64, 128}) {
      for (const int tokens : {1, 7, 16}) {
        const KvLayout layout = layout_of(format, head_dim);
        const Bytes block = random_bytes(layout.layer_bytes(), 2);
        Bytes copy = random_bytes(layout.layer_bytes(), 3);
        const Bytes before = copy;
        for (const KvPart part : {KvPart::keys, KvPart::values}) {
          const std::size_t offset = part == KvPart::keys ? 0 : layout.part_bytes();
          for (const KvField field : {KvField::values, KvField::scales, KvField::minima}) {
            const std::size_t bytes = kv_field_bytes(layout, field, false);
            if (bytes == 0) continue;
            const KvBlockRows what{&layout, part, field, false, tokens};
            Bytes rows(static_cast<std::size_t>(tokens) * 3 * bytes);
            read_rows(what, block.data() + offset, rows.data());
            write_rows(what, rows.data(), copy.data() + offset);
            Bytes again(rows.size());
            read_rows(what, copy.data() + offset, again.data());
            EXPECT_EQ(again, rows);
          }
        }
        if (tokens == 16) {
          EXPECT_EQ(copy, block) << name(format) << ' ' << head_dim;
        } else {
          std::size_t changed = 0;
          for (std::size_t i = 0; i < copy.size(); ++i) changed += copy[i] != before[i] ? 1 : 0;
          EXPECT_LE(changed, layout.layer_bytes() * static_cast<std::size_t>(tokens + 1) / 16);
          for (std::size_t i = 0; i < copy.size(); ++i)
            EXPECT_TRUE(copy[i] == before[i] || copy[i] == block[i] || format == KvFormat::q4);
        }
      }
    }
  }
}

// The codes of 4 bits, by the places that kv_format.hpp names.
TEST(KvRows, CodesOfFourBitsAreUnpackedDimByDim) {
  const KvLayout layout = layout_of(KvFormat::q4, 32);
  Bytes block(layout.layer_bytes());
  block[(1 * 16 + 5) * 2 + 1] = std::byte{0xA3};  // K, token 5: dims 5 and 7
  const std::size_t v = layout.part_bytes();
  block[v + ((2 * 2 + 1) * 8 + 3) * 2 + 1] = std::byte{0x7C};  // V, tokens 4 and 5, so 5: dims 19 and 27
  Bytes rows(16 * 3 * 16);
  read_rows({&layout, KvPart::keys, KvField::values, false, 16}, block.data(), rows.data());
  const std::size_t token5 = 5 * 3 * 16;
  EXPECT_EQ(rows[token5 + 2], std::byte{0x30});
  EXPECT_EQ(rows[token5 + 3], std::byte{0xA0});
  read_rows({&layout, KvPart::values, KvField::values, false, 16}, block.data() + v, rows.data());
  EXPECT_EQ(rows[token5 + 9], std::byte{0xC0});
  EXPECT_EQ(rows[token5 + 13], std::byte{0x70});
}

TEST(KvRows, PositionsBeforeTheStartAreValues) {
  const KvLayout layout = layout_of(KvFormat::q8, 64, 32);
  EXPECT_EQ(kv_field_bytes(layout, KvField::values, true), 128U);
  EXPECT_EQ(kv_field_bytes(layout, KvField::scales, true), 0U);
  EXPECT_EQ(kv_field_bytes(layout, KvField::values, false), 64U);
  EXPECT_EQ(kv_field_bytes(layout, KvField::scales, false), 4U);
  EXPECT_EQ(kv_field_bytes(layout, KvField::minima, false), 0U);
}

}  // namespace
}  // namespace dalsegno
