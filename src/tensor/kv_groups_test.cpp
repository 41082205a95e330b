#include "tensor/kv_groups.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace dalsegno {
namespace {

struct Case {
  int layers;
  int sliding_every;  // layers n - 1, 2n - 1, ... do not slide; 0: all do
  int window;
  KvFormat format = KvFormat::bf16;
  int head_dim = 64;
  int start = 0;
  int max_size = 0;
  int keep = 0;
};

KvLayout layout_of(const Case& wanted) {
  KvLayout plain{.format = wanted.format,
                 .layers = wanted.layers,
                 .kv_heads = 2,
                 .head_dim = wanted.head_dim,
                 .code_group = 64,
                 .max_size = wanted.max_size,
                 .keep = wanted.keep,
                 .start = wanted.start};
  return with_window(plain, wanted.window,
                     [&](int layer) { return wanted.sliding_every == 0 || (layer + 1) % wanted.sliding_every != 0; });
}

const std::vector<Case> kCases{
    {30, 1, 0},
    {18, 6, 512},
    {18, 0, 512},
    {300, 6, 512},
    {30, 1, 0, KvFormat::q8, 64, 48},
    {30, 1, 0, KvFormat::q4, 64, 256},
    {18, 6, 512, KvFormat::q4, 256, 1008},
    {62, 6, 1024, KvFormat::q8, 128, 32},
    {1, 1, 0, KvFormat::q4, 16, 16},
    {30, 1, 0, KvFormat::bf16, 64, 0, 1024, 4},
    {18, 6, 512, KvFormat::bf16, 256, 0, 100, 40},
    {18, 0, 64, KvFormat::bf16, 64, 0, 100, 40},
    {18, 0, 64, KvFormat::bf16, 64, 0, 100, 20},
    {30, 1, 0, KvFormat::q4, 64, 64, 500, 100},
    {300, 1, 0, KvFormat::q4, 64, 64, 500, 10},
};

TEST(KvGroups, EveryLayerHasAPlaceOfItsOwnWithinThePages) {
  for (const Case& wanted : kCases) {
    const KvLayout layout = layout_of(wanted);
    SCOPED_TRACE(testing::PrintToString(&wanted - kCases.data()));
    for (const bool early : {false, true}) {
      if (early && layout.start == 0) continue;
      std::set<std::pair<int, std::size_t>> places;
      for (int layer = 0; layer < layout.layers; ++layer) {
        const int slice = layout.slice_of(layer, early);
        const std::size_t offset = layout.k_offset(layer, 0, early);
        EXPECT_TRUE(places.emplace(slice, offset).second);
        EXPECT_LE(offset + layout.layer_bytes(early), layout.page_bytes());
        EXPECT_LT(slice,
                  layout.first_slice(early ? 0 : layout.start / kBlockTokens) + layout.division_of(early).slices);
      }
    }
    EXPECT_LE(layout.division.slices, kMostSlices);
    EXPECT_LE(layout.early.slices, kMostEarlySlices);
  }
}

// What a query sees, by the contract: it must lie in a page that is not given back.
TEST(KvGroups, WhatAQuerySeesIsInTheWindowOrInGroupZero) {
  for (const Case& wanted : kCases) {
    const KvLayout layout = layout_of(wanted);
    SCOPED_TRACE(testing::PrintToString(&wanted - kCases.data()));
    for (int position = 0; position < 2000; position += 7) {
      const int all = wanted.max_size > 0 ? std::max(0, position + 1 - (wanted.max_size - wanted.keep)) : 0;
      const int sliding = wanted.window > 0 ? std::max(0, position + 1 - wanted.window) : 0;
      for (const bool slides : {false, true}) {
        if (slides ? wanted.window == 0 : wanted.sliding_every == 0) continue;
        const int low = slides ? sliding : 0;
        const int begin = std::max(all, low);
        const int first_block = layout.first_seen(position) / kBlockTokens;
        // Of one group without a window nothing goes.
        const bool goes = layout.slides() && (slides || layout.division.full_slices == 0);
        if (!goes) continue;
        EXPECT_LE(first_block, begin / kBlockTokens);
        for (int key = low; key < std::min(wanted.keep, begin); ++key) {
          EXPECT_TRUE(key / kBlockTokens >= first_block || layout.window_pages(key / kBlockTokens) == 0) << position;
        }
      }
    }
  }
}

// Grows as a table does: first room, then a step, then what is out of sight goes.
TEST(KvGroups, PagesForIsWhatAGrowingSequenceNeedsAtMost) {
  for (const Case& wanted : kCases) {
    const KvLayout layout = layout_of(wanted);
    SCOPED_TRACE(testing::PrintToString(&wanted - kCases.data()));
    for (const int rows : {1, 16, 100, 512}) {
      std::uint64_t most = 0;
      int kept_from = 0;
      for (int tokens = rows; tokens <= 4000; tokens += rows) {
        const int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
        std::uint64_t pages = 0;
        for (int block = 0; block < blocks; ++block) {
          pages += static_cast<std::uint64_t>(layout.full_pages(block));
          if (block >= kept_from) pages += static_cast<std::uint64_t>(layout.window_pages(block));
        }
        most = std::max(most, pages);
        EXPECT_LE(most, layout.pages_for(tokens, rows)) << tokens << " tokens by " << rows;
        kept_from = std::max(0, layout.first_seen((tokens / kBlockTokens - 1) * kBlockTokens + 1) / kBlockTokens);
      }
      const std::uint64_t slack = static_cast<std::uint64_t>(5 * layout.most_pages_in_block());
      if (wanted.start == 0) {
        EXPECT_LE(layout.pages_for(4000 / rows * rows, rows), most + slack);
      }
    }
  }
}

TEST(KvGroups, ABoundedSequenceNeedsNoMoreThanWhatItSeesAndAStep) {
  const KvLayout layout = layout_of({30, 1, 0, KvFormat::bf16, 64, 0, 1024, 16});
  EXPECT_EQ(layout.pages_for(1 << 20, 1), layout.pages_for(2000, 1));
  EXPECT_LE(layout.pages_for(1 << 20, 512), (1024 + 512) / kBlockTokens + 4U);
}

TEST(KvGroups, CodesHalveABlockThoughEarlyOnesAreWhole) {
  const KvLayout layout = layout_of({30, 1, 0, KvFormat::q8, 64, 48});
  const KvLayout plain = layout_of({30, 1, 0});
  EXPECT_EQ(layout.full_pages(2), 2);
  EXPECT_EQ(layout.full_pages(3), 1);
  EXPECT_LT(static_cast<double>(layout.block_bytes()), 0.52 * static_cast<double>(plain.block_bytes()));
}

}  // namespace
}  // namespace dalsegno
