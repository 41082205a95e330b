#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

// K and V in codes of 8 and 4 bits (docs/numerics.md), written once over what a level defines as Level:
//   Values                   16 f32 values
//   load(x), put(x, a), round(x, out)   round: to bf16, kept as f32; false if one is 2^127 or more, infinite or NaN
//   largest, smallest(a, b); fold_largest(a), fold_smallest(a); magnitude(a)
//   codes(a, minimum, scale, out)   nearest_even((a - minimum) / scale), the low byte of each
//   bytes(p), nibbles(p, low, high)  16 codes, signed bytes or nibbles of 16 bytes, as values
//   tokens(p), pair(p)       of bf16 at p: the first eight, each in two neighbouring lanes; two in turn
//   multiply(a, b), multiply_add(a, b, c)
//   butterfly<kBy>(a)        lanes that differ in bit kBy (1, 2, 4, 8): the sum in the lower one, lower - upper in the
//   upper add(a, b), subtract(a, b), fill(x) store(low, high, out)    32 values, rounded to bf16
// Internal linkage: every level compiles its own. Requires: finite values in every slot, written or not.
namespace dalsegno {
namespace {

inline constexpr int kCodeLanes = 16;
inline constexpr float kLeastScale = 0x1p-126F;

inline std::uint16_t upper_half(float rounded) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &rounded, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}

// To bf16, nearest even, as f32; 0 where that is below 2^-126. Requires: finite, not negative.
inline float round_scale(float x) {
  if (!(x >= kLeastScale)) return 0.0F;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  float rounded;
  __builtin_memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

template <class Level>
inline void hadamard_of(float* x, int n, float factor) {
  const int size = hadamard_size(n);
  const auto by = Level::fill(factor);
  for (int i = 0; i < n; i += kCodeLanes) {
    auto a = Level::template butterfly<1>(Level::load(x + i));
    a = Level::template butterfly<2>(a);
    a = Level::template butterfly<4>(a);
    Level::put(x + i, Level::template butterfly<8>(a));
  }
  for (int half = kCodeLanes; half < size; half *= 2) {
    for (int i = 0; i < n; i += 2 * half) {
      for (float* lower = x + i; lower < x + i + half; lower += kCodeLanes) {
        const auto a = Level::load(lower);
        const auto b = Level::load(lower + half);
        Level::put(lower, Level::add(a, b));
        Level::put(lower + half, Level::subtract(a, b));
      }
    }
  }
  for (int i = 0; i < n; i += kCodeLanes) Level::put(x + i, Level::multiply(Level::load(x + i), by));
}

struct CodeScale {
  float scale;
  float minimum;
};

template <class Level>
inline CodeScale scale_8(const float* x, int n) {
  auto most = Level::magnitude(Level::load(x));
  for (int i = kCodeLanes; i < n; i += kCodeLanes) most = Level::largest(most, Level::magnitude(Level::load(x + i)));
  return {round_scale(Level::fold_largest(most) / 127.0F), 0.0F};
}

template <class Level>
inline CodeScale scale_4(const float* x, int n) {
  auto most = Level::load(x);
  auto least = most;
  for (int i = kCodeLanes; i < n; i += kCodeLanes) {
    most = Level::largest(most, Level::load(x + i));
    least = Level::smallest(least, Level::load(x + i));
  }
  const float minimum = Level::fold_smallest(least) + 0.0F;  // never -0
  return {round_scale((Level::fold_largest(most) - minimum) / 15.0F), minimum};
}

// Codes of one token [head_dim] to their places in a part.
inline void scatter_codes(const std::uint8_t* code, const KvCodes& codes, KvPart kind, std::uint8_t* to, int slot) {
  const int dim = codes.head_dim;
  if (kind == KvPart::keys) {
    if (codes.bits == 8) {
      for (int d = 0; d < dim; d += 2) __builtin_memcpy(to + d * kBlockTokens + 2 * slot, code + d, 2);
      return;
    }
    for (int d = 0; d < dim; d += 4) {
      std::uint8_t* bytes = to + d / 2 * kBlockTokens + 2 * slot;
      bytes[0] = static_cast<std::uint8_t>(code[d] | code[d + 2] << 4);
      bytes[1] = static_cast<std::uint8_t>(code[d + 1] | code[d + 3] << 4);
    }
    return;
  }
  if (codes.bits == 8) {
    std::uint8_t* bytes = to + slot / 2 * 2 * dim + slot % 2;
    for (int d = 0; d < dim; d++) bytes[2 * d] = code[d];
    return;
  }
  std::uint8_t* bytes = to + slot / 2 * dim + slot % 2;
  for (int d = 0; d < dim; d += 16) {
    for (int i = 0; i < 8; i++) bytes[d + 2 * i] = static_cast<std::uint8_t>(code[d + i] | code[d + i + 8] << 4);
  }
}

template <class Level>
inline bool store_codes_of(const float* x, const KvCodes& codes, KvPart kind, std::byte* part, int slot) {
  alignas(64) float row[kMaxHeadDim];
  alignas(64) std::uint8_t code[kMaxHeadDim];
  const int dim = codes.head_dim;
  bool fits = true;
  for (int d = 0; d < dim; d += kCodeLanes) fits &= Level::round(x + d, row + d);
  if (!fits) __builtin_memset(row, 0, sizeof row);
  auto* scales = reinterpret_cast<std::uint16_t*>(part + codes.scale_offset) + slot;
  auto* minima = reinterpret_cast<std::uint16_t*>(part + codes.minimum_offset) + slot;
  for (int begin = 0, g = 0; begin < dim; begin += codes.group, g++) {
    const int n = dim - begin < codes.group ? dim - begin : codes.group;
    const CodeScale by = codes.bits == 8 ? scale_8<Level>(row + begin, n) : scale_4<Level>(row + begin, n);
    scales[g * kBlockTokens] = upper_half(by.scale);
    if (codes.bits == 4) minima[g * kBlockTokens] = upper_half(by.minimum);
    for (int d = begin; d < begin + n; d += kCodeLanes) {
      if (by.scale > 0) {
        Level::codes(Level::load(row + d), by.minimum, by.scale, code + d);
      } else {
        __builtin_memset(code + d, 0, kCodeLanes);
      }
    }
  }
  scatter_codes(code, codes, kind, reinterpret_cast<std::uint8_t*>(part), slot);
  return fits;
}

// What makes values of the codes of 16 lanes.
template <class Level, int kBits>
struct Decoder {
  using Values = typename Level::Values;
  Values scale;
  Values minimum;
  [[nodiscard]] Values of(Values code) const {
    if constexpr (kBits == 8) return Level::multiply(code, scale);
    return Level::multiply_add(code, scale, minimum);
  }
};

// Keys: lanes are eight tokens of a pair of dims. Two pairs at a time.
template <class Level, int kBits>
inline void load_keys(const std::byte* part, const KvCodes& codes, std::uint16_t* out) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(part);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(part + codes.scale_offset);
  const auto* minima = reinterpret_cast<const std::uint16_t*>(part + (kBits == 4 ? codes.minimum_offset : 0));
  for (int begin = 0; begin < codes.head_dim; begin += codes.group) {
    const int end = codes.head_dim - begin < codes.group ? codes.head_dim : begin + codes.group;
    const Decoder<Level, kBits> left{Level::tokens(scales), Level::tokens(minima)};
    const Decoder<Level, kBits> right{Level::tokens(scales + 8), Level::tokens(minima + 8)};
    for (int d = begin; d < end; d += 4) {
      std::uint16_t* to = out + d * kBlockTokens;
      if constexpr (kBits == 8) {
        const std::uint8_t* at = from + d * kBlockTokens;
        Level::store(left.of(Level::bytes(at)), right.of(Level::bytes(at + 16)), to);
        Level::store(left.of(Level::bytes(at + 32)), right.of(Level::bytes(at + 48)), to + 32);
      } else {
        const std::uint8_t* at = from + d / 2 * kBlockTokens;
        typename Level::Values low[2];
        typename Level::Values high[2];
        Level::nibbles(at, low[0], high[0]);
        Level::nibbles(at + 16, low[1], high[1]);
        Level::store(left.of(low[0]), right.of(low[1]), to);
        Level::store(left.of(high[0]), right.of(high[1]), to + 32);
      }
    }
    scales += kBlockTokens;
    minima += kBlockTokens;
  }
}

// Values: lanes are eight dims of a pair of tokens.
template <class Level, int kBits>
inline void load_values(const std::byte* part, const KvCodes& codes, std::uint16_t* out) {
  const auto* from = reinterpret_cast<const std::uint8_t*>(part);
  for (int token = 0; token < kBlockTokens; token += 2) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(part + codes.scale_offset) + token;
    const auto* minima = reinterpret_cast<const std::uint16_t*>(part + (kBits == 4 ? codes.minimum_offset : 0)) + token;
    for (int begin = 0; begin < codes.head_dim; begin += codes.group) {
      const int end = codes.head_dim - begin < codes.group ? codes.head_dim : begin + codes.group;
      const Decoder<Level, kBits> decode{Level::pair(scales), Level::pair(minima)};
      for (int d = begin; d < end; d += kCodeLanes) {
        typename Level::Values low;
        typename Level::Values high;
        if constexpr (kBits == 8) {
          low = Level::bytes(from);
          high = Level::bytes(from + 16);
        } else {
          Level::nibbles(from, low, high);
        }
        Level::store(decode.of(low), decode.of(high), out);
        from += 4 * kBits;
        out += 32;
      }
      scales += kBlockTokens;
      minima += kBlockTokens;
    }
  }
}

template <class Level>
inline void load_codes_of(const std::byte* part, const KvCodes& codes, KvPart kind, const std::byte* ahead,
                          std::byte* out) {
  for (std::size_t at = 0; ahead != nullptr && at < codes.bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
  auto* values = reinterpret_cast<std::uint16_t*>(out);
  if (kind == KvPart::keys) {
    (codes.bits == 8 ? load_keys<Level, 8> : load_keys<Level, 4>)(part, codes, values);
  } else {
    (codes.bits == 8 ? load_values<Level, 8> : load_values<Level, 4>)(part, codes, values);
  }
}

}  // namespace
}  // namespace dalsegno

// The functions of a level; `Level` is its vocabulary.
#define DALSEGNO_KV_CODES                                                                                             \
  void hadamard(float* x, int n, float factor) {                                                                      \
    hadamard_of<Level>(x, n, factor);                                                                                 \
  }                                                                                                                   \
  bool store_codes(const float* x, const KvCodes& codes, KvPart kind, std::byte* part, int slot) {                    \
    return store_codes_of<Level>(x, codes, kind, part, slot);                                                         \
  }                                                                                                                   \
  void load_codes(const std::byte* part, const KvCodes& codes, KvPart kind, const std::byte* ahead, std::byte* out) { \
    load_codes_of<Level>(part, codes, kind, ahead, out);                                                              \
  }
