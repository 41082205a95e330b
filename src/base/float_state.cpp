#include "base/float_state.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace dalsegno {

#if defined(__x86_64__)
namespace {
constexpr std::uint32_t kRounding = 0x6000;               // both bits zero: nearest even
constexpr std::uint32_t kFlushAndDenormalsZero = 0x8040;  // FTZ | DAZ
}  // namespace

FloatState::FloatState() : former_(_mm_getcsr()) {
  _mm_setcsr((static_cast<std::uint32_t>(former_) & ~kRounding) | kFlushAndDenormalsZero);
}
FloatState::~FloatState() {
  _mm_setcsr(static_cast<std::uint32_t>(former_));
}
#else
#error "FloatState: write the floating-point state of the numerics contract for this CPU"
#endif

}  // namespace dalsegno
