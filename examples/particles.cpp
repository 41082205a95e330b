// particles MODEL: 32 particles continue one prompt (a particle filter). The proposal is the model's distribution
// flattened; weights correct for that. Where the effective sample size falls below half, they are resampled
// systematically. Equal contexts run the model once, and what contexts share is computed once.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "dalsegno/logprobs.hpp"

namespace {

using dalsegno::Result;
using dalsegno::TokenId;

constexpr std::size_t kParticles = 32;
constexpr int kSteps = 16;
constexpr double kFlatten = 0.7;  // the proposal is p to this power, normalised

std::vector<double> normalised(const std::vector<double>& log_weights) {
  const double top = *std::max_element(log_weights.begin(), log_weights.end());
  std::vector<double> weights;
  double sum = 0;
  for (const double w : log_weights) sum += weights.emplace_back(std::exp(w - top));
  for (double& w : weights) w /= sum;
  return weights;
}

// One draw places all: particle i goes on from the ancestor whose cumulated weight covers (u + i) / n.
std::vector<std::size_t> systematic(const std::vector<double>& weights, double u) {
  std::vector<std::size_t> ancestors;
  double cumulated = weights[0];
  for (std::size_t i = 0, at = 0; i < weights.size(); ++i) {
    while ((u + static_cast<double>(i)) / static_cast<double>(weights.size()) > cumulated && at + 1 < weights.size())
      cumulated += weights[++at];
    ancestors.push_back(at);
  }
  return ancestors;
}

Result<void> show(const std::string& model) {
  dalsegno::EngineOptions options;
  options.model_path = model;
  DALSEGNO_ASSIGN(engine, dalsegno::Engine::open(options));
  DALSEGNO_ASSIGN(logprobs, dalsegno::LogprobCache::create(*engine));
  DALSEGNO_ASSIGN(prompt, engine->tokenizer().encode("Once upon a time", {.bos = true}));
  DALSEGNO_TRY(logprobs->cache_kv(prompt));

  std::mt19937_64 random(1);
  std::vector<std::vector<TokenId>> particles(kParticles, prompt);
  std::vector<double> log_weights(kParticles, 0.0);
  int resampled = 0;
  for (int step = 0; step < kSteps; ++step) {
    DALSEGNO_ASSIGN(rows, logprobs->next_token_logprobs(particles));
    for (std::size_t i = 0; i < kParticles; ++i) {
      std::vector<double> proposal;
      for (const float logprob : *rows[i]) proposal.push_back(kFlatten * static_cast<double>(logprob));
      proposal = normalised(proposal);
      const int token = std::discrete_distribution<int>(proposal.begin(), proposal.end())(random);
      log_weights[i] += static_cast<double>((*rows[i])[token]) - std::log(proposal[token]);
      particles[i].push_back(token);
    }
    const std::vector<double> weights = normalised(log_weights);
    double squares = 0;
    for (const double w : weights) squares += w * w;
    if (1 / squares >= kParticles / 2.0) continue;  // the effective sample size
    const auto before = particles;
    const auto ancestors = systematic(weights, std::uniform_real_distribution<>(0, 1)(random));
    for (std::size_t i = 0; i < kParticles; ++i) particles[i] = before[ancestors[i]];
    std::fill(log_weights.begin(), log_weights.end(), 0.0);
    ++resampled;
  }
  const dalsegno::LogprobStats stats = logprobs->stats();
  DALSEGNO_ASSIGN(text, engine->tokenizer().decode(particles.front()));
  std::printf("%s\n%d resamplings; %llu queries, of which the model ran %llu\n", text.c_str(), resampled,
              static_cast<unsigned long long>(stats.queries), static_cast<unsigned long long>(stats.computed));
  if (stats.computed >= stats.queries) return dalsegno::Error{.message = "no query was answered from the cache"};
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Result<void> done = argc == 2 ? show(argv[1]) : dalsegno::Error{.message = "usage: particles MODEL.gguf"};
  if (done.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", done.error().message.c_str());
  return 1;
}
