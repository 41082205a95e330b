#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

struct ModelConfig;
class GgufFile;

// What a model is asked to hold room for.
struct ModelLimits {
  int rows = 512;     // most rows of one step
  int positions = 0;  // most tokens of one sequence
};

// The weights and the forward pass of one architecture. It knows no cache: K/V come and go through
// the step's views. Threads: engine thread only.
class Model {
 public:
  virtual ~Model() = default;
  // Runs one step; the sink is called for each of step.logit_rows in order. Rows that failed are in
  // Backend::failed_rows() afterwards.
  virtual void forward(const Step& step, const Backend::LogitSink& sink) = 0;
  // The logits of rows whose hidden states a sink was given, [rows, hidden]: forward()'s last line once more, with the
  // same bits. Requires: no more rows than a step may have.
  virtual void logits_of(std::span<const float> hidden, const Backend::LogitSink& sink) = 0;
};

}  // namespace dalsegno
