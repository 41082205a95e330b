#include "kernels/kernels.hpp"

#include <unistd.h>

#include <cstdlib>
#include <string_view>
#include <vector>

#include "kernels/levels.hpp"
#include "kernels/self_check.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace dalsegno {
namespace {

constexpr Kernels kScalar = {
    .name = "scalar",
    .embed_row = scalar::embed_row,
    .gemm = scalar::gemm,
    .quantise = scalar::quantise,
    .rms_norm = scalar::rms_norm,
    .scale = scalar::scale,
    .add = scalar::add,
    .silu_mul = scalar::silu_mul,
    .gelu_mul = scalar::gelu_mul,
    .rope = scalar::rope,
    .hadamard = scalar::hadamard,
    .store_q = scalar::store_q,
    .store_k = scalar::store_k,
    .store_v = scalar::store_v,
    .store_codes = scalar::store_codes,
    .load_codes = scalar::load_codes,
    .attend = scalar::attend,
    .merge = scalar::merge,
    .finish = scalar::finish,
    .exp_sum = scalar::exp_sum,
    .all_finite = scalar::all_finite,
    .peak_int8 = scalar::peak_int8,
    .peak_bf16 = scalar::peak_bf16,
};

#define DALSEGNO_OVERRIDE(table, level)   \
  table.name = #level;                    \
  table.gemm = level::gemm;               \
  table.quantise = level::quantise;       \
  table.rms_norm = level::rms_norm;       \
  table.scale = level::scale;             \
  table.add = level::add;                 \
  table.silu_mul = level::silu_mul;       \
  table.gelu_mul = level::gelu_mul;       \
  table.rope = level::rope;               \
  table.store_q = level::store_q;         \
  table.store_k = level::store_k;         \
  table.store_v = level::store_v;         \
  table.hadamard = level::hadamard;       \
  table.store_codes = level::store_codes; \
  table.load_codes = level::load_codes;   \
  table.attend = level::attend;           \
  table.merge = level::merge;             \
  table.finish = level::finish;           \
  table.exp_sum = level::exp_sum;         \
  table.all_finite = level::all_finite;   \
  table.peak_int8 = level::peak_int8;     \
  table.peak_bf16 = level::peak_bf16

#if defined(__x86_64__)
constexpr Kernels kAvx2 = [] {
  Kernels table = kScalar;
  DALSEGNO_OVERRIDE(table, avx2);
  return table;
}();

constexpr Kernels kAvx512 = [] {
  Kernels table = kScalar;
  DALSEGNO_OVERRIDE(table, avx512);
  return table;
}();

// f16c is the one feature the compiler's own test may not know.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#elif defined(__aarch64__)
constexpr Kernels kNeon = [] {
  Kernels table = kScalar;
  DALSEGNO_OVERRIDE(table, neon);
  return table;
}();

// Every AArch64 CPU has the vectors; SDOT came with Armv8.2.
bool has_neon() {
  constexpr unsigned long kDotProduct = 1UL << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProduct) != 0;
}
#endif

std::vector<const Kernels*> find_levels() {
  std::vector<const Kernels*> levels = {&kScalar};
#if defined(__x86_64__)
  if (has_avx2()) levels.push_back(&kAvx2);
  if (has_avx512()) levels.push_back(&kAvx512);
#elif defined(__aarch64__)
  if (has_neon()) levels.push_back(&kNeon);
#endif
  return levels;
}

constexpr std::string_view kLevelNames[] = {"scalar", "avx2", "avx512", "neon"};

struct Levels {
  std::vector<const Kernels*> available;
  std::vector<std::string> warnings;
  std::string scalar_failed;  // the function, if scalar itself is not what it should be
};

Levels check_levels() {
  Levels levels;
  for (const Kernels* level : runnable_kernels()) {
    const char* failed = failed_check(*level);
    if (failed == nullptr) {
      levels.available.push_back(level);
    } else if (level == &kScalar) {
      levels.scalar_failed = failed;
      return levels;
    } else {
      levels.warnings.push_back("the CPU level " + std::string(level->name) + " is not used: its function " + failed +
                                " gives other bits than the scalar one on this machine");
    }
  }
  return levels;
}

const Levels& levels() {
  static const Levels checked = check_levels();
  return checked;
}

std::string available_names() {
  std::string names;
  for (const Kernels* kernels : levels().available) {
    if (!names.empty()) names += ", ";
    names += kernels->name;
  }
  return names;
}

}  // namespace

std::span<const Kernels* const> runnable_kernels() {
  static const std::vector<const Kernels*> levels = find_levels();
  return levels;
}

bool has_large_l1() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  static const bool large = sysconf(_SC_LEVEL1_DCACHE_SIZE) >= (48 << 10);
  return large;
#else
  return false;
#endif
}

std::span<const Kernels* const> available_kernels() {
  return levels().available;
}

std::span<const std::string> kernel_warnings() {
  return levels().warnings;
}

Result<const Kernels*> chosen_kernels() {
  if (levels().available.empty()) {
    return Error{ErrorCode::unsupported, "this machine cannot keep the numerics contract: the scalar function " +
                                             levels().scalar_failed +
                                             " does not give the stored bits; check the C library and the CPU's fma"};
  }
  const char* wanted = std::getenv("DALSEGNO_CPU");
  if (wanted == nullptr || *wanted == '\0') return levels().available.back();
  for (const Kernels* kernels : levels().available) {
    if (std::string_view(kernels->name) == wanted) return kernels;
  }
  bool known = false;
  for (std::string_view name : kLevelNames) known = known || name == wanted;
  return Error{ErrorCode::invalid_argument, "DALSEGNO_CPU=" + std::string(wanted) +
                                                (known ? " is not available on this machine" : " is no CPU level") +
                                                "; choose one of: " + available_names()};
}

}  // namespace dalsegno
