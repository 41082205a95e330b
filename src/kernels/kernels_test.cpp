#include "kernels/kernels.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <optional>

#include "kernels/self_check.hpp"

namespace dalsegno {
namespace {

using testing::HasSubstr;

// Sets DALSEGNO_CPU for one test.
class Wanted {
 public:
  explicit Wanted(const char* level) {
    if (const char* former = std::getenv("DALSEGNO_CPU"); former != nullptr) former_ = former;
    setenv("DALSEGNO_CPU", level, 1);
  }
  ~Wanted() {
    if (former_) {
      setenv("DALSEGNO_CPU", former_->c_str(), 1);
    } else {
      unsetenv("DALSEGNO_CPU");
    }
  }
  Wanted(const Wanted&) = delete;
  Wanted& operator=(const Wanted&) = delete;

 private:
  std::optional<std::string> former_;
};

TEST(KernelLevels, ScalarIsAlwaysThereAndFirst) {
  ASSERT_EQ(available_kernels().size(), runnable_kernels().size());
  EXPECT_STREQ(available_kernels().front()->name, "scalar");
  EXPECT_TRUE(kernel_warnings().empty()) << kernel_warnings().front();
}

TEST(KernelLevels, TheHighestIsChosenUnlessOneIsNamed) {
  {
    const Wanted none("");
    EXPECT_EQ(chosen_kernels().value(), available_kernels().back());
  }
  for (const Kernels* level : available_kernels()) {
    const Wanted wanted(level->name);
    EXPECT_EQ(chosen_kernels().value(), level);
  }
}

TEST(KernelLevels, AnUnknownOrMissingLevelIsASentence) {
  {
    const Wanted wanted("sse9");
    const auto chosen = chosen_kernels();
    ASSERT_FALSE(chosen.ok());
    EXPECT_EQ(chosen.error().code, ErrorCode::invalid_argument);
    EXPECT_THAT(chosen.error().message, HasSubstr("DALSEGNO_CPU=sse9 is no CPU level; choose one of: scalar"));
  }
#if defined(__x86_64__)
  const std::string foreign = "neon";
#else
  const std::string foreign = "avx2";
#endif
  const Wanted wanted(foreign.c_str());
  const auto chosen = chosen_kernels();
  ASSERT_FALSE(chosen.ok());
  EXPECT_EQ(chosen.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(chosen.error().message, HasSubstr("DALSEGNO_CPU=" + foreign + " is not available"));
}

// Wrong by one bit, somewhere: the check must name the function.
const Kernels& true_level() {
  return *available_kernels().front();
}

float spoil(float x) {
  return std::nextafter(x, 1e30F);
}

struct Fault {
  const char* function;
  void (*spoil)(Kernels& kernels);
};

constexpr Fault kFaults[] = {
    {"rms_norm",
     [](Kernels& kernels) {
       kernels.rms_norm = [](const float* x, const float* w, int n, float eps, float* out) {
         true_level().rms_norm(x, w, n, eps, out);
         out[n - 1] = spoil(out[n - 1]);
       };
     }},
    {"silu_mul",
     [](Kernels& kernels) {
       kernels.silu_mul = [](const float* gate, const float* up, int n, float* out) {
         true_level().silu_mul(gate, up, n, out);
         out[0] = spoil(out[0]);
       };
     }},
    {"gelu_mul",
     [](Kernels& kernels) {
       kernels.gelu_mul = [](const float* gate, const float* up, int n, float* out) {
         true_level().gelu_mul(gate, up, n, out);
         out[n - 1] = spoil(out[n - 1]);
       };
     }},
    {"gemm",
     [](Kernels& kernels) {
       kernels.gemm = [](const GemmArgs& args) {
         true_level().gemm(args);
         args.c[args.w->n - 1] = spoil(args.c[args.w->n - 1]);
       };
     }},
    {"gemm16",
     [](Kernels& kernels) {
       kernels.gemm = [](const GemmArgs& args) {
         true_level().gemm(args);
         if (args.quant.codes16 != nullptr) args.c[0] = spoil(args.c[0]);
       };
     }},
    {"store_k",
     [](Kernels& kernels) {
       kernels.store_k = [](const float* k, int dim, KvFormat format, std::byte* part, int slot) {
         const bool finite = true_level().store_k(k, dim, format, part, slot);
         return finite || slot == 7;
       };
     }},
    {"hadamard",
     [](Kernels& kernels) {
       kernels.hadamard = [](float* x, int n, float factor) {
         true_level().hadamard(x, n, factor);
         x[n / 2] = spoil(x[n / 2]);
       };
     }},
    {"store_codes",
     [](Kernels& kernels) {
       kernels.store_codes = [](const float* x, const KvCodes& codes, KvPart kind, std::byte* part, int slot) {
         const bool fits = true_level().store_codes(x, codes, kind, part, slot);
         part[codes.bytes - 1] ^= std::byte{1};
         return fits;
       };
     }},
    {"load_codes",
     [](Kernels& kernels) {
       kernels.load_codes = [](const std::byte* part, const KvCodes& codes, KvPart kind, const std::byte* ahead,
                               std::byte* out) {
         true_level().load_codes(part, codes, kind, ahead, out);
         if (codes.bits == 4) out[kv_part_bytes(KvFormat::bf16, codes.head_dim, 0) - 2] ^= std::byte{1};
       };
     }},
    {"attend",
     [](Kernels& kernels) {
       kernels.merge = [](AttentionState& total, const AttentionState& part, int dim) {
         true_level().merge(total, part, dim);
         total.l = spoil(total.l);
       };
     }},
};

TEST(KernelLevels, TheSelfCheckNamesAFunctionThatIsWrongByOneBit) {
  EXPECT_EQ(failed_check(true_level()), nullptr);
  for (const Fault& fault : kFaults) {
    Kernels faulty = true_level();
    fault.spoil(faulty);
    EXPECT_STREQ(failed_check(faulty), fault.function);
  }
}

// A level without the flush would differ only here: the inputs must reach values that need it.
TEST(KernelLevels, TheSelfCheckReachesTheFlush) {
  Kernels faulty = true_level();
  faulty.add = [](float* x, const float* y, int n) {
    for (int i = 0; i < n; i++) {
      const double sum = static_cast<double>(x[i]) + static_cast<double>(y[i]);
      x[i] = std::fabs(sum) < 0x1p-126 ? 0x1p-126F : static_cast<float>(sum);
    }
  };
  EXPECT_STREQ(failed_check(faulty), "add");
}

}  // namespace
}  // namespace dalsegno
