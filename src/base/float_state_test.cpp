#include "base/float_state.hpp"

#include <gtest/gtest.h>

#include <cfenv>

namespace dalsegno {
namespace {

// Computed when the test runs, whatever the compiler knows.
float product(float x, float y) {
  const volatile float a = x;
  const volatile float b = y;
  return a * b;
}

TEST(FloatState, FlushesAndGivesTheFormerStateBack) {
  EXPECT_EQ(product(0x1p-126F, 0.5F), 0x1p-127F);
  {
    const FloatState outer;
    EXPECT_EQ(product(0x1p-126F, 0.5F), 0.0F) << "a result";
    EXPECT_EQ(product(0x1p-130F, 0x1p10F), 0.0F) << "an input";
    { const FloatState inner; }
    EXPECT_EQ(product(0x1p-126F, 0.5F), 0.0F);
  }
  EXPECT_EQ(product(0x1p-126F, 0.5F), 0x1p-127F);
}

TEST(FloatState, RoundsToNearestWhateverWasSet) {
  ASSERT_EQ(std::fesetround(FE_UPWARD), 0);
  const float upward = product(1.0F + 0x1p-23F, 1.0F + 0x1p-23F);
  float nearest = 0;
  {
    const FloatState state;
    nearest = product(1.0F + 0x1p-23F, 1.0F + 0x1p-23F);
  }
  EXPECT_EQ(std::fegetround(), FE_UPWARD);
  std::fesetround(FE_TONEAREST);
  EXPECT_EQ(upward, 1.0F + 3 * 0x1p-23F);
  EXPECT_EQ(nearest, 1.0F + 2 * 0x1p-23F);
}

}  // namespace
}  // namespace dalsegno
