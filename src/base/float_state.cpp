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
#elif defined(__aarch64__)
namespace {
constexpr std::uint64_t kFlush = 1U << 24;  // FZ: denormal inputs and results
// RMode: zero is nearest even. DN, AHP, FZ16: NaN, f16 and its denormals as IEEE has them. FIZ, AH, NEP: the behaviour
// of Armv8.7, where AH would decide "below 2^-126" as the contract does; the kernels do that themselves on every CPU.
constexpr std::uint64_t kCleared = 3U << 22 | 1U << 25 | 1U << 26 | 1U << 19 | 7U;

std::uint64_t control() {
  std::uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr)::"memory");
  return fpcr;
}
std::uint64_t flags() {
  std::uint64_t fpsr;
  asm volatile("mrs %0, fpsr" : "=r"(fpsr)::"memory");
  return fpsr;
}
}  // namespace

// Control register below, flags (which the kernels clear) above: 32 bits each.
FloatState::FloatState() : former_(control() | flags() << 32) {
  asm volatile("msr fpcr, %0" ::"r"(((former_ & 0xffffffff) & ~kCleared) | kFlush) : "memory");
}
FloatState::~FloatState() {
  asm volatile("msr fpsr, %0\n\tmsr fpcr, %1" ::"r"(former_ >> 32), "r"(former_ & 0xffffffff) : "memory");
}
#else
#error "FloatState: write the floating-point state of the numerics contract for this CPU"
#endif

}  // namespace dalsegno
