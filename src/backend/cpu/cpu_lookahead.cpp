#include "backend/cpu/cpu_lookahead.hpp"

#include <algorithm>
#include <utility>

#include "backend/cpu/cpu_products.hpp"

namespace dalsegno {
namespace {

constexpr std::size_t kMostRows = 64;
// Of a layer at most what the caches may hold until its attention.
constexpr std::size_t kMostBytes = 8U << 20;
// Per row, panel and group of k. The tiles of 16 rows fetch 108, of which the next panel takes 40 or 70; with 80 the
// caches lose some before attention reads it, and batches of 16 and 32 were 3 to 10% slower.
constexpr std::size_t kBytesPerRow = 40;

}  // namespace

std::byte* CpuLookahead::Pages::at(std::ptrdiff_t i) const {
  const auto from = static_cast<std::size_t>(std::max<std::ptrdiff_t>(i, 0));
  return from < read.size() ? read[from] : written[from - read.size()];
}

void CpuLookahead::begin(const Step& step) {
  for (std::vector<std::byte*>& pages : pages_) pages.clear();
  left_.count = 0;
  room_ = kMostBytes;
  step_ = step;
  if (std::cmp_less_equal(step.tokens.size(), streaming_rows()) || step.tokens.size() > kMostRows) return;
  for (int slice = 0; slice < step.sequences.front().kv.layout->division.slices; ++slice) list(slice);
}

// The pages of a slice that the step's attention reads, those of early blocks aside, shared ones once; as many of each
// part, in turn. Those that are written to come last, so that they are still near when that happens.
void CpuLookahead::list(int slice) {
  const auto at = static_cast<std::size_t>(slice);
  for (Pages& part : of_part_) {
    part.read.clear();
    part.written.clear();
  }
  const KvView* before = nullptr;
  for (const StepSequence& sequence : step_.sequences) {
    const KvView& kv = sequence.kv;
    const KvLayout& layout = *kv.layout;
    Pages& part = of_part_[static_cast<std::size_t>(sequence.first_row) * parts_ / step_.tokens.size()];
    const bool in_window = slice >= layout.division.full_slices;
    const int first = in_window ? layout.first_seen(sequence.first_position) / kBlockTokens : 0;
    for (int page = 0; page < kv.page_count; ++page) {
      if (page == layout.sink_blocks) page = std::max(page, first);
      if (page >= kv.page_count) break;
      std::byte* const memory = kv.pages[at][page];
      const bool shared = before != nullptr && page < before->page_count && before->pages[at][page] == memory;
      if (memory == nullptr || shared) continue;
      (page < sequence.first_position / kBlockTokens ? part.read : part.written).push_back(memory);
    }
    before = &kv;
  }
  // Where K/V become codes at some position, the sequences of a part may all end before it.
  const Pages& longest = *std::ranges::max_element(of_part_, {}, &Pages::size);
  const std::size_t most = longest.size();
  for (std::size_t i = 0; i < most; ++i) {
    for (const Pages& part : of_part_) {
      const Pages& from = part.size() > 0 ? part : longest;
      const auto missing = static_cast<std::ptrdiff_t>(most - from.size());
      pages_[at].push_back(from.at(static_cast<std::ptrdiff_t>(i) - missing));
    }
  }
}

void CpuLookahead::look(int layer) {
  left_.count = 0;
  const std::size_t room = std::exchange(room_, 0);
  const KvLayout& layout = *step_.sequences.front().kv.layout;
  if (layer >= layout.layers) return;
  const std::vector<std::byte*>& pages = pages_[static_cast<std::size_t>(layout.slice_of(layer))];
  left_.offset = layout.k_offset(layer, 0);
  left_.bytes = layout.layer_bytes();
  // Layers are alike: where the last one's products had no room for all, the first pages are left out.
  const std::size_t most = std::min(room, kMostBytes) / left_.bytes / parts_ * parts_;
  left_.count = static_cast<int>(std::min(pages.size(), most));
  left_.pages = pages.data() + (pages.size() - static_cast<std::size_t>(left_.count));
}

Ahead CpuLookahead::take(int m, const CpuWeight& w) {
  if (!w.reads_codes()) return {};
  const std::size_t room =
      kBytesPerRow * static_cast<std::size_t>(m) * static_cast<std::size_t>(w.panels * (w.k / kGroup));
  room_ += room;
  if (left_.count == 0) return {};
  Ahead taken = left_;
  const std::size_t most = room / left_.bytes / parts_ * parts_;
  taken.count = static_cast<int>(std::min(static_cast<std::size_t>(left_.count), most));
  left_.pages += taken.count;
  left_.count -= taken.count;
  return taken;
}

}  // namespace dalsegno
