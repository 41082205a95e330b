#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "backend/backend.hpp"
#include "backend/cpu/cpu_objects.hpp"

namespace dalsegno {

// Which K/V the products between two attentions prefetch. Products of few rows more than streaming_rows() leave memory
// idle, while the attention that follows waits for it; with fewer rows they use all of memory's speed themselves, and
// with many attention is bound by arithmetic as well.
// Each part of the pool gets the pages of its own rows, which it is most likely to attend to.
// Threads: one caller at a time.
class CpuLookahead {
 public:
  explicit CpuLookahead(int parts) : parts_(static_cast<std::size_t>(parts)), of_part_(parts_) {}

  void begin(const Step& step);
  // Before the products in front of the attention of `layer`; a layer the model does not have means none.
  void look(int layer);
  // What of it a product of m rows by w fetches; the rest is left for the products to come.
  Ahead take(int m, const CpuWeight& w);

 private:
  void list(int slice);

  struct Pages {
    std::vector<std::byte*> read;
    std::vector<std::byte*> written;  // of blocks that the step writes to
    [[nodiscard]] std::size_t size() const { return read.size() + written.size(); }
    // As if read and written were one list, its first page repeated before it. Requires: size() > 0.
    [[nodiscard]] std::byte* at(std::ptrdiff_t i) const;
  };

  const std::size_t parts_;
  Step step_;
  std::array<std::vector<std::byte*>, kMostSlices> pages_;  // of all parts in turn
  std::vector<Pages> of_part_;                              // of one slice
  Ahead left_;                                              // of the present layer
  std::size_t room_ = 0;                                    // bytes: what the products since look() could have fetched
};

}  // namespace dalsegno
