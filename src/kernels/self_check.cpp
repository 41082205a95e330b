#include "kernels/self_check.hpp"

#include <cstring>
#include <vector>

#include "base/float_state.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

// FNV-1a over the bytes of results.
class Digest {
 public:
  template <class T>
  void add(const T* values, std::size_t count) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values);
    for (std::size_t i = 0; i < count * sizeof(T); i++) value_ = (value_ ^ bytes[i]) * 0x100000001b3;
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(values.data(), values.size());
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325;
};

// Fixed pseudo-random inputs (splitmix64), the same on every machine.
class Inputs {
 public:
  explicit Inputs(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Any sign and significand, exponent in [low, high]; -127 gives denormals.
  float value(int low, int high) {
    const auto span = static_cast<std::uint64_t>(high - low + 1);
    const auto exponent = static_cast<std::uint32_t>(low + 127 + static_cast<int>(bits() % span));
    const std::uint32_t word = (static_cast<std::uint32_t>(bits()) & 0x807fffff) | exponent << 23;
    float result;
    std::memcpy(&result, &word, sizeof result);
    return result;
  }
  std::vector<float> values(int count, int low, int high) {
    std::vector<float> result(static_cast<std::size_t>(count));
    for (float& x : result) x = value(low, high);
    return result;
  }

 private:
  std::uint64_t state_;
};

// Memory for `rows` rows of k activations.
template <class Code>
struct Quantised {
  static constexpr bool kWide = sizeof(Code) == 2;
  std::vector<Code> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
  std::vector<float> totals;
  QuantRows rows;

  Quantised(int count, int k)
      : codes(static_cast<std::size_t>(count * k)),
        scales(codes.size() / kGroup),
        sums((kWide ? 2 : 1) * scales.size()),
        totals(scales.size()) {
    rows.scale = scales.data();
    rows.sum = sums.data();
    rows.total = totals.data();
    rows.k = k;
    if constexpr (kWide) rows.codes16 = codes.data();
    if constexpr (!kWide) rows.codes = codes.data();
  }
};

template <class Code>
void check_quantise(const Kernels& kernels, Digest& digest) {
  constexpr int kRow = 96;
  Inputs inputs(1);
  const Quantised<Code> out(1, kRow);
  for (int low : {-20, -4, sizeof(Code) == 2 ? -114 : -122, -127}) {  // the third: scales about 2^-126
    auto x = inputs.values(kRow, low, low + 4);
    if (low == -20) x[40] = __builtin_inff();
    const bool finite = kernels.quantise(x.data(), 0, out.rows);
    digest.add(&finite, 1);
    digest.add(out.codes);
    digest.add(out.scales);
    digest.add(out.sums);
  }
}

// One packed matrix of random codes with sane scales. halves: byte offsets of the f16 values in a block.
struct Weights {
  TensorType type;
  int k;
  std::vector<int> halves;
};

const std::vector<Weights>& all_weights() {
  static const std::vector<Weights> weights = {
      {TensorType::q8_0, 64, {0}},     {TensorType::q4_0, 64, {0}},    {TensorType::q4_1, 64, {0, 2}},
      {TensorType::q4_k, 256, {0, 2}}, {TensorType::q5_1, 64, {0, 2}}, {TensorType::q6_k, 256, {208}},
      {TensorType::f16, 8, {}},        {TensorType::bf16, 8, {}},      {TensorType::f32, 8, {}},
  };
  return weights;
}

constexpr int kOutputs = 35;  // a whole panel and a part of one

struct Aligned {
  std::vector<std::byte> bytes;
  std::byte* data;
  explicit Aligned(std::size_t size) : bytes(size + 63) {
    const auto at = reinterpret_cast<std::uintptr_t>(bytes.data());
    data = bytes.data() + ((at + 63) / 64 * 64 - at);
  }
};

PackedMatrix pack(const Weights& weights, Inputs& inputs, Aligned& memory) {
  const TensorTypeTraits& block = traits(weights.type);
  const auto block_bytes = static_cast<std::size_t>(block.block_bytes);
  std::vector<std::byte> source(static_cast<std::size_t>(kOutputs * weights.k / block.block_elements) * block_bytes);
  for (std::byte& b : source) b = static_cast<std::byte>(inputs.bits());
  for (std::size_t at = 0; at < source.size(); at += block_bytes) {
    for (int half : weights.halves) source[at + static_cast<std::size_t>(half) + 1] &= std::byte{0xbf};
    // floats: an exponent far from infinity
    if (weights.halves.empty()) source[at + block_bytes - 1] &= std::byte{0xbf};
  }
  const PackedFormat format = packed_format(weights.type);
  PackedMatrix matrix{.format = format,
                      .n = kOutputs,
                      .k = weights.k,
                      .panels = 2,
                      .panel_bytes = packed_panel_bytes(format, weights.k),
                      .data = memory.data};
  pack_panels(weights.type, source.data(), kOutputs, weights.k, 0, 2, memory.data);
  return matrix;
}

template <class Code>
void check_gemm(const Kernels& kernels, Digest& digest) {
  constexpr int kRows = 2;
  Inputs inputs(2);
  for (const Weights& weights : all_weights()) {
    if (sizeof(Code) == 2 && weights.halves.empty()) continue;  // floats: checked already
    Aligned memory(packed_bytes(packed_format(weights.type), kOutputs, weights.k));
    const PackedMatrix matrix = pack(weights, inputs, memory);
    const auto x = inputs.values(kRows * weights.k, -6, 2);
    const Quantised<Code> quant(kRows, weights.k);
    for (int m = 0; m < kRows && !is_float(matrix.format); m++) {
      kernels.quantise(x.data() + m * weights.k, m, quant.rows);
    }
    const auto bias = inputs.values(kOutputs, -6, 2);
    auto c = inputs.values(kRows * kOutputs, -6, 2);
    kernels.gemm({.w = &matrix,
                  .panel_begin = 0,
                  .panel_end = 2,
                  .quant = quant.rows,
                  .x = x.data(),
                  .m = kRows,
                  .c = c.data(),
                  .c_stride = kOutputs,
                  .bias = bias.data(),
                  .add = true});
    digest.add(c);
  }
}

void check_embed_row(const Kernels& kernels, Digest& digest) {
  Inputs inputs(3);
  for (const Weights& weights : all_weights()) {
    Aligned memory(packed_bytes(packed_format(weights.type), kOutputs, weights.k));
    const PackedMatrix matrix = pack(weights, inputs, memory);
    std::vector<float> row(static_cast<std::size_t>(weights.k));
    kernels.embed_row(matrix, kOutputs - 1, row.data());
    digest.add(row);
  }
}

void check_rms_norm(const Kernels& kernels, Digest& digest) {
  Inputs inputs(4);
  for (int n = 17; n < 49; n++) {
    const int low = n % 8 == 0 ? -70 : -3;
    auto x = inputs.values(n, low, low + 6);
    const auto w = inputs.values(n, -3, 1);
    kernels.rms_norm(x.data(), w.data(), n, 1e-5F, x.data());
    digest.add(x);
  }
}

void check_scale(const Kernels& kernels, Digest& digest) {
  Inputs inputs(5);
  auto x = inputs.values(77, -127, 3);
  kernels.scale(x.data(), 77, 0x1.fffffep-1F);
  digest.add(x);
}

void check_add(const Kernels& kernels, Digest& digest) {
  Inputs inputs(6);
  auto x = inputs.values(77, -127, -110);
  const auto y = inputs.values(77, -127, -110);
  kernels.add(x.data(), y.data(), 77);
  digest.add(x);
}

void check_silu_mul(const Kernels& kernels, Digest& digest) {
  Inputs inputs(7);
  const auto gate = inputs.values(210, -10, 7);
  const auto up = inputs.values(210, -10, 7);
  std::vector<float> out(210);
  kernels.silu_mul(gate.data(), up.data(), 210, out.data());
  digest.add(out);
}

void check_gelu_mul(const Kernels& kernels, Digest& digest) {
  Inputs inputs(15);
  const auto gate = inputs.values(210, -10, 4);
  const auto up = inputs.values(210, -10, 7);
  std::vector<float> out(210);
  kernels.gelu_mul(gate.data(), up.data(), 210, out.data());
  digest.add(out);
}

void check_rope(const Kernels& kernels, Digest& digest) {
  constexpr int kDims = 76;
  Inputs inputs(8);
  for (bool interleaved : {false, true}) {
    auto x = inputs.values(kDims, -6, 2);
    auto cos = inputs.values(kDims / 2, -6, -1);
    auto sin = inputs.values(kDims / 2, -6, -1);
    // The second result is 2^-126 - 2^-151, which rounds to 2^-126 and so must not be flushed.
    x[0] = -0x1p-75F;
    x[interleaved ? 1 : kDims / 2] = 0x1p-126F;
    cos[0] = 1.0F;
    sin[0] = 0x1p-76F;
    kernels.rope(x.data(), kDims, cos.data(), sin.data(), interleaved);
    digest.add(x);
  }
}

void check_store_q(const Kernels& kernels, Digest& digest) {
  Inputs inputs(9);
  for (KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
    const auto q = inputs.values(83, -127, 127);
    std::vector<float> out(83);
    kernels.store_q(q.data(), 83, format, out.data());
    digest.add(out);
  }
}

using Store = bool (*)(const float*, int, KvFormat, std::byte*, int);

void check_store(Store store, std::uint64_t seed, Digest& digest) {
  constexpr int kDim = 48;
  Inputs inputs(seed);
  for (KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
    std::vector<std::uint32_t> part(kBlockTokens * kDim);
    for (int slot = 0; slot < kBlockTokens; slot++) {
      auto row = inputs.values(kDim, slot < 3 ? -127 : -10, slot < 3 ? -124 : 3);
      if (slot == 5) row[7] = __builtin_inff();
      if (slot == 6) row[8] = __builtin_nanf("");
      if (slot == 7) row[9] = 0x1.fffffep127F;  // infinite in bf16
      const bool finite = store(row.data(), kDim, format, reinterpret_cast<std::byte*>(part.data()), slot);
      digest.add(&finite, 1);
    }
    digest.add(part);
  }
}

void check_store_k(const Kernels& kernels, Digest& digest) {
  check_store(kernels.store_k, 10, digest);
}
void check_store_v(const Kernels& kernels, Digest& digest) {
  check_store(kernels.store_v, 11, digest);
}

// Codes of both widths, in a group of the head and in a smaller last one.
void check_codes(const Kernels& kernels, bool load, std::uint64_t seed, Digest& digest) {
  constexpr int kHead = 80;
  Inputs inputs(seed);
  for (KvFormat format : {KvFormat::q8, KvFormat::q4}) {
    for (KvPart kind : {KvPart::keys, KvPart::values}) {
      const KvCodes codes = kv_codes(format, kHead, kind == KvPart::keys ? 64 : 0);
      std::vector<std::byte> part(codes.bytes);
      for (int slot = 0; slot < kBlockTokens; slot++) {
        const int low = slot < 3 ? -127 : slot < 6 ? 120 : -10;
        auto row = inputs.values(kHead, low, low + 6);
        if (slot == 7) row[7] = __builtin_inff();
        if (slot == 8) row[70] = __builtin_nanf("");
        if (slot == 9) row[9] = 0x1p127F;
        const bool fits = kernels.store_codes(row.data(), codes, kind, part.data(), slot);
        if (!load) digest.add(&fits, 1);
      }
      std::vector<std::uint16_t> values(kBlockTokens * kHead);
      kernels.load_codes(part.data(), codes, kind, nullptr, reinterpret_cast<std::byte*>(values.data()));
      if (load) digest.add(values);
      if (!load) digest.add(part);
    }
  }
}

void check_hadamard(const Kernels& kernels, Digest& digest) {
  Inputs inputs(17);
  for (int n : {16, 96, 256}) {
    for (int low : {-10, -127}) {
      auto x = inputs.values(n, low, low + 6);
      kernels.hadamard(x.data(), n, low == -10 ? 1.0F : 0.25F);
      digest.add(x);
    }
  }
}

void check_store_codes(const Kernels& kernels, Digest& digest) {
  check_codes(kernels, false, 15, digest);
}
void check_load_codes(const Kernels& kernels, Digest& digest) {
  check_codes(kernels, true, 16, digest);
}

constexpr int kDim = 16;
constexpr int kKeys = 260;  // a chunk and a little of the next
constexpr int kQueries = 18;
constexpr int kBlocks = (kKeys + kBlockTokens - 1) / kBlockTokens;

// K and V of kKeys tokens in pages of one part each.
struct Pages {
  KvLayout layout;
  std::vector<std::byte> memory;
  std::vector<std::byte*> pages;
};

Pages make_pages(const Kernels& kernels, KvFormat format, Inputs& inputs) {
  Pages result{.layout = {.format = format, .layers = 1, .kv_heads = 1, .head_dim = kDim}, .memory = {}, .pages = {}};
  result.memory.resize(result.layout.page_bytes() * kBlocks);
  for (int b = 0; b < kBlocks; b++) {
    result.pages.push_back(result.memory.data() + static_cast<std::size_t>(b) * result.layout.page_bytes());
  }
  for (int key = 0; key < kKeys; key++) {
    const auto k = inputs.values(kDim, -4, 0);
    auto v = inputs.values(kDim, -4, 0);
    // Half of the values are so small that the flush decides: p * v next to 2^-126.
    for (int d = 0; d < kDim / 2; d++) v[static_cast<std::size_t>(d)] = inputs.value(-126, -122);
    std::byte* page = result.pages[static_cast<std::size_t>(key / kBlockTokens)];
    kernels.store_k(k.data(), kDim, format, page, key % kBlockTokens);
    kernels.store_v(v.data(), kDim, format, page + result.layout.part_bytes(), key % kBlockTokens);
  }
  return result;
}

void attend_all(const Kernels& kernels, KvFormat format, Digest& digest) {
  Inputs inputs(12);
  const Pages pages = make_pages(kernels, format, inputs);
  const auto q = inputs.values(kQueries * kDim, -2, 2);
  std::vector<float> stored(q.size());
  kernels.store_q(q.data(), kQueries * kDim, format, stored.data());
  std::int32_t begin[kQueries];
  std::int32_t end[kQueries];
  for (int i = 0; i < kQueries; i++) {
    begin[i] = i % 6 == 2 ? 100 : i % 6 == 5 ? 250 : 0;
    end[i] = i == 0 ? 1 : i % 6 == 1 ? 101 : i % 6 == 2 ? 170 : kKeys - i % 3;
  }
  alignas(64) float o[2][kQueries][kDim];
  AttentionState states[2][kQueries];
  for (int chunk = 0; chunk < 2; chunk++) {
    for (int i = 0; i < kQueries; i++) states[chunk][i].o = o[chunk][i];
    kernels.attend({.format = format,
                    .head_dim = kDim,
                    .pages = pages.pages.data(),
                    .page_count = kBlocks,
                    .k_offset = 0,
                    .v_offset = pages.layout.part_bytes(),
                    .q = stored.data(),
                    .q_stride = kDim,
                    .rows = kQueries,
                    .begin = begin,
                    .end = end,
                    .chunk = chunk,
                    .scale = 0.11F,
                    .out = states[chunk]});
  }
  for (int i = 0; i < kQueries; i++) {
    const AttentionState& total = states[0][i];
    digest.add(&total.l, 1);
    kernels.merge(states[0][i], states[1][i], kDim);
    digest.add(&total.m, 1);
    digest.add(&total.l, 1);
    float out[kDim];
    kernels.finish(total, kDim, out);
    digest.add(out, kDim);
  }
}

void check_attend(const Kernels& kernels, Digest& digest) {
  attend_all(kernels, KvFormat::bf16, digest);
  attend_all(kernels, KvFormat::f32, digest);
}

void check_exp_sum(const Kernels& kernels, Digest& digest) {
  Inputs inputs(13);
  auto x = inputs.values(203, -20, 6);
  for (float& value : x) value = value > 0 ? -value : value;
  x[3] = -__builtin_inff();
  std::vector<float> out(x.size());
  const float sum = kernels.exp_sum(x.data(), 203, 0.0F, out.data());
  digest.add(&sum, 1);
  digest.add(out);
}

void check_all_finite(const Kernels& kernels, Digest& digest) {
  Inputs inputs(14);
  auto x = inputs.values(37, -127, 127);
  for (int at = -1; at < 37; at++) {
    if (at >= 0) x[static_cast<std::size_t>(at)] = at % 2 == 0 ? __builtin_inff() : __builtin_nanf("");
    const bool finite = kernels.all_finite(x.data(), 37);
    digest.add(&finite, 1);
    if (at >= 0) x[static_cast<std::size_t>(at)] = 1.0F;
  }
}

// Exact results in [2^-126 - 2^-151, 2^-126), which are 2^-126, and just below, which are 0. A CPU that decides "below
// 2^-126" before rounding gives 0 for both unless its level sees to it.
constexpr float kOnEdge[2] = {1.0F - 0x1p-13F, 1.0F + 0x1p-13F};  // their product is 1 - 2^-26

void check_scale_at_edge(const Kernels& kernels, Digest& digest) {
  float x[37];
  for (int i = 0; i < 37; i++) x[i] = (kOnEdge[0] + static_cast<float>(i % 5 - 2) * 0x1p-24F) * 0x1p-60F;
  kernels.scale(x, 37, -kOnEdge[1] * 0x1p-66F);
  digest.add(x, 37);
}

void check_gemm_at_edge(const Kernels& kernels, Digest& digest) {
  constexpr int kRows = 5;
  // 2^-126 and then a term that leaves less of it.
  alignas(64) float weights[2][kPanelColumns];
  float x[kRows][2];
  for (int i = 0; i < kPanelColumns; i++) {
    weights[0][i] = 0x1p-60F;
    weights[1][i] = i % 2 == 0 ? -0x1p-76F : -0x1p-75F;
  }
  for (auto& row : x) {
    row[0] = 0x1p-66F;
    row[1] = 0x1p-75F;
  }
  const PackedMatrix floats{.format = PackedFormat::f32,
                            .n = kPanelColumns,
                            .k = 2,
                            .panels = 1,
                            .panel_bytes = sizeof weights,
                            .data = reinterpret_cast<const std::byte*>(weights)};
  float c[kRows * kPanelColumns];
  kernels.gemm(
      {.w = &floats, .panel_begin = 0, .panel_end = 1, .quant = {}, .x = x[0], .m = kRows, .c = c, .c_stride = 32});
  digest.add(c, kRows * kPanelColumns);

  // Products of scales; every code and every activation is 1.
  constexpr GroupLayout kLayout = group_layout(PackedFormat::w5_min32);
  Aligned memory(static_cast<std::size_t>(kLayout.bytes));
  std::memset(memory.data, 0x11, kLayout.upper_offset);
  std::memset(memory.data + kLayout.upper_offset, 0,
              static_cast<std::size_t>(kLayout.scale_offset - kLayout.upper_offset));
  auto* scales = reinterpret_cast<float*>(memory.data + kLayout.scale_offset);
  for (int i = 0; i < 2 * kPanelColumns; i++) scales[i] = (i % 3 == 0 ? kOnEdge[0] : 1.0F - 0x1p-12F) * 0x1p-60F;
  const PackedMatrix matrix{.format = PackedFormat::w5_min32,
                            .n = kPanelColumns,
                            .k = kGroup,
                            .panels = 1,
                            .panel_bytes = static_cast<std::size_t>(kLayout.bytes),
                            .data = memory.data};
  std::int8_t codes[kRows * kGroup];
  std::memset(codes, 1, sizeof codes);
  float row_scales[kRows];
  std::int32_t sums[kRows];
  float totals[kRows];
  for (int i = 0; i < kRows; i++) {
    row_scales[i] = kOnEdge[1] * 0x1p-66F;
    sums[i] = 16 << 16 | 16;
    totals[i] = 32;
  }
  kernels.gemm({.w = &matrix,
                .panel_begin = 0,
                .panel_end = 1,
                .quant = {.codes = codes, .scale = row_scales, .sum = sums, .total = totals, .k = kGroup},
                .m = kRows,
                .c = c,
                .c_stride = kPanelColumns});
  digest.add(c, kRows * kPanelColumns);
}

// A probability of 2^-26 takes less than half a step of 2^-149 from an output of 2^-126; merging takes as little.
void check_attend_at_edge(const Kernels& kernels, Digest& digest) {
  for (KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
    const KvLayout layout{.format = format, .layers = 1, .kv_heads = 1, .head_dim = kDim};
    std::vector<std::byte> page(layout.page_bytes());
    std::byte* pages[] = {page.data()};
    for (int key : {0, 2}) {
      const std::vector<float> v(kDim, key == 0 ? 0x1p-126F : -0x1p-126F);
      std::vector<float> k(kDim);
      k[0] = key == 0 ? 0.0F : -18.02F;
      kernels.store_k(k.data(), kDim, format, page.data(), key);
      kernels.store_v(v.data(), kDim, format, page.data() + layout.part_bytes(), key);
    }
    const std::vector<float> q(kDim, 1.0F);
    float stored[kDim];
    kernels.store_q(q.data(), kDim, format, stored);
    alignas(64) float o[2][kDim];
    AttentionState state{.m = 0, .l = 0, .o = o[0]};
    const std::int32_t begin = 0;
    const std::int32_t end = 4;
    kernels.attend({.format = format,
                    .head_dim = kDim,
                    .pages = pages,
                    .page_count = 1,
                    .k_offset = 0,
                    .v_offset = layout.part_bytes(),
                    .q = stored,
                    .q_stride = kDim,
                    .rows = 1,
                    .begin = &begin,
                    .end = &end,
                    .chunk = 0,
                    .scale = 1.0F,
                    .out = &state});
    digest.add(o[0], kDim);
    for (float& value : o[1]) value = -0x1p-100F;
    const AttentionState part{.m = -40.0F, .l = 1.0F, .o = o[1]};
    kernels.merge(state, part, kDim);
    digest.add(o[0], kDim);
    for (float& value : o[1]) value = kOnEdge[0] * 0x1p-60F;
    kernels.finish({.m = 0.0F, .l = kOnEdge[0] * 0x1p66F, .o = o[1]}, kDim, o[0]);
    digest.add(o[0], kDim);
  }
}

struct Check {
  const char* function;
  void (*run)(const Kernels& kernels, Digest& digest);
  std::uint64_t expected;  // of the scalar level where std::fma is the hardware's
};

constexpr Check kChecks[] = {
    {"quantise", check_quantise<std::int8_t>, 0x0a7b30a2693c8dd9},
    {"gemm", check_gemm<std::int8_t>, 0x6f993beed67c7f18},
    {"quantise16", check_quantise<std::int16_t>, 0xbd5f009f451d7f4c},
    {"gemm16", check_gemm<std::int16_t>, 0xf7725090527abf60},
    {"embed_row", check_embed_row, 0xe3321708d4894cfc},
    {"rms_norm", check_rms_norm, 0xb5aaeddf34607622},
    {"scale", check_scale, 0x5e8e233626919702},
    {"add", check_add, 0xbdcc1dd4955ebded},
    {"silu_mul", check_silu_mul, 0xd16343cd35a839e6},
    {"gelu_mul", check_gelu_mul, 0xdcf9a3f88a016db1},
    {"rope", check_rope, 0xdf405df4df06f51d},
    {"store_q", check_store_q, 0xff3f433df7225378},
    {"store_k", check_store_k, 0x5a6cbf747ce5184e},
    {"store_v", check_store_v, 0xd8e807d451fcc9cb},
    {"hadamard", check_hadamard, 0xb3905877f171b50c},
    {"store_codes", check_store_codes, 0x35f31e916a17926b},
    {"load_codes", check_load_codes, 0x99685d542b0ec8ea},
    {"attend", check_attend, 0x778476c376c0c322},
    {"exp_sum", check_exp_sum, 0x516bfe5da3833df8},
    {"all_finite", check_all_finite, 0x02873216da1a2d04},
    {"scale", check_scale_at_edge, 0x8de8aefbaa6b5014},
    {"gemm", check_gemm_at_edge, 0x3c2994e74eb3ccb5},
    {"attend", check_attend_at_edge, 0xd2fcd89922a88125},
};

}  // namespace

const char* failed_check(const Kernels& kernels) {
  const FloatState state;
  for (const Check& check : kChecks) {
    Digest digest;
    check.run(kernels, digest);
    if (digest.value() != check.expected) return check.function;
  }
  return nullptr;
}

}  // namespace dalsegno
