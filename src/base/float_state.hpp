#pragma once

#include <cstdint>

namespace dalsegno {

// Sets the floating-point state of the numerics contract for the calling thread and
// restores the former one when it goes: round to nearest even; denormal inputs count as
// zero and results below 2^-126 (after rounding) become zero. Costs a few cycles: once per
// dispatch, never per row.
class FloatState {
 public:
  FloatState();
  ~FloatState();
  FloatState(const FloatState&) = delete;
  FloatState& operator=(const FloatState&) = delete;

 private:
  std::uint64_t former_;
};

}  // namespace dalsegno
