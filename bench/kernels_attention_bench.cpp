#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/kernels.hpp"
#include "limits.hpp"

// Attention of one core, per CPU level: prefill in GFLOPS (2 per multiply-add, hidden keys not counted) and
// decode over cold pages in GB/s of K and V. Each checks its answer against the scalar level before it times it.
namespace dalsegno {
namespace {

constexpr int kHeads = 3;  // query heads per K/V head
constexpr int kPrefillQueries = 64;
constexpr int kCodeGroup = 64;

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

// One K/V head's pages, in random order in memory, and query rows of several positions.
class Sequence {
 public:
  Sequence(KvFormat format, int head_dim, int keys, int spare_pages)
      : layout_{.format = format, .layers = 1, .kv_heads = 1, .head_dim = head_dim, .code_group = kCodeGroup} {
    if (is_quantised(format)) codes_ = layout_.codes();
    const std::size_t tile = kTileKeys / kBlockTokens * 2 * kv_part_bytes(KvFormat::bf16, head_dim, 0);
    loaded_.reset(static_cast<std::byte*>(std::aligned_alloc(64, tile)));
    const int count = (keys + kBlockTokens - 1) / kBlockTokens;
    const std::size_t bytes = layout_.page_bytes() * static_cast<std::size_t>(count + spare_pages);
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096)));
    for (int i = 0; i < count + spare_pages; i++) {
      pages_.push_back(memory_.get() + static_cast<std::size_t>(i) * layout_.page_bytes());
    }
    std::shuffle(pages_.begin(), pages_.end(), random_);
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<std::size_t>(head_dim));
    for (std::byte* page : pages_) {
      for (int slot = 0; slot < kBlockTokens; slot++) {
        for (float& x : row) x = normal(random_);
        store(row.data(), page, slot);
      }
    }
  }

  void make_queries(int positions, int last) {
    const int dim = layout_.head_dim;
    std::normal_distribution<float> normal;
    rows_ = positions * kHeads;
    std::vector<float> q(static_cast<std::size_t>(rows_ * dim));
    for (float& x : q) x = normal(random_);
    q_.resize(q.size());
    kernels().store_q(q.data(), rows_ * dim, arithmetic(), q_.data());
    o_.reset(static_cast<float*>(std::aligned_alloc(64, q.size() * 2 * sizeof(float))));
    begin_.assign(static_cast<std::size_t>(rows_), 0);
    end_.clear();
    total_.resize(static_cast<std::size_t>(rows_));
    part_.resize(static_cast<std::size_t>(rows_));
    for (int i = 0; i < rows_; i++) {
      end_.push_back(last - (rows_ - 1 - i) / kHeads);
      total_[static_cast<std::size_t>(i)].o = o_.get() + i * dim;
      part_[static_cast<std::size_t>(i)].o = o_.get() + (rows_ + i) * dim;
    }
  }

  // The whole attention of the rows over pages first_page, first_page + 1, ...
  void attend(const Kernels& level, int first_page) {
    const int last = end_.back();
    for (int chunk = 0; chunk * kChunkKeys < last; chunk++) {
      AttentionArgs args{.format = arithmetic(),
                         .head_dim = layout_.head_dim,
                         .pages = pages_.data() + first_page,
                         .page_count = (last + kBlockTokens - 1) / kBlockTokens,
                         .k_offset = 0,
                         .v_offset = layout_.part_bytes(),
                         .q = q_.data(),
                         .q_stride = static_cast<std::size_t>(layout_.head_dim),
                         .rows = rows_,
                         .begin = begin_.data(),
                         .end = end_.data(),
                         .chunk = chunk,
                         .scale = 1.0F / std::sqrt(static_cast<float>(layout_.head_dim)),
                         .out = chunk == 0 ? total_.data() : part_.data(),
                         .codes = is_quantised(layout_.format) ? &codes_ : nullptr,
                         .loaded = loaded_.get()};
      level.attend(args);
      for (std::size_t i = 0; i < part_.size() && chunk > 0; i++) level.merge(total_[i], part_[i], layout_.head_dim);
    }
  }

  // An empty string, or what is wrong.
  const char* check(const Kernels& level) {
    attend(kernels(), 0);
    const std::vector<float> expected(o_.get(), o_.get() + rows_ * layout_.head_dim);
    attend(level, 0);
    return std::equal(expected.begin(), expected.end(), o_.get()) ? nullptr : "differs from the scalar level";
  }

  [[nodiscard]] int pages() const { return static_cast<int>(pages_.size()); }
  [[nodiscard]] const KvLayout& layout() const { return layout_; }
  [[nodiscard]] double visible_keys() const {
    double keys = 0;
    for (std::int32_t end : end_) keys += end;
    return keys;
  }
  [[nodiscard]] const std::vector<AttentionState>& result() const { return total_; }

 private:
  static const Kernels& kernels() { return *available_kernels().front(); }
  [[nodiscard]] KvFormat arithmetic() const { return is_quantised(layout_.format) ? KvFormat::bf16 : layout_.format; }
  void store(const float* row, std::byte* page, int slot) const {
    std::byte* values = page + layout_.part_bytes();
    if (is_quantised(layout_.format)) {
      kernels().store_codes(row, codes_, KvPart::keys, page, slot);
      kernels().store_codes(row, codes_, KvPart::values, values, slot);
    } else {
      kernels().store_k(row, layout_.head_dim, layout_.format, page, slot);
      kernels().store_v(row, layout_.head_dim, layout_.format, values, slot);
    }
  }

  std::mt19937_64 random_{1};
  KvLayout layout_;
  KvCodes codes_;  // where K/V are codes
  std::unique_ptr<std::byte, FreeDeleter> loaded_;
  std::unique_ptr<std::byte, FreeDeleter> memory_;
  std::vector<std::byte*> pages_;
  int rows_ = 0;
  std::vector<float> q_;  // room for either format
  std::vector<std::int32_t> begin_;
  std::vector<std::int32_t> end_;
  std::unique_ptr<float, FreeDeleter> o_;
  std::vector<AttentionState> total_;
  std::vector<AttentionState> part_;
};

void prefill(benchmark::State& state, const Kernels& level, KvFormat format, int head_dim) {
  const FloatState float_state;
  const auto keys = static_cast<int>(state.range(0));
  Sequence sequence(format, head_dim, keys, 0);
  sequence.make_queries(kPrefillQueries, keys);
  if (const char* wrong = sequence.check(level); wrong != nullptr) return state.SkipWithError(wrong);
  for (auto _ : state) {
    sequence.attend(level, 0);
    benchmark::DoNotOptimize(sequence.result().data());
  }
  const double flops = sequence.visible_keys() * head_dim * 4;
  bench::report(state, "GFLOPS", flops, bench::peak(level.peak_bf16));
}

void decode(benchmark::State& state, const Kernels& level, KvFormat format, int head_dim) {
  const FloatState float_state;
  const auto keys = static_cast<int>(state.range(0));
  constexpr std::size_t kColdBytes = 192U << 20;
  const std::size_t page_bytes = KvLayout{format, 1, 1, head_dim, kCodeGroup}.page_bytes();
  Sequence cold(format, head_dim, keys, static_cast<int>(kColdBytes / page_bytes));
  cold.make_queries(1, keys);
  if (const char* wrong = cold.check(level); wrong != nullptr) return state.SkipWithError(wrong);
  const int step = (keys + kBlockTokens - 1) / kBlockTokens;
  int first_page = 0;
  for (auto _ : state) {
    first_page = first_page + 2 * step > cold.pages() ? 0 : first_page + step;
    cold.attend(level, first_page);
    benchmark::DoNotOptimize(cold.result().data());
  }
  const double bytes = static_cast<double>(page_bytes) * step;
  bench::report(state, "GB/s", bytes, bench::read_speed());
}

void register_all() {
  for (const Kernels* level : available_kernels()) {
    for (KvFormat format : {KvFormat::bf16, KvFormat::f32, KvFormat::q8, KvFormat::q4}) {
      for (int head_dim : {64, 128, 256, 80}) {
        const std::string what = std::string(level->name) + "/" + name(format) + "/" + std::to_string(head_dim);
        const auto run = [=](auto* function) {
          return [=](benchmark::State& state) { function(state, *level, format, head_dim); };
        };
        if (!is_quantised(format)) {  // which prefill loads as bf16 first
          benchmark::RegisterBenchmark(("prefill/" + what).c_str(), run(prefill))->Arg(512)->Arg(2048);
        }
        benchmark::RegisterBenchmark(("decode/" + what).c_str(), run(decode))->Arg(1024)->Arg(4096);
      }
    }
  }
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  dalsegno::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
