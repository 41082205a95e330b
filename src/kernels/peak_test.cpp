#include <gtest/gtest.h>

#include "base/float_state.hpp"
#include "kernels/kernels.hpp"
#include "kernels/self_check.hpp"

namespace dalsegno {
namespace {

TEST(Peak, EachLevelReturnsTheOperationsItDid) {
  const FloatState state;
  for (const Kernels* level : runnable_kernels()) {
    for (const auto peak : {level->peak_int8, level->peak_bf16}) {
      const std::uint64_t one = peak(1);
      EXPECT_GE(one, 32U) << level->name;
      EXPECT_EQ(peak(0), 0U) << level->name;
      for (const int rounds : {2, 3, 1000, kMostPeakRounds}) {
        EXPECT_EQ(peak(rounds), one * static_cast<std::uint64_t>(rounds)) << level->name;
      }
    }
  }
}

}  // namespace
}  // namespace dalsegno
