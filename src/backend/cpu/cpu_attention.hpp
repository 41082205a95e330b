#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.hpp"
#include "backend/cpu/cpu_objects.hpp"
#include "backend/cpu/host_memory.hpp"
#include "base/thread_pool.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

// Divides the attention of a step into pieces for the pool. A piece is (sequence, K/V head, some
// rows), and one chunk of keys more where there would be too few pieces otherwise; chunks are always
// merged left to right, so the division changes no bit.
class CpuAttention {
 public:
  CpuAttention(ThreadPool& pool, const Kernels& kernels) : pool_(pool), kernels_(kernels) {}

  Result<void> reserve(HostArena& arena, const AttentionConfig& config, int rows, int positions);
  // Rotates q and k of one row of qkv, keeps q for attend() and writes k and v to their slots.
  // False: k or v is not finite (zeros are stored). Threads: different rows at the same time.
  bool store_row(float* qkv, const CpuRope& rope, const AttentionConfig& config, const StepSequence& sequence, int row,
                 int position);
  // out: [rows, heads * head_dim] f32.
  void attend(std::span<const StepSequence> sequences, const AttentionConfig& config, float* out, int out_columns);

 private:
  struct Piece {
    const StepSequence* sequence;
    int kv_head;
    int first_row;  // within the sequence
    int rows;
    int first_chunk;
    int chunks;
    std::size_t state;  // index of its first state; states are [chunk][row][query head of the group]
  };
  void plan(std::span<const StepSequence> sequences, const AttentionConfig& config);
  void run_chunks(const Piece& piece, const AttentionConfig& config, int begin, int end, std::size_t first_state);
  void run_whole(const Piece& piece, const AttentionConfig& config, int thread, float* out, int out_columns);
  void merge_rows(std::size_t total, std::size_t part, int rows, int head_dim);
  void finish_rows(const Piece& piece, const AttentionConfig& config, std::size_t first_state, float* out,
                   int out_columns);

  ThreadPool& pool_;
  const Kernels& kernels_;
  std::byte* q_ = nullptr;    // [kv_head][row][group][head_dim]
  float* outputs_ = nullptr;  // the o of every state
  std::vector<AttentionState> states_;
  std::vector<Piece> pieces_;
  int max_rows_ = 0;
};

}  // namespace dalsegno
