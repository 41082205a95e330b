#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "dalsegno/logprobs.hpp"

namespace dalsegno::particles {

// Each context by a number: those asked for, and the beginnings of the prompt.
class Contexts {
 public:
  int after(int context, TokenId token);
  // The empty one included.
  [[nodiscard]] int count() const { return static_cast<int>(depth_.size()); }
  // Of K/V that keep each beginning once: a block for each 16 tokens, and for each end within a block that nothing
  // continues.
  [[nodiscard]] std::uint64_t blocks() const;

 private:
  std::map<std::pair<int, TokenId>, int> numbers_;
  std::vector<int> depth_{0};
  std::vector<bool> continued_{false};
};

struct ProgramOptions {
  int particles = 32;
  int steps = 200;
  double sharpness = 1;  // of the draws: chances are taken to this power
  unsigned seed = 17;
};

// Sequential Monte Carlo on log-probabilities: draws a token for each particle, weights it by a potential of its own,
// and resamples systematically where the effective sample size is below half.
class Program {
 public:
  Program(LogprobCache& cache, const std::vector<TokenId>& prompt, const ProgramOptions& options);
  Result<void> run();

  [[nodiscard]] const Contexts& contexts() const { return contexts_; }
  // Different contexts asked for.
  [[nodiscard]] int asked() const { return contexts_.count() - before_; }
  [[nodiscard]] int resampled() const { return resampled_; }

 private:
  struct Particle {
    std::vector<TokenId> tokens;
    int context = 0;
    double weight = 1;
  };
  void grow(Particle& particle, const std::vector<float>& row);
  void resample();

  LogprobCache& cache_;
  const ProgramOptions options_;
  std::mt19937 random_;
  Contexts contexts_;
  int before_ = 0;  // contexts shorter than the prompt
  int resampled_ = 0;
  std::vector<Particle> particles_;
};

}  // namespace dalsegno::particles
