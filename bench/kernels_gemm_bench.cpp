#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/kernels.hpp"
#include "limits.hpp"
#include "tensor/packing.hpp"

// Matrix products of one thread, per CPU level, format and shape; the bits are compared with scalar's before
// anything is timed. GOPS counts 2 * m * n * k; GB/s counts the packed weights, which are read once per call.
// Weights are cycled through at least 64 MB of copies for small m, so that they come from memory.
namespace dalsegno {
namespace {

constexpr std::size_t kColdBytes = std::size_t{64} << 20;
constexpr int kColdRows = 64;     // up to here the weights should come from memory
constexpr int kCheckedRows = 16;  // of a product beside the scalar level's

struct Shape {
  int n;
  int k;
};
// SmolLM2-135M: q, k and v; output; gate and up; down; head.
constexpr Shape kShapes[] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}, {49152, 576}};
constexpr PackedFormat kFormats[] = {
    PackedFormat::w8,       PackedFormat::w4,      PackedFormat::w5,  PackedFormat::w4_min, PackedFormat::w4_min32,
    PackedFormat::w5_min32, PackedFormat::w6_half, PackedFormat::f32, PackedFormat::f16,    PackedFormat::bf16};
constexpr const char* kFormatNames[] = {"w8",       "w4",      "w5",  "w4_min", "w4_min32",
                                        "w5_min32", "w6_half", "f32", "f16",    "bf16"};

struct alignas(64) Line {
  std::byte bytes[64];
};

// `copies` random matrices one behind the other.
class Problem {
 public:
  Problem(PackedFormat format, Shape shape, int rows, int activation_bits)
      : bytes_(packed_bytes(format, shape.n, shape.k)),
        copies_(rows <= kColdRows ? static_cast<int>(kColdBytes / bytes_) + 1 : 1),
        weights_(bytes_ / sizeof(Line) * static_cast<std::size_t>(copies_)),
        x_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape.k)),
        codes_(x_.size()),
        codes16_(x_.size()),
        scale_(x_.size() / 32),
        sum_(2 * scale_.size()),
        total_(scale_.size()),
        rows_(rows) {
    const int panels = (shape.n + kPanelColumns - 1) / kPanelColumns;
    matrix_ = {format, shape.n, shape.k, panels, packed_panel_bytes(format, shape.k), nullptr};
    quant_ = {.codes = activation_bits == 8 ? codes_.data() : nullptr,
              .codes16 = activation_bits == 16 ? codes16_.data() : nullptr,
              .scale = scale_.data(),
              .sum = sum_.data(),
              .total = total_.data(),
              .k = shape.k};
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& value : x_) value = normal(random);
    fill(random);
  }

  // The product of the first `rows` rows with copy i, all panels.
  void run(const Kernels& kernels, int rows, int i, std::vector<float>& c) {
    matrix_.data = reinterpret_cast<const std::byte*>(weights_.data()) + bytes_ * static_cast<std::size_t>(i % copies_);
    GemmArgs args;
    args.w = &matrix_;
    args.panel_end = matrix_.panels;
    args.quant = quant_;
    args.x = x_.data();
    args.m = rows;
    args.c = c.data();
    args.c_stride = static_cast<std::size_t>(matrix_.n);
    args.large_l1 = has_large_l1();
    kernels.gemm(args);
  }
  void quantise(const Kernels& kernels) {
    for (int row = 0; row < rows_; ++row) {
      kernels.quantise(x_.data() + static_cast<std::ptrdiff_t>(row) * matrix_.k, row, quant_);
    }
  }
  [[nodiscard]] std::size_t outputs() const {
    return static_cast<std::size_t>(rows_) * static_cast<std::size_t>(matrix_.n);
  }
  [[nodiscard]] double bytes() const { return static_cast<double>(bytes_); }

 private:
  // Random bits with their exponents cut to ordinary sizes: any byte is a code, any word a scale or weight.
  void fill(std::mt19937& random) {
    const bool half = matrix_.format <= PackedFormat::w4_min || matrix_.format == PackedFormat::f16;
    const std::size_t group =
        is_float(matrix_.format) ? 1 : static_cast<std::size_t>(group_layout(matrix_.format).bytes);
    const std::size_t scales =
        is_float(matrix_.format) ? 0 : static_cast<std::size_t>(group_layout(matrix_.format).scale_offset);
    const std::uint32_t mask = half ? 0x83ff83ffU : matrix_.format == PackedFormat::bf16 ? 0x807f807fU : 0x807fffffU;
    const std::uint32_t exponent = half                                   ? 0x18001800U
                                   : matrix_.format == PackedFormat::bf16 ? 0x3f003f00U
                                                                          : 0x3f000000U;
    auto* words = reinterpret_cast<std::uint32_t*>(weights_.data());
    for (std::size_t i = 0; i < weights_.size() * 16; ++i) {
      const auto bits = static_cast<std::uint32_t>(random());
      const bool code = i * 4 % group < scales;
      words[i] = !code ? (bits & mask) | exponent : bits;
    }
  }

  std::size_t bytes_;
  int copies_;
  std::vector<Line> weights_;
  std::vector<float> x_;
  std::vector<std::int8_t> codes_;
  std::vector<std::int16_t> codes16_;
  std::vector<float> scale_;
  std::vector<std::int32_t> sum_;
  std::vector<float> total_;
  int rows_;
  PackedMatrix matrix_;
  QuantRows quant_;
};

void product(benchmark::State& state, const Kernels* kernels, PackedFormat format, Shape shape, int activation_bits) {
  const FloatState float_state;
  const int m = static_cast<int>(state.range(0));
  Problem problem(format, shape, m, activation_bits);
  problem.quantise(*kernels);
  std::vector<float> c(problem.outputs());
  std::vector<float> expected(c.size());
  const Kernels& scalar = *available_kernels().front();
  const int checked = std::min(m, kCheckedRows);
  problem.run(scalar, checked, 0, expected);
  problem.run(*kernels, m, 0, c);
  const std::size_t bytes = static_cast<std::size_t>(checked) * static_cast<std::size_t>(shape.n) * sizeof(float);
  if (std::memcmp(c.data(), expected.data(), bytes) != 0) {
    state.SkipWithError("not the bits of the scalar level");
    return;
  }
  int i = 0;
  for (auto _ : state) {
    problem.run(*kernels, m, i++, c);
    benchmark::ClobberMemory();
  }
  // 16-bit activations are two products of 8 bits each.
  const double operations = 2.0 * m * shape.n * shape.k;
  const double peak = is_float(format) ? bench::peak(kernels->peak_bf16) : bench::peak(kernels->peak_int8);
  if (m <= kColdRows) {
    bench::report(state, "GB/s", problem.bytes(), bench::read_speed());
  } else {
    bench::report(state, "GOPS", operations, activation_bits == 16 && !is_float(format) ? peak / 2 : peak);
  }
}

void quantisation(benchmark::State& state, const Kernels* kernels, int activation_bits) {
  const FloatState float_state;
  const int m = static_cast<int>(state.range(0));
  Problem problem(PackedFormat::w4, {32, 576}, m, activation_bits);
  for (auto _ : state) {
    problem.quantise(*kernels);
    benchmark::ClobberMemory();
  }
  state.counters["Gvalues/s"] = benchmark::Counter(576e-9 * m, benchmark::Counter::kIsIterationInvariantRate);
}

// Bytes of a GGUF file per second, one thread; the panels stay in cache-sized pieces of memory already touched.
void packing(benchmark::State& state, TensorType type) {
  const Shape shape = {3072, 1536};
  const TensorTypeTraits& blocks = traits(type);
  const std::size_t bytes = static_cast<std::size_t>(shape.n) *
                            static_cast<std::size_t>(shape.k / blocks.block_elements) *
                            static_cast<std::size_t>(blocks.block_bytes);
  const std::vector<std::byte> source(bytes, std::byte{0x11});
  std::vector<Line> out(packed_bytes(packed_format(type), shape.n, shape.k) / sizeof(Line));
  for (auto _ : state) {
    benchmark::DoNotOptimize(pack_panels(type, source.data(), shape.n, shape.k, 0, shape.n / kPanelColumns,
                                         reinterpret_cast<std::byte*>(out.data())));
  }
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(bytes) * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

// "gemm/avx2/..." and, with 16-bit activations, "gemm16/avx2/...".
const char* suffix(int activation_bits) {
  return activation_bits == 16 ? "16/" : "/";
}

void register_product(const Kernels* kernels, PackedFormat format, Shape shape, int activation_bits) {
  const std::string name = std::string("gemm") + suffix(activation_bits) + kernels->name + "/" +
                           kFormatNames[static_cast<int>(format)] + "/" + std::to_string(shape.n) + "x" +
                           std::to_string(shape.k) + "/m";
  benchmark::RegisterBenchmark(name.c_str(), product, kernels, format, shape, activation_bits)
      ->Arg(1)
      ->Arg(4)
      ->Arg(6)
      ->Arg(8)
      ->Arg(12)
      ->Arg(32)
      ->Arg(64)
      ->Arg(512);
}

void register_all() {
  for (const Kernels* kernels : available_kernels()) {
    for (const PackedFormat format : kFormats) {
      for (const Shape& shape : kShapes) {
        register_product(kernels, format, shape, 8);
        if (!is_float(format)) register_product(kernels, format, shape, 16);
      }
    }
    for (const int bits : {8, 16}) {
      benchmark::RegisterBenchmark((std::string("quantise") + suffix(bits) + kernels->name + "/m").c_str(),
                                   quantisation, kernels, bits)
          ->Arg(64);
    }
  }
  for (const TensorType type :
       {TensorType::q8_0, TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::iq4_nl,
        TensorType::q4_k, TensorType::q5_k, TensorType::q6_k, TensorType::f16, TensorType::f32}) {
    benchmark::RegisterBenchmark((std::string("pack/") + traits(type).name).c_str(), packing, type);
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
