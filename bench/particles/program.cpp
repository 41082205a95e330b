#include "particles/program.hpp"

#include <algorithm>
#include <cmath>

#include "tensor/kv_view.hpp"

namespace dalsegno::particles {

int Contexts::after(int context, TokenId token) {
  const auto [at, is_new] = numbers_.try_emplace({context, token}, count());
  if (is_new) {
    depth_.push_back(depth_[static_cast<std::size_t>(context)] + 1);
    continued_.push_back(false);
    continued_[static_cast<std::size_t>(context)] = true;
  }
  return at->second;
}

std::uint64_t Contexts::blocks() const {
  std::uint64_t blocks = 0;
  for (std::size_t i = 1; i < depth_.size(); ++i) blocks += depth_[i] % kBlockTokens == 0 || !continued_[i] ? 1 : 0;
  return blocks;
}

Program::Program(LogprobCache& cache, const std::vector<TokenId>& prompt, const ProgramOptions& options)
    : cache_(cache), options_(options), random_(options.seed) {
  int context = 0;
  for (const TokenId token : prompt) context = contexts_.after(context, token);
  before_ = contexts_.count() - 1;
  particles_.assign(static_cast<std::size_t>(options.particles), {prompt, context, 1});
}

Result<void> Program::run() {
  for (int step = 1;; ++step) {
    std::vector<std::vector<TokenId>> batch;
    for (Particle& particle : particles_) {
      if (step > 1) particle.context = contexts_.after(particle.context, particle.tokens.back());
      batch.push_back(particle.tokens);
    }
    DALSEGNO_ASSIGN(rows, cache_.next_token_logprobs(batch));
    if (step == options_.steps) return {};
    for (std::size_t i = 0; i < particles_.size(); ++i) grow(particles_[i], *rows[i]);
    resample();
  }
}

void Program::grow(Particle& particle, const std::vector<float>& row) {
  const float top = *std::ranges::max_element(row);
  double sum = 0;
  for (const float value : row) sum += std::exp(options_.sharpness * (static_cast<double>(value) - top));
  double left = sum * std::generate_canonical<double, 53>(random_);
  std::size_t token = 0;
  for (; token + 1 < row.size(); ++token) {
    left -= std::exp(options_.sharpness * (static_cast<double>(row[token]) - top));
    if (left < 0) break;
  }
  particle.tokens.push_back(static_cast<TokenId>(token));
  const std::uint64_t potential = (static_cast<std::uint64_t>(particle.context) + 1) * (token + 1) * 7919 % 1000;
  particle.weight *= 0.2 + static_cast<double>(potential) / 1250;
}

void Program::resample() {
  double sum = 0;
  double squares = 0;
  for (const Particle& each : particles_) {
    sum += each.weight;
    squares += each.weight * each.weight;
  }
  if (sum * sum / squares >= 0.5 * options_.particles) return;
  ++resampled_;
  const double each_takes = sum / options_.particles;
  double next = each_takes * std::generate_canonical<double, 53>(random_);
  double reached = 0;
  std::vector<Particle> chosen;
  for (const Particle& each : particles_) {
    reached += each.weight;
    for (; next < reached && chosen.size() < particles_.size(); next += each_takes) {
      chosen.push_back({each.tokens, each.context, 1});
    }
  }
  while (chosen.size() < particles_.size()) chosen.push_back(chosen.back());  // what rounding has left out
  particles_ = std::move(chosen);
}

}  // namespace dalsegno::particles
