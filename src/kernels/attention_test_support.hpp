#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/kernels.hpp"
#include "kernels/levels.hpp"

// What tests of attention attend to. Internal linkage: one test file includes it.
namespace dalsegno {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float rounded(float x, KvFormat format) {
  if (format == KvFormat::f32) return x;
  std::uint16_t half;
  scalar::store_q(&x, 1, format, &half);
  return as_float(static_cast<std::uint32_t>(half) << 16);
}

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, FreeDeleter>;
Floats aligned_floats(std::size_t count) {
  return Floats(static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64)));
}

// How a test's values are distributed: the gain of q decides how sharp the softmax is.
struct Data {
  const char* name;
  float q;
  float k;
  float v;
  int k_spread = 0;  // exponents are moved by up to this much, so that terms of a sum differ wildly
  int v_spread = 0;
};
constexpr Data kFlat{"flat", 0.01F, 1, 1};
constexpr Data kNormal{"normal", 1, 1, 1};
constexpr Data kSharp{"sharp", 30, 1, 1};
constexpr Data kTiny{"tiny", 1e-18F, 1e-18F, 1e-36F};  // products next to 2^-126
constexpr Data kTinyValues{"tiny values", 1, 1, 1e-37F};
constexpr Data kWideKeys{"wide keys", 1e-5F, 1, 1, 25, 0};
constexpr Data kWideValues{"wide values", 1, 1, 1, 0, 60};

// One sequence in scattered pages of several layers and heads. Everything but the written keys of one part is junk.
class Sequence {
 public:
  Sequence(KvFormat format, int head_dim, int capacity, Data data, int seed = 1)
      : layout_{.format = format, .layers = 2, .kv_heads = 2, .head_dim = head_dim},
        data_(data),
        random_(static_cast<unsigned>(seed)),
        k_(static_cast<std::size_t>(capacity * head_dim)),
        v_(k_.size()) {
    const int blocks = (capacity + kBlockTokens - 1) / kBlockTokens;
    memory_ = aligned_floats(layout_.page_bytes() / sizeof(float) * static_cast<std::size_t>(blocks));
    auto* bytes = reinterpret_cast<std::byte*>(memory_.get());
    for (int b = 0; b < blocks; b++) pages_.push_back(bytes + layout_.page_bytes() * static_cast<std::size_t>(b));
    std::shuffle(pages_.begin(), pages_.end(), random_);
    fill_junk(2);
  }

  // Any finite values, of any size, zeros and denormals.
  void fill_junk(unsigned seed) {
    std::mt19937_64 random(seed);
    for (std::byte* page : pages_) {
      for (std::size_t at = 0; at < layout_.page_bytes(); at += 4) {
        auto word = static_cast<std::uint32_t>(random());
        if (random() % 5 == 0) word &= 0x80008000;
        if ((word & 0x7f800000) == 0x7f800000) word &= 0xbfffffff;
        if ((word & 0x7f80) == 0x7f80) word &= 0xffffbfff;
        std::memcpy(page + at, &word, 4);
      }
    }
    for (int key = 0; key < written_; key++) put(key);
  }

  void write_to(int end) {
    std::normal_distribution<float> normal;
    const int dim = layout_.head_dim;
    for (; written_ < end; written_++) {
      for (int d = 0; d < dim; d++) {
        const std::size_t i = at(written_) + static_cast<std::size_t>(d);
        k_[i] = rounded(spread(normal(random_) * data_.k, data_.k_spread), layout_.format);
        v_[i] = rounded(spread(normal(random_) * data_.v, data_.v_spread), layout_.format);
      }
      put(written_);
    }
  }

  void set(int key, const std::vector<float>& k, const std::vector<float>& v) {
    written_ = std::max(written_, key + 1);
    std::copy(k.begin(), k.end(), k_.begin() + static_cast<std::ptrdiff_t>(at(key)));
    std::copy(v.begin(), v.end(), v_.begin() + static_cast<std::ptrdiff_t>(at(key)));
    put(key);
  }

  void leave_out(int first_blocks) { std::fill_n(pages_.begin(), first_blocks, nullptr); }

  std::vector<float> queries(int rows) {
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<std::size_t>(rows * layout_.head_dim));
    for (float& x : q) x = rounded(normal(random_) * data_.q, layout_.format);
    return q;
  }

  [[nodiscard]] const KvLayout& layout() const { return layout_; }
  [[nodiscard]] std::byte* const* pages() const { return pages_.data(); }
  [[nodiscard]] const float* k(int key) const { return k_.data() + at(key); }
  [[nodiscard]] const float* v(int key) const { return v_.data() + at(key); }
  [[nodiscard]] std::size_t k_offset() const { return layout_.k_offset(1, 1); }
  [[nodiscard]] std::size_t v_offset() const { return k_offset() + layout_.part_bytes(); }
  [[nodiscard]] float scale() const { return 1.0F / std::sqrt(static_cast<float>(layout_.head_dim)); }

 private:
  [[nodiscard]] std::size_t at(int key) const { return static_cast<std::size_t>(key * layout_.head_dim); }
  float spread(float x, int by) {
    return by == 0 ? x : std::ldexp(x, static_cast<int>(random_() % static_cast<unsigned>(2 * by)) - by);
  }
  void put(int key) {
    std::byte* page = pages_[static_cast<std::size_t>(key / kBlockTokens)];
    scalar::store_k(k(key), layout_.head_dim, layout_.format, page + k_offset(), key % kBlockTokens);
    scalar::store_v(v(key), layout_.head_dim, layout_.format, page + v_offset(), key % kBlockTokens);
  }

  KvLayout layout_;
  Data data_;
  std::mt19937_64 random_;
  std::vector<float> k_;  // [key][head_dim], rounded to the format
  std::vector<float> v_;
  Floats memory_;
  std::vector<std::byte*> pages_;
  int written_ = 0;
};

}  // namespace
}  // namespace dalsegno
