#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.hpp"
#include "kernels/kernels.hpp"
#include "tensor/packed.hpp"

namespace dalsegno {

// What the opaque handles of the Backend interface are on the CPU. All memory is an arena's.

struct CpuWeight final : Weight {
  struct Part {
    PackedMatrix matrix;
    int first_column = 0;
  };
  std::vector<Part> parts;
  int n = 0;
  int k = 0;
  int panels = 0;  // of all parts
  // Whether a product reads f32 activations, or their codes; it may be both.
  [[nodiscard]] bool reads_floats() const {
    return std::ranges::any_of(parts, [](const Part& part) { return is_float(part.matrix.format); });
  }
  [[nodiscard]] bool reads_codes() const {
    return std::ranges::any_of(parts, [](const Part& part) { return !is_float(part.matrix.format); });
  }
};

struct CpuVector final : Vector {
  const float* values = nullptr;
  int n = 0;
};

struct CpuBuffer final : Buffer {
  float* values = nullptr;  // [rows, columns]
  int rows = 0;
  int columns = 0;
  [[nodiscard]] float* row(int r) const {
    return values + static_cast<std::size_t>(r) * static_cast<std::size_t>(columns);
  }
};

// f32 values, and their codes where a reader is quantised.
struct CpuActivations final : Activations {
  float* values = nullptr;  // [rows, columns], or beginnings of a buffer's rows
  QuantRows quant;          // empty where no reader needs them
  int columns = 0;
  int stride = 0;  // from row to row, columns where a reader reads f32
  [[nodiscard]] bool quantised() const { return quant.scale != nullptr; }
  [[nodiscard]] float* row(int r) const {
    return values + static_cast<std::size_t>(r) * static_cast<std::size_t>(stride);
  }
};

// cos and sin of every position, filled up to the highest position seen since the backend last gave its buffers back.
struct CpuRope final : RopeTable {
  std::vector<float> frequencies;  // [dims / 2], radians per position, rounded to f32 as models are trained with
  float* cos = nullptr;            // [positions, dims / 2]
  float* sin = nullptr;
  int dims = 0;
  int positions = 0;
  bool interleaved = false;
  mutable int filled = 0;
  mutable std::uint64_t releases = 0;  // of the backend's buffers when it was filled
};

}  // namespace dalsegno
