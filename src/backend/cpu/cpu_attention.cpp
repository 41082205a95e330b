#include "backend/cpu/cpu_attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/float_state.hpp"

namespace dalsegno {
namespace {

// Query rows of a piece (tokens x query heads of the group): enough to fill the kernels' tiles of up
// to a dozen rows many times over, few enough that K/V read for a piece stays in L2 between tiles.
constexpr int kQueryRows = 64;
// Fewer pieces than this per thread are split by chunk.
constexpr int kPiecesPerThread = 4;
// Partial states kept at most; 16384 of head_dim 64 are 4 MB. Beyond, pieces are not split.
constexpr std::size_t kSplitStates = 16384;

int rows_per_piece(const AttentionConfig& config) {
  return std::max(1, kQueryRows / (config.heads / config.kv_heads));
}

std::int32_t first_visible(const AttentionConfig& config, std::int32_t position) {
  return config.window > 0 ? std::max(0, position + 1 - config.window) : 0;
}

}  // namespace

Result<void> CpuAttention::reserve(HostArena& arena, const AttentionConfig& config, int rows, int positions) {
  const int group = config.heads / config.kv_heads;
  if (group > kQueryRows) {
    return Error{ErrorCode::unsupported,
                 fmt::format("{} query heads share a K/V head; at most {} can", group, kQueryRows)};
  }
  max_rows_ = rows;
  const auto dim = static_cast<std::size_t>(config.head_dim);
  const auto threads = static_cast<std::size_t>(pool_.threads());
  // An f32 query is the larger of the two formats.
  DALSEGNO_ASSIGN(
      q, arena.allocate(static_cast<std::size_t>(rows) * static_cast<std::size_t>(config.heads) * dim * sizeof(float),
                        "the queries of a step"));
  q_ = q;
  const std::size_t chunks = static_cast<std::size_t>((positions + kChunkKeys - 1) / kChunkKeys);
  const std::size_t split = std::min(kSplitStates, kPiecesPerThread * threads * kQueryRows * chunks);
  const std::size_t count = std::max(split, 2 * threads * kQueryRows);
  DALSEGNO_ASSIGN(outputs, arena.allocate(count * dim * sizeof(float), "the partial results of attention"));
  outputs_ = reinterpret_cast<float*>(outputs);
  states_.assign(count, {});
  for (std::size_t i = 0; i < count; ++i) states_[i].o = outputs_ + i * dim;
  pieces_.reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(config.kv_heads));
  return {};
}

bool CpuAttention::store_row(float* qkv, const CpuRope& rope, const AttentionConfig& config,
                             const StepSequence& sequence, int row, int position) {
  const int dim = config.head_dim;
  const int group = config.heads / config.kv_heads;
  const std::size_t half = static_cast<std::size_t>(rope.dims / 2);
  const float* cos = rope.cos + static_cast<std::size_t>(position) * half;
  const float* sin = rope.sin + static_cast<std::size_t>(position) * half;
  const KvLayout& layout = *sequence.kv.layout;
  for (int h = 0; h < config.heads; ++h) {
    float* q = qkv + h * dim;
    kernels_.rope(q, rope.dims, cos, sin, rope.interleaved);
    const std::size_t at =
        ((static_cast<std::size_t>(h / group) * static_cast<std::size_t>(max_rows_) + static_cast<std::size_t>(row)) *
             static_cast<std::size_t>(group) +
         static_cast<std::size_t>(h % group)) *
        static_cast<std::size_t>(dim);
    kernels_.store_q(q, dim, layout.format, q_ + at * element_bytes(layout.format));
  }
  bool finite = true;
  std::byte* page = sequence.kv.pages[position / kBlockTokens];
  const int slot = position % kBlockTokens;
  for (int h = 0; h < config.kv_heads; ++h) {
    float* k = qkv + (config.heads + h) * dim;
    const float* v = qkv + (config.heads + config.kv_heads + h) * dim;
    kernels_.rope(k, rope.dims, cos, sin, rope.interleaved);
    std::byte* part = page + layout.k_offset(config.layer, h);
    finite &= kernels_.store_k(k, dim, layout.format, part, slot);
    finite &= kernels_.store_v(v, dim, layout.format, part + layout.part_bytes(), slot);
  }
  return finite;
}

void CpuAttention::plan(std::span<const StepSequence> sequences, const AttentionConfig& config) {
  pieces_.clear();
  const int most = rows_per_piece(config);
  const int group = config.heads / config.kv_heads;
  std::size_t states = 0;
  for (const StepSequence& sequence : sequences) {
    for (int first = 0; first < sequence.rows; first += most) {
      const int rows = std::min(most, sequence.rows - first);
      const int last_position = sequence.first_position + first + rows - 1;
      const int first_chunk = first_visible(config, sequence.first_position + first) / kChunkKeys;
      const int chunks = last_position / kChunkKeys + 1 - first_chunk;
      for (int head = 0; head < config.kv_heads; ++head) {
        pieces_.push_back({&sequence, head, first, rows, first_chunk, chunks, states});
        states += static_cast<std::size_t>(chunks) * static_cast<std::size_t>(rows * group);
      }
    }
  }
}

// Chunks [begin, end) of a piece; chunk c's states start at first_state + (c - begin) * query rows.
void CpuAttention::run_chunks(const Piece& piece, const AttentionConfig& config, int begin, int end,
                              std::size_t first_state) {
  const StepSequence& sequence = *piece.sequence;
  const KvLayout& layout = *sequence.kv.layout;
  const int group = config.heads / config.kv_heads;
  std::int32_t first_key[kQueryRows];
  std::int32_t last_key[kQueryRows];
  for (int i = 0; i < piece.rows * group; ++i) {
    const std::int32_t position = sequence.first_position + piece.first_row + i / group;
    first_key[i] = first_visible(config, position);
    last_key[i] = position + 1;
  }
  AttentionArgs args;
  args.format = layout.format;
  args.head_dim = config.head_dim;
  args.pages = sequence.kv.pages;
  args.page_count = sequence.kv.page_count;
  args.k_offset = layout.k_offset(config.layer, piece.kv_head);
  args.v_offset = args.k_offset + layout.part_bytes();
  const std::size_t row = static_cast<std::size_t>(piece.kv_head) * static_cast<std::size_t>(max_rows_) +
                          static_cast<std::size_t>(sequence.first_row + piece.first_row);
  args.q = q_ + row * static_cast<std::size_t>(group * config.head_dim) * element_bytes(layout.format);
  args.q_stride = static_cast<std::size_t>(config.head_dim);
  args.rows = piece.rows * group;
  args.begin = first_key;
  args.end = last_key;
  args.scale = config.scale;
  for (int chunk = begin; chunk < end; ++chunk) {
    args.chunk = chunk;
    args.out = &states_[first_state + static_cast<std::size_t>(chunk - begin) * static_cast<std::size_t>(args.rows)];
    kernels_.attend(args);
  }
}

void CpuAttention::finish_rows(const Piece& piece, const AttentionConfig& config, std::size_t first_state, float* out,
                               int out_columns) {
  const int group = config.heads / config.kv_heads;
  for (int i = 0; i < piece.rows * group; ++i) {
    const int row = piece.sequence->first_row + piece.first_row + i / group;
    float* to = out + static_cast<std::size_t>(row) * static_cast<std::size_t>(out_columns) +
                (piece.kv_head * group + i % group) * config.head_dim;
    kernels_.finish(states_[first_state + static_cast<std::size_t>(i)], config.head_dim, to);
  }
}

void CpuAttention::merge_rows(std::size_t total, std::size_t part, int rows, int head_dim) {
  for (int i = 0; i < rows; ++i) {
    kernels_.merge(states_[total + static_cast<std::size_t>(i)], states_[part + static_cast<std::size_t>(i)], head_dim);
  }
}

void CpuAttention::run_whole(const Piece& piece, const AttentionConfig& config, int thread, float* out,
                             int out_columns) {
  const std::size_t total = static_cast<std::size_t>(thread) * 2 * kQueryRows;
  const std::size_t part = total + kQueryRows;
  const int rows = piece.rows * (config.heads / config.kv_heads);
  run_chunks(piece, config, piece.first_chunk, piece.first_chunk + 1, total);
  for (int chunk = piece.first_chunk + 1; chunk < piece.first_chunk + piece.chunks; ++chunk) {
    run_chunks(piece, config, chunk, chunk + 1, part);
    merge_rows(total, part, rows, config.head_dim);
  }
  finish_rows(piece, config, total, out, out_columns);
}

void CpuAttention::attend(std::span<const StepSequence> sequences, const AttentionConfig& config, float* out,
                          int out_columns) {
  plan(sequences, config);
  const int count = static_cast<int>(pieces_.size());
  const int group = config.heads / config.kv_heads;
  int most_chunks = 0;
  for (const Piece& piece : pieces_) most_chunks = std::max(most_chunks, piece.chunks);
  const Piece& last = pieces_.back();
  const std::size_t states =
      last.state + static_cast<std::size_t>(last.chunks) * static_cast<std::size_t>(last.rows * group);
  std::atomic<int> next{0};
  if (count >= kPiecesPerThread * pool_.threads() || most_chunks == 1 || states > states_.size()) {
    pool_.run([&](int thread, int) {
      // Last first: in a causal prefill the later rows see more keys.
      for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        run_whole(pieces_[static_cast<std::size_t>(count - 1 - i)], config, thread, out, out_columns);
      }
    });
    return;
  }
  const int items = count * most_chunks;
  pool_.run([&](int, int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
      const Piece& piece = pieces_[static_cast<std::size_t>(i % count)];
      const int chunk = i / count;
      if (chunk >= piece.chunks) continue;
      run_chunks(piece, config, piece.first_chunk + chunk, piece.first_chunk + chunk + 1,
                 piece.state + static_cast<std::size_t>(chunk) * static_cast<std::size_t>(piece.rows * group));
    }
  });
  const FloatState float_state;
  for (const Piece& piece : pieces_) {
    const int rows = piece.rows * group;
    for (int chunk = 1; chunk < piece.chunks; ++chunk) {
      merge_rows(piece.state, piece.state + static_cast<std::size_t>(chunk) * static_cast<std::size_t>(rows), rows,
                 config.head_dim);
    }
    finish_rows(piece, config, piece.state, out, out_columns);
  }
}

}  // namespace dalsegno
