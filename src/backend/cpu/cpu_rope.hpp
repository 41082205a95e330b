#pragma once

#include "backend/backend.hpp"
#include "backend/cpu/cpu_objects.hpp"

namespace dalsegno {

// frequency[i] = f32(base^(-2i/dims)), divided in f32 by its divisor if there are any, times position_scale.
// angle = f32(position) * frequency, rounded to f32 as models are trained with; its sine and
// cosine are computed in double by our own functions and rounded once.
[[nodiscard]] std::vector<float> rope_frequencies(const RopeConfig& config);

// Fills the table for positions below `positions`. Each entry depends on its absolute position alone.
void fill_rope(const CpuRope& rope, int positions);

}  // namespace dalsegno
