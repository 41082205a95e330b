#pragma once

#include <span>

#include "kernels/kernels.hpp"

namespace dalsegno {

// Runs every function of a table on a few fixed inputs, values next to 2^-126 among them, and compares
// the bits of the results with stored ones: a CPU, libm or compiler that rounds otherwise is noticed
// before it can spoil a cache. Returns the name of the first function that differs, or nullptr.
// Sets the floating-point state itself. Cost: about 0.2 ms (scalar), less elsewhere.
[[nodiscard]] const char* failed_check(const Kernels& kernels);

// Every level whose instructions this machine has, checked or not, lowest first: what tests compare,
// so that a level that gives other bits fails there and is not quietly left out.
[[nodiscard]] std::span<const Kernels* const> runnable_kernels();

}  // namespace dalsegno
