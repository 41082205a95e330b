#include "backend/cpu/cpu_attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/float_state.hpp"

namespace dalsegno {
namespace {

// Query rows of an item (tokens x query heads of the group): enough to fill the kernels' tiles of up to a dozen
// rows many times over, few enough that K/V read for an item stays in L2 between tiles.
constexpr int kQueryRows = 64;
// Fewer items than this per thread are split by chunk.
constexpr int kItemsPerThread = 4;
// A span of fewer query rows than this is split by chunk if there is room: it may share pages with its neighbours.
constexpr int kFewQueryRows = 32;
// Partial states kept at most; 16384 of head_dim 64 are 4 MB.
constexpr std::size_t kSplitStates = 16384;
// Rows that every vector level takes at once, or nearly: AVX-512 six, the others four.
constexpr int kRowsAtOnce = 6;
constexpr int kChunkBlocks = kChunkKeys / kBlockTokens;

int rows_per_item(const AttentionConfig& config) {
  return std::max(1, kQueryRows / (config.heads / config.kv_heads));
}

// What a query sees: keys [begin, position], and the kept ones before.
struct Sight {
  std::int32_t begin = 0;
  std::int32_t kept_begin = 0;
  std::int32_t kept_end = 0;
};

Sight sight(const AttentionConfig& config, const KvLayout& layout, std::int32_t position) {
  const auto before = [&](int size) { return size > 0 ? std::max(0, position + 1 - size) : 0; };
  const std::int32_t low = before(config.window);
  if (layout.max_size == 0) return {.begin = low};
  const std::int32_t begin = std::max(low, before(layout.max_size - layout.keep));
  return {.begin = begin, .kept_begin = low, .kept_end = std::max(low, std::min(layout.keep, begin))};
}

// The chunk in which values become codes is two: its keys before layout.start, and those from there on. Numbers of
// chunks that follow are one higher than the kernels'.
bool is_cut(const KvLayout& layout) {
  return layout.start % kChunkKeys != 0;
}

int chunk_of(const KvLayout& layout, int key) {
  return key / kChunkKeys + (is_cut(layout) && key >= layout.start ? 1 : 0);
}

int chunks_for(const KvLayout& layout, int keys) {
  return keys > 0 ? chunk_of(layout, keys - 1) + 1 : 0;
}

struct Chunk {
  int number;  // the kernels'
  bool early;
  bool whole;
};

Chunk chunk_at(const KvLayout& layout, int chunk) {
  const int cut = layout.start / kChunkKeys;
  if (!is_cut(layout)) return {chunk, chunk < cut, true};
  return {chunk > cut ? chunk - 1 : chunk, chunk <= cut, chunk != cut && chunk != cut + 1};
}

}  // namespace

// First visible key and the one past the last of each query row, and the kept ones.
struct CpuAttention::Bounds {
  std::int32_t begin[kQueryRows];
  std::int32_t end[kQueryRows];
  std::int32_t kept_begin[kQueryRows];
  std::int32_t kept_end[kQueryRows];
  int rows = 0;
  bool kept = false;  // some are

  void add(const AttentionConfig& config, const KvLayout& layout, int first_position, int positions) {
    const int group = config.heads / config.kv_heads;
    for (int i = 0; i < positions * group; ++i) {
      const std::int32_t position = first_position + i / group;
      const Sight seen = sight(config, layout, position);
      begin[rows] = seen.begin;
      kept_begin[rows] = seen.kept_begin;
      kept_end[rows] = seen.kept_end;
      kept |= seen.kept_end > seen.kept_begin;
      end[rows++] = position + 1;
    }
  }
  void give(AttentionArgs& args) const {
    args.begin = begin;
    args.end = end;
    args.kept_begin = kept ? kept_begin : nullptr;
    args.kept_end = kept ? kept_end : nullptr;
    args.rows = rows;
  }
  // The same of keys [from, to) alone.
  [[nodiscard]] Bounds of(int from, int to) const {
    Bounds result = *this;
    for (int i = 0; i < rows; ++i) {
      result.end[i] = std::min(end[i], to);
      result.begin[i] = std::min(std::max(begin[i], from), result.end[i]);
      result.kept_end[i] = std::min(kept_end[i], to);
      result.kept_begin[i] = std::min(std::max(kept_begin[i], from), result.kept_end[i]);
    }
    return result;
  }
  // As seen from the chunk's first key.
  [[nodiscard]] Bounds within(int chunk) const {
    Bounds result = *this;
    for (int i = 0; i < rows; ++i) {
      result.begin[i] -= chunk * kChunkKeys;
      result.end[i] -= chunk * kChunkKeys;
      result.kept_begin[i] -= chunk * kChunkKeys;
      result.kept_end[i] -= chunk * kChunkKeys;
    }
    return result;
  }
};

Result<void> CpuAttention::reserve(HostArena& arena, const AttentionConfig& config, int rows, int positions) {
  const int group = config.heads / config.kv_heads;
  if (group > kQueryRows) {
    return Error{ErrorCode::unsupported,
                 fmt::format("{} query heads share a K/V head; at most {} can", group, kQueryRows)};
  }
  if (config.head_dim > kMaxHeadDim) {
    return Error{ErrorCode::unsupported,
                 fmt::format("a head has {} elements; at most {} are possible", config.head_dim, kMaxHeadDim)};
  }
  max_rows_ = rows;
  const auto dim = static_cast<std::size_t>(config.head_dim);
  const auto threads = static_cast<std::size_t>(pool_.threads());
  // An f32 query takes as much as one in bf16 and one for keys in codes.
  DALSEGNO_ASSIGN(
      q, arena.allocate(static_cast<std::size_t>(rows) * static_cast<std::size_t>(config.heads) * dim * sizeof(float),
                        "the queries of a step"));
  q_ = q;
  q_codes_ = q + static_cast<std::size_t>(rows) * static_cast<std::size_t>(config.heads) * dim * sizeof(std::uint16_t);
  const auto chunks = static_cast<std::size_t>((positions + kChunkKeys - 1) / kChunkKeys);
  split_states_ = std::min(kSplitStates, chunks * static_cast<std::size_t>(config.heads * kQueryRows));
  const std::size_t count = split_states_ + 2 * threads * kQueryRows;
  DALSEGNO_ASSIGN(outputs, arena.allocate(count * dim * sizeof(float), "the partial results of attention"));
  states_.assign(count, {});
  for (std::size_t i = 0; i < count; ++i) states_[i].o = reinterpret_cast<float*>(outputs) + i * dim;
  kv_heads_ = config.kv_heads;
  const std::size_t part = kv_part_bytes(KvFormat::bf16, config.head_dim, 0);
  const std::size_t blocks = threads * kChunkBlocks;
  DALSEGNO_ASSIGN(loaded, arena.allocate(blocks * 2 * part, "the keys and values of a chunk"));
  for (std::size_t i = 0; i < blocks; ++i) loaded_.push_back(loaded + i * 2 * part);
  const auto most = static_cast<std::size_t>(rows);
  spans_.reserve(most);
  span_of_row_.reserve(most);
  items_.reserve(std::max(most * static_cast<std::size_t>(config.kv_heads), split_states_));
  return {};
}

void CpuAttention::store_q(const float* q, const AttentionConfig& config, KvFormat format, int row, int head) {
  const int group = config.heads / config.kv_heads;
  const std::size_t at =
      ((static_cast<std::size_t>(head / group) * static_cast<std::size_t>(max_rows_) + static_cast<std::size_t>(row)) *
           static_cast<std::size_t>(group) +
       static_cast<std::size_t>(head % group)) *
      static_cast<std::size_t>(config.head_dim);
  kernels_.store_q(q, config.head_dim, format, queries(format) + at * element_bytes(format));
}

bool CpuAttention::store_row(float* qkv, const CpuRope& rope, const AttentionConfig& config,
                             const StepSequence& sequence, int row, int position) {
  const int dim = config.head_dim;
  const std::size_t half = static_cast<std::size_t>(rope.dims / 2);
  const float* cos = rope.cos + static_cast<std::size_t>(position) * half;
  const float* sin = rope.sin + static_cast<std::size_t>(position) * half;
  const KvLayout& layout = *sequence.kv.layout;
  const int block = position / kBlockTokens;
  const bool early = layout.is_early(block);
  const KvFormat format = layout.format_of(early);
  for (int h = 0; h < config.heads; ++h) {
    float* q = qkv + h * dim;
    kernels_.rope(q, rope.dims, cos, sin, rope.interleaved);
    if (early || layout.start > 0) store_q(q, config, layout.format_of(true), row, h);
    if (early) continue;
    if (is_quantised(format)) kernels_.hadamard(q, dim, 1.0F / static_cast<float>(hadamard_size(dim)));
    store_q(q, config, format, row, h);
  }
  bool finite = true;
  std::byte* page = sequence.kv.pages_for(config.layer, early)[block];
  const int slot = position % kBlockTokens;
  for (int h = 0; h < config.kv_heads; ++h) {
    float* k = qkv + (config.heads + h) * dim;
    const float* v = qkv + (config.heads + config.kv_heads + h) * dim;
    kernels_.rope(k, rope.dims, cos, sin, rope.interleaved);
    std::byte* part = page + layout.k_offset(config.layer, h, early);
    if (is_quantised(format)) {
      const KvCodes codes = layout.codes();
      kernels_.hadamard(k, dim, 1.0F);
      finite &= kernels_.store_codes(k, codes, KvPart::keys, part, slot);
      finite &= kernels_.store_codes(v, codes, KvPart::values, part + codes.bytes, slot);
    } else {
      finite &= kernels_.store_k(k, dim, format, part, slot);
      finite &= kernels_.store_v(v, dim, format, part + layout.part_bytes(early), slot);
    }
  }
  return finite;
}

void CpuAttention::keep_rows(std::span<const std::int32_t> rows, const KvLayout& layout,
                             const AttentionConfig& config) {
  const std::size_t bytes = static_cast<std::size_t>(config.heads / config.kv_heads) *
                            static_cast<std::size_t>(config.head_dim) * element_bytes(layout.format);
  const auto keep = [&](std::byte* q) {
    for (int head = 0; head < config.kv_heads; ++head) {
      std::byte* of_head = q + static_cast<std::size_t>(head) * static_cast<std::size_t>(max_rows_) * bytes;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        std::memmove(of_head + i * bytes, of_head + static_cast<std::size_t>(rows[i]) * bytes, bytes);
      }
    }
  };
  keep(queries(layout.format));
  if (layout.start > 0) keep(queries(layout.format_of(true)));
}

void CpuAttention::plan(std::span<const StepSequence> sequences, const AttentionConfig& config) {
  spans_.clear();
  span_of_row_.clear();
  items_.clear();
  const int most = rows_per_item(config);
  for (const StepSequence& sequence : sequences) {
    for (int row = 0; row < sequence.rows; row += most) {
      const int rows = std::min(most, sequence.rows - row);
      const int position = sequence.first_position + row;
      const KvLayout& layout = *sequence.kv.layout;
      const Sight first = sight(config, layout, position);
      const Sight last = sight(config, layout, position + rows - 1);
      const int first_chunk = chunk_of(layout, first.begin);
      span_of_row_.insert(span_of_row_.end(), static_cast<std::size_t>(rows), static_cast<int>(spans_.size()));
      spans_.push_back({&sequence, sequence.first_row + row, rows, position,
                        first.kept_end > first.kept_begin ? 0 : first_chunk, first_chunk,
                        chunks_for(layout, last.kept_end), chunk_of(layout, position + rows - 1) + 1, -1});
    }
  }
  const int items = static_cast<int>(spans_.size()) * config.kv_heads;
  const bool few = items < kItemsPerThread * pool_.threads();
  const bool split = (few && plan_split(config, true)) || plan_split(config, false);
  // Last first: in a causal prefill the later rows see more keys.
  for (int span = static_cast<int>(spans_.size()) - 1; span >= 0; --span) {
    if (spans_[static_cast<std::size_t>(span)].split_row >= 0) continue;
    for (int head = 0; head < config.kv_heads; ++head) items_.push_back({span, 1, head, -1});
  }
  whole_items_ = static_cast<int>(items_.size());
  if (!split) return;
  int begin = spans_.front().first_chunk;  // of a window; what lies before it costs nothing, not even a look
  int end = 0;
  for (const Span& span : spans_) {
    begin = std::min(begin, span.first_chunk);
    end = std::max(end, span.end_chunk);
  }
  for (int chunk = begin; chunk < end; ++chunk) plan_chunk(config, chunk);
}

// Marks the spans that are split by chunk: all, or those of few rows. False, and none is, if there is no room.
bool CpuAttention::plan_split(const AttentionConfig& config, bool all) {
  const int group = config.heads / config.kv_heads;
  const auto splits = [&](const Span& span) { return all || span.rows * group < kFewQueryRows; };
  int chunks = 0;
  split_rows_ = 0;
  for (const Span& span : spans_) {
    if (!splits(span)) continue;
    chunks = std::max(chunks, span.end_chunk);
    split_rows_ += span.rows;
  }
  if (split_rows_ == 0 || state(chunks, 0, 0, group) > split_states_) return false;
  int row = 0;
  for (Span& span : spans_) {
    if (!splits(span)) continue;
    span.split_row = row;
    row += span.rows;
  }
  return true;
}

// Items of one chunk: neighbours that read the same pages go together, as far as kQueryRows allow.
void CpuAttention::plan_chunk(const AttentionConfig& config, int chunk) {
  const int most = rows_per_item(config);
  const auto takes_part = [&](const Span& span) { return span.split_row >= 0 && span.sees(chunk); };
  const auto same_pages = [&](const Span& a, const Span& b) {
    if (a.sequence == b.sequence) return true;
    const Chunk at = chunk_at(*a.sequence->kv.layout, chunk);
    const int end = (at.number + 1) * kChunkBlocks;
    if (a.sequence->kv.page_count < end || b.sequence->kv.page_count < end) return false;
    std::byte* const* pages = a.sequence->kv.pages_for(config.layer, at.early) + end - kChunkBlocks;
    std::byte* const* theirs = b.sequence->kv.pages_for(config.layer, at.early) + end - kChunkBlocks;
    return std::equal(pages, pages + kChunkBlocks, theirs);
  };
  const int count = static_cast<int>(spans_.size());
  for (int first = 0; first < count;) {
    const Span& leader = spans_[static_cast<std::size_t>(first)];
    int end = first + 1;
    if (takes_part(leader)) {
      for (int rows = leader.rows; end < count; ++end) {
        const Span& next = spans_[static_cast<std::size_t>(end)];
        rows += next.rows;
        if (rows > most || !takes_part(next) || !same_pages(leader, next)) break;
      }
      for (int head = 0; head < config.kv_heads; ++head) items_.push_back({first, end - first, head, chunk});
    }
    first = end;
  }
}

// Everything of args but q's rows' bounds, which the caller keeps, and the output.
void CpuAttention::prepare(const Item& item, int chunk, const AttentionConfig& config, AttentionArgs& args) {
  const Span& leader = spans_[static_cast<std::size_t>(item.first)];
  const StepSequence& sequence = *leader.sequence;
  const KvLayout& layout = *sequence.kv.layout;
  const Chunk at = chunk_at(layout, chunk);
  args.format = layout.format_of(at.early);
  args.head_dim = config.head_dim;
  args.pages = sequence.kv.pages_for(config.layer, at.early);
  args.page_count = sequence.kv.page_count;
  args.k_offset = layout.k_offset(config.layer, item.kv_head, at.early);
  args.v_offset = args.k_offset + layout.part_bytes(at.early);
  args.q_stride = static_cast<std::size_t>(config.head_dim);
  const std::size_t row = static_cast<std::size_t>(item.kv_head) * static_cast<std::size_t>(max_rows_) +
                          static_cast<std::size_t>(leader.first_row);
  const auto group = static_cast<std::size_t>(config.heads / config.kv_heads);
  args.q = queries(args.format) + row * group * args.q_stride * element_bytes(args.format);
  args.chunk = at.number;
  args.scale = config.scale;
  args.large_l1 = has_large_l1();
}

// Attends to K/V that are codes. Where the rows are so few that the kernel takes them at once, it decodes each tile
// when it gets there. Otherwise: loads the blocks of the chunk that some row sees as bf16, which then are args' first
// chunk.
void CpuAttention::attend_codes(int thread, const KvLayout& layout, const Bounds& bounds, AttentionArgs& args) {
  const KvCodes codes = layout.codes();
  args.format = KvFormat::bf16;
  if (bounds.rows <= kRowsAtOnce) {
    args.codes = &codes;
    args.loaded = loaded_[static_cast<std::size_t>(thread) * kChunkBlocks];
    bounds.give(args);
    return kernels_.attend(args);
  }
  const Bounds local = bounds.within(args.chunk);
  const bool kept = local.kept && *std::max_element(local.kept_end, local.kept_end + local.rows) > 0;
  const int begin = kept ? 0 : std::max(0, *std::min_element(local.begin, local.begin + local.rows));
  const int first = begin / kBlockTokens;
  const int keys = std::min(kChunkKeys, *std::max_element(local.end, local.end + local.rows));
  const int end = (keys + kBlockTokens - 1) / kBlockTokens;
  const std::size_t loaded_part = kv_part_bytes(KvFormat::bf16, layout.head_dim, 0);
  std::byte* const* loaded = loaded_.data() + static_cast<std::ptrdiff_t>(thread) * kChunkBlocks;
  for (int b = first; b < end; ++b) {
    const int from = args.chunk * kChunkBlocks + b;
    if (args.pages[from] == nullptr) continue;  // hidden: what was loaded before is as good
    const std::byte* part = args.pages[from] + args.k_offset;
    kernels_.load_codes(part, codes, KvPart::keys, nullptr, loaded[b]);
    kernels_.load_codes(part + codes.bytes, codes, KvPart::values, nullptr, loaded[b] + loaded_part);
  }
  local.give(args);
  args.pages = loaded;
  args.page_count = end;
  args.k_offset = 0;
  args.v_offset = loaded_part;
  args.chunk = 0;
  args.next = nullptr;
  kernels_.attend(args);
}

void CpuAttention::attend_chunk(int thread, const KvLayout& layout, int chunk, const Bounds& bounds,
                                AttentionArgs& args) {
  const Chunk at = chunk_at(layout, chunk);
  if (!at.whole) {
    const int first = at.number * kChunkKeys;
    const Bounds part = at.early ? bounds.of(first, layout.start) : bounds.of(layout.start, first + kChunkKeys);
    if (!at.early) return attend_codes(thread, layout, part, args);
    part.give(args);
    return kernels_.attend(args);
  }
  if (is_quantised(args.format)) return attend_codes(thread, layout, bounds, args);
  bounds.give(args);
  kernels_.attend(args);
}

void CpuAttention::run_chunk(int item, const AttentionConfig& config, int thread) {
  const Item& present = items_[static_cast<std::size_t>(item)];
  Bounds bounds;
  for (int i = present.first; i < present.first + present.count; ++i) {
    const Span& span = spans_[static_cast<std::size_t>(i)];
    bounds.add(config, *span.sequence->kv.layout, span.first_position, span.rows);
  }
  AttentionArgs args;
  AttentionArgs next;
  prepare(present, present.chunk, config, args);
  const Span& leader = spans_[static_cast<std::size_t>(present.first)];
  args.out = &states_[state(present.chunk, present.kv_head, leader.split_row, config.heads / config.kv_heads)];
  if (static_cast<std::size_t>(item) + 1 < items_.size()) {  // most often this thread's next
    const Item& following = items_[static_cast<std::size_t>(item) + 1];
    prepare(following, following.chunk, config, next);
    args.next = &next;
  }
  attend_chunk(thread, *leader.sequence->kv.layout, present.chunk, bounds, args);
}

void CpuAttention::run_whole(const Item& item, const AttentionConfig& config, int thread, float* out, int out_columns) {
  const Span& span = spans_[static_cast<std::size_t>(item.first)];
  AttentionState* total = &states_[split_states_ + static_cast<std::size_t>(thread) * 2 * kQueryRows];
  AttentionState* part = total + kQueryRows;
  Bounds bounds;
  bounds.add(config, *span.sequence->kv.layout, span.first_position, span.rows);
  AttentionArgs args;
  for (int chunk = span.first_chunk; chunk < span.end_chunk; ++chunk) {
    if (!span.sees(chunk)) continue;
    prepare(item, chunk, config, args);
    args.out = chunk == span.first_chunk ? total : part;
    attend_chunk(thread, *span.sequence->kv.layout, chunk, bounds, args);
    for (int i = 0; i < bounds.rows && chunk > span.first_chunk; ++i) {
      kernels_.merge(total[i], part[i], config.head_dim);
    }
  }
  const int group = config.heads / config.kv_heads;
  for (int i = 0; i < bounds.rows; ++i) {
    float* to = out + static_cast<std::size_t>(span.first_row + i / group) * static_cast<std::size_t>(out_columns) +
                (item.kv_head * group + i % group) * config.head_dim;
    kernels_.finish(total[i], config.head_dim, to);
  }
}

void CpuAttention::finish_row(int row, const AttentionConfig& config, float* out) {
  const Span& span = spans_[static_cast<std::size_t>(span_of_row_[static_cast<std::size_t>(row)])];
  if (span.split_row < 0) return;
  const int group = config.heads / config.kv_heads;
  const int split_row = span.split_row + row - span.first_row;
  for (int head = 0; head < config.heads; ++head, out += config.head_dim) {
    const auto at = [&](int chunk) -> AttentionState& {
      return states_[state(chunk, head / group, split_row, group) + static_cast<std::size_t>(head % group)];
    };
    AttentionState& total = at(span.first_chunk);
    for (int chunk = span.first_chunk + 1; chunk < span.end_chunk; ++chunk) {
      if (span.sees(chunk)) kernels_.merge(total, at(chunk), config.head_dim);
    }
    kernels_.finish(total, config.head_dim, out);
  }
}

void CpuAttention::attend(std::span<const StepSequence> sequences, const AttentionConfig& config, float* out,
                          int out_columns) {
  plan(sequences, config);
  runs_.reset(static_cast<int>(items_.size()) - whole_items_);
  std::atomic<int> next{0};
  pool_.run([&](int part, int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < whole_items_;) {
      run_whole(items_[static_cast<std::size_t>(i)], config, part, out, out_columns);
    }
    for (int i; (i = runs_.take(part)) >= 0;) run_chunk(whole_items_ + i, config, part);
  });
}

}  // namespace dalsegno
