#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.hpp"
#include "backend/cpu/cpu_objects.hpp"
#include "backend/cpu/host_memory.hpp"
#include "base/thread_pool.hpp"
#include "base/unit_runs.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Divides the attention of a step for the pool, in two ways. Neither changes a bit, because chunks are always
// merged left to right:
// - Where a sequence has few rows (decoding), an item is (chunk of keys, K/V head, neighbouring rows whose
//   sequences share the chunk's pages), so that pages many sequences share are read once per kQueryRows rows, and one
//   long sequence keeps every thread busy. finish_row() merges the chunks.
// - Where it has many (prefill), an item is (some rows, K/V head) and walks all their chunks.
// A chunk in which K/V become codes (KvLayout::start) is two: chunks here are numbered so.
class CpuAttention {
 public:
  CpuAttention(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels), runs_(pool.threads()) {}

  Result<void> reserve(HostArena& arena, const AttentionConfig& config, int rows, int positions);
  // Rotates q and k of one row of qkv, keeps q for attend() and writes k and v to their slots.
  // False: k or v is not finite (zeros are stored). Threads: different rows at the same time.
  bool store_row(float* qkv, const CpuRope& rope, const AttentionConfig& config, const StepSequence& sequence, int row,
                 int position);
  // Keeps the queries of `rows` (ascending) alone, as rows 0, 1, ...
  void keep_rows(std::span<const std::int32_t> rows, const KvLayout& layout, const AttentionConfig& config);
  // out: [rows, heads * head_dim] f32, complete once finish_row() was called for each row.
  void attend(std::span<const StepSequence> sequences, const AttentionConfig& config, float* out, int out_columns);
  // out: the row's [heads * head_dim]. Threads: different rows at the same time.
  void finish_row(int row, const AttentionConfig& config, float* out);

 private:
  // Neighbouring rows of one sequence, at most kQueryRows query rows.
  struct Span {
    const StepSequence* sequence;
    int first_row;  // of the step
    int rows;
    int first_position;
    int first_chunk;   // that is seen; of the others those before window_chunk only up to kept_chunks
    int window_chunk;  // of the first key that is no kept one
    int kept_chunks;
    int end_chunk;
    int split_row;  // index of the first row among those that are split by chunk; -1: it walks its chunks itself
    [[nodiscard]] bool sees(int chunk) const {
      return chunk >= first_chunk && chunk < end_chunk && (chunk >= window_chunk || chunk < kept_chunks);
    }
  };
  // What one thread does at a time: spans [first, first + count), which are neighbours.
  struct Item {
    int first;
    int count;
    int kv_head;
    int chunk;  // -1: all
  };

  void plan(std::span<const StepSequence> sequences, const AttentionConfig& config);
  bool plan_split(const AttentionConfig& config, bool all);
  void plan_chunk(const AttentionConfig& config, int chunk);
  void prepare(const Item& item, int chunk, const AttentionConfig& config, AttentionArgs& args);
  struct Bounds;
  void attend_codes(int thread, const KvLayout& layout, const Bounds& bounds, AttentionArgs& args);
  void attend_chunk(int thread, const KvLayout& layout, int chunk, const Bounds& bounds, AttentionArgs& args);
  void store_q(const float* q, const AttentionConfig& config, KvFormat format, int row, int head);
  // The queries that meet keys of this format.
  [[nodiscard]] std::byte* queries(KvFormat format) const { return is_quantised(format) ? q_codes_ : q_; }
  void run_chunk(int item, const AttentionConfig& config, int thread);
  void run_whole(const Item& item, const AttentionConfig& config, int thread, float* out, int out_columns);
  [[nodiscard]] std::size_t state(int chunk, int kv_head, int split_row, int group) const {
    return (static_cast<std::size_t>(chunk * kv_heads_ + kv_head) * static_cast<std::size_t>(split_rows_) +
            static_cast<std::size_t>(split_row)) *
           static_cast<std::size_t>(group);
  }

  // Constant after reserve().
  ThreadPool& pool_;
  const Kernels& kernels_;
  std::byte* q_ = nullptr;        // [kv_head][row][group][head_dim]
  std::byte* q_codes_ = nullptr;  // the same for keys in codes; where there are none, q_ reaches into it
  std::size_t split_states_ = 0;  // how many states splitting may use; run_whole()'s follow
  int max_rows_ = 0;
  int kv_heads_ = 0;
  std::vector<std::byte*> loaded_;  // [thread][block of a chunk] K and V in bf16, where they are codes

  // Of the present call.
  UnitRuns runs_;                       // of the items that are chunks
  std::vector<AttentionState> states_;  // [chunk][kv_head][split row][group], then [thread][2][kQueryRows]
  std::vector<Span> spans_;
  std::vector<Item> items_;  // first those that walk all chunks
  std::vector<int> span_of_row_;
  int whole_items_ = 0;
  int split_rows_ = 0;
};

}  // namespace dalsegno
