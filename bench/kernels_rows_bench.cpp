#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/kernels.hpp"
#include "limits.hpp"

// Norms, activations and what else works row by row, per CPU level: bytes read and written per second, beside
// memcpy's speed in the same cache. Each checks its bits against the scalar level before it times anything.
namespace dalsegno {
namespace {

constexpr int kSizes[] = {576, 1536, 18944};

// Inputs and results of one call; `results` is what the levels must agree on.
struct Row {
  explicit Row(int size) : n(size), a(values(size, 1)), b(values(size, 2)), results(static_cast<std::size_t>(size)) {}
  static std::vector<float> values(int size, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> result(static_cast<std::size_t>(size));
    for (float& value : result) value = normal(random);
    return result;
  }
  int n;
  std::vector<float> a;
  std::vector<float> b;
  std::vector<float> results;
};

struct Work {
  const char* name;
  double rows;  // of floats read or written
  void (*run)(const Kernels& kernels, Row& row);
};

void quantise(const Kernels& kernels, Row& row) {
  // Codes, scales and sums lie behind one another in the results: n bytes, then n / 32 words three times.
  auto* codes = reinterpret_cast<std::int8_t*>(row.results.data());
  float* scale = row.results.data() + row.n / 4;
  auto* sum = reinterpret_cast<std::int32_t*>(scale + row.n / 32);
  QuantRows out;
  out.codes = codes;
  out.scale = scale;
  out.sum = sum;
  out.total = scale + 2 * (row.n / 32);
  out.k = row.n;
  benchmark::DoNotOptimize(kernels.quantise(row.a.data(), 0, out));
}

constexpr Work kWork[] = {
    {"rms_norm", 3,
     [](const Kernels& kernels, Row& row) {
       kernels.rms_norm(row.a.data(), row.b.data(), row.n, 1e-5F, row.results.data());
     }},
    {"silu_mul", 3,
     [](const Kernels& kernels, Row& row) { kernels.silu_mul(row.a.data(), row.b.data(), row.n, row.results.data()); }},
    {"quantise", 1.25, quantise},
    {"store_q", 1.5,
     [](const Kernels& kernels, Row& row) {
       kernels.store_q(row.a.data(), row.n, KvFormat::bf16, row.results.data());
     }},
    {"exp_sum", 2,
     [](const Kernels& kernels, Row& row) {
       const float sum = kernels.exp_sum(row.a.data(), row.n - 1, 6.0F, row.results.data());
       row.results.back() = sum;
     }},
};

void measure(benchmark::State& state, const Kernels* kernels, const Work* work) {
  const FloatState float_state;
  Row row(static_cast<int>(state.range(0)));
  Row expected(row.n);
  work->run(*available_kernels().front(), expected);
  work->run(*kernels, row);
  if (std::memcmp(row.results.data(), expected.results.data(), row.results.size() * sizeof(float)) != 0) {
    state.SkipWithError("not the bits of the scalar level");
    return;
  }
  for (auto _ : state) {
    work->run(*kernels, row);
    benchmark::ClobberMemory();
  }
  const double bytes = static_cast<double>(row.n) * work->rows * sizeof(float);
  bench::report(state, "GB/s", bytes, bench::copy_speed(static_cast<std::size_t>(bytes)));
}

void register_all() {
  for (const Kernels* kernels : available_kernels()) {
    for (const Work& work : kWork) {
      const std::string name = std::string(work.name) + "/" + kernels->name + "/n";
      auto* registered = benchmark::RegisterBenchmark(name.c_str(), measure, kernels, &work);
      for (const int size : kSizes) registered->Arg(size);
    }
  }
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  dalsegno::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
