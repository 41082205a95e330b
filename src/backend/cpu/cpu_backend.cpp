#include "backend/cpu/cpu_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstring>
#include <numeric>

#include "backend/cpu/cpu_attention.hpp"
#include "backend/cpu/cpu_lookahead.hpp"
#include "backend/cpu/cpu_objects.hpp"
#include "backend/cpu/cpu_products.hpp"
#include "backend/cpu/cpu_rope.hpp"
#include "backend/cpu/host_memory.hpp"
#include "base/float_state.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

// Rows whose logits are computed at a time: 32 rows already reach the speed of large products,
// and 32 rows of a vocabulary of 262k are 33 MB.
constexpr int kLogitRows = 32;
// Fewer rows than this are not worth waking the pool for norms and gates.
constexpr int kParallelRows = 2;
// Packed by a thread between two looks at whether loading was cancelled: a millisecond, or ten from a slow disk.
constexpr std::size_t kLoadBytes = 1U << 20;
template <class To, class From>
To& as(From& object) {
  return static_cast<To&>(object);
}

Error not_finite(const std::string& tensor) {
  return {ErrorCode::corrupt,
          fmt::format("tensor {} holds NaN or infinite values; the file is damaged, get it again", tensor)};
}

enum class Tensors : std::uint8_t { read, only_sized };

class CpuBackend final : public Backend {
 public:
  CpuBackend(ThreadPool& pool, const Kernels& kernels, MemoryBudget& budget, int activation_bits, Tensors tensors,
             const std::stop_token& cancel)
      : pool_(pool),
        kernels_(kernels),
        activation_bits_(activation_bits),
        tensors_(tensors),
        cancel_(cancel),
        weights_(budget, MemoryKind::weights),
        work_(budget, MemoryKind::work),
        tables_(budget, MemoryKind::work),
        attention_(pool, kernels),
        products_(pool, kernels),
        lookahead_(pool.threads()) {}

  Result<std::unique_ptr<Weight>> load(std::span<const TensorSource> parts, const Read& read) override;
  Result<std::unique_ptr<Vector>> load_vector(std::span<const TensorSource> parts) override;
  Result<std::unique_ptr<Buffer>> make_buffer(int rows, int columns, const Buffer* within) override;
  Result<std::unique_ptr<Activations>> make_activations(int rows, int columns, std::span<const Weight* const> readers,
                                                        const Buffer* within) override;
  Result<std::unique_ptr<RopeTable>> make_rope(const RopeConfig& config, int positions) override;
  Result<void> reserve_attention(const AttentionConfig& config, int rows, int positions) override {
    return attention_.reserve(work_, config, rows, positions);
  }
  Result<void> reserve_logits(const Weight& head) override;

  void begin(const Step& step) override;
  void embed(const Weight& table, float scale, Buffer& x) override;
  void norm(const Buffer& x, const Vector& w, float eps, Activations& out) override;
  void norm_add(Buffer& y, const Vector& w, float eps, Buffer& x) override;
  void norm_heads(Buffer& qkv, const Vector& q_norm, const Vector& k_norm, float eps,
                  const AttentionConfig& config) override;
  void linear(const Activations& a, const Weight& w, const Vector* bias, Buffer& y) override {
    multiply(a, w, bias, y, false);
  }
  void linear_add(const Activations& a, const Weight& w, const Vector* bias, Buffer& y) override {
    multiply(a, w, bias, y, true);
  }
  void rope_and_store(Buffer& qkv, const RopeTable& rope, const AttentionConfig& config) override;
  void keep_logit_rows(Buffer& x, const AttentionConfig& config) override;
  void attention(const Buffer& qkv, const AttentionConfig& config, Activations& out) override;
  void gate(const Buffer& gate_up, Gate kind, Activations& out) override;
  void begin_at_logits(std::span<const float> hidden, Buffer& x) override;
  void logits(const Buffer& x, const Vector& w, float eps, const Weight& head, const LogitSink& sink) override;

  [[nodiscard]] std::span<const char* const> failed_rows() const override { return failed_; }
  [[nodiscard]] std::uint64_t weight_bytes() const override { return weights_.bytes(); }
  [[nodiscard]] std::uint64_t work_bytes() const override { return work_.bytes() + tables_.bytes(); }
  void release_buffers() override {
    work_.give_back();
    tables_.give_back();
    ++releases_;
  }

 private:
  [[nodiscard]] int rows() const {
    return static_cast<int>(only_logit_rows_ ? step_.logit_rows.size() : step_.tokens.size());
  }
  [[nodiscard]] std::span<const StepSequence> sequences() const {
    return only_logit_rows_ ? std::span<const StepSequence>(kept_) : step_.sequences;
  }
  void fail(int row, const char* why);
  // body(r) for every row, on one thread if there are few.
  template <class Body>
  void each_row(int count, const Body& body);
  template <class Body>
  void prepare_rows(int count, const Body& body);
  void multiply(const Activations& a, const Weight& w, const Vector* bias, Buffer& y, bool add);
  Result<QuantRows> make_quant_rows(std::size_t count, int columns);
  void quantise(CpuActivations& a, int row, int step_row, const char* where);

  ThreadPool& pool_;
  const Kernels& kernels_;
  const int activation_bits_;
  const Tensors tensors_;
  const std::stop_token cancel_;  // of load()
  HostArena weights_;
  HostArena work_;    // buffers of a step: nothing in them outlives it
  HostArena tables_;  // of RoPE
  std::uint64_t releases_ = 0;
  CpuAttention attention_;
  CpuProducts products_;
  CpuLookahead lookahead_;
  float* logits_ = nullptr;                           // [kLogitRows, vocabulary]
  std::array<std::atomic<bool>, kLogitRows> finite_;  // of the rows of logits_
  std::unique_ptr<Activations> head_in_;
  Step step_;
  std::vector<std::int32_t> every_row_;               // logit_rows of begin_at_logits()
  std::vector<const StepSequence*> sequence_of_row_;  // [rows of the step]
  bool only_logit_rows_ = false;                      // see keep_logit_rows()
  std::vector<StepSequence> kept_;                    // then: each run of a sequence's logit rows
  std::vector<const char*> failed_;                   // [rows of the step]
};

// The data of outputs [begin, end).
std::span<const std::byte> rows_of(const TensorSource& source, int begin, int end) {
  const TensorTypeTraits& type = traits(source.type);
  const std::size_t row =
      static_cast<std::size_t>(source.k / type.block_elements) * static_cast<std::size_t>(type.block_bytes);
  return {source.data + static_cast<std::size_t>(begin) * row, static_cast<std::size_t>(end - begin) * row};
}

Result<std::unique_ptr<Weight>> CpuBackend::load(std::span<const TensorSource> parts, const Read& read) {
  auto weight = std::make_unique<CpuWeight>();
  for (const TensorSource& source : parts) {
    const PackedFormat format = packed_format(source.type);
    DALSEGNO_ASSIGN(data, weights_.allocate(packed_bytes(format, source.n, source.k), "tensor " + source.name));
    const int panels = (source.n + kPanelColumns - 1) / kPanelColumns;
    const int share = static_cast<int>(std::max<std::size_t>(1, kLoadBytes / packed_panel_bytes(format, source.k)));
    std::atomic<bool> finite{true};
    if (tensors_ == Tensors::read)
      pool_.run([&](int part, int count) {
        const int begin = panels * part / count;
        const int end = panels * (part + 1) / count;
        for (int at = begin; at < end && !cancel_.stop_requested(); at += share) {
          const int next = std::min(end, at + share);
          if (!pack_panels(source.type, source.data, source.n, source.k, at, next, data)) finite = false;
          read(rows_of(source, at * kPanelColumns, std::min(source.n, next * kPanelColumns)));
        }
      });
    if (cancel_.stop_requested()) return Error{ErrorCode::cancelled, "loading was cancelled"};
    if (!finite) return not_finite(source.name);
    weight->parts.push_back(
        {{format, source.n, source.k, panels, packed_panel_bytes(format, source.k), data}, weight->n});
    weight->n += source.n;
    weight->k = source.k;
    weight->panels += panels;
  }
  return std::unique_ptr<Weight>(std::move(weight));
}

Result<std::unique_ptr<Vector>> CpuBackend::load_vector(std::span<const TensorSource> parts) {
  auto vector = std::make_unique<CpuVector>();
  for (const TensorSource& part : parts) vector->n += part.k;
  DALSEGNO_ASSIGN(data,
                  weights_.allocate(static_cast<std::size_t>(vector->n) * sizeof(float), "tensor " + parts[0].name));
  vector->values = reinterpret_cast<const float*>(data);
  if (tensors_ == Tensors::only_sized) return std::unique_ptr<Vector>(std::move(vector));
  for (const TensorSource& part : parts) {
    const std::size_t bytes = static_cast<std::size_t>(part.k) * sizeof(float);
    std::memcpy(data, part.data, bytes);
    if (!kernels_.all_finite(reinterpret_cast<const float*>(data), part.k)) return not_finite(part.name);
    data += bytes;
  }
  return std::unique_ptr<Vector>(std::move(vector));
}

Result<std::unique_ptr<Buffer>> CpuBackend::make_buffer(int rows, int columns, const Buffer* within) {
  auto buffer = std::make_unique<CpuBuffer>();
  const auto* other = static_cast<const CpuBuffer*>(within);
  if (other != nullptr && other->rows >= rows && other->columns >= columns) {
    *buffer = *other;
    buffer->columns = columns;
    return std::unique_ptr<Buffer>(std::move(buffer));
  }
  const std::size_t count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  DALSEGNO_ASSIGN(data, work_.allocate(count * sizeof(float), "a step buffer"));
  buffer->values = reinterpret_cast<float*>(data);
  buffer->rows = rows;
  buffer->columns = columns;
  return std::unique_ptr<Buffer>(std::move(buffer));
}

Result<std::unique_ptr<Activations>> CpuBackend::make_activations(int rows, int columns,
                                                                  std::span<const Weight* const> readers,
                                                                  const Buffer* within) {
  const auto any = [&](bool (CpuWeight::*reads)() const) {
    return std::ranges::any_of(readers, [&](const Weight* w) { return (static_cast<const CpuWeight*>(w)->*reads)(); });
  };
  auto act = std::make_unique<CpuActivations>();
  act->columns = columns;
  const auto* other = static_cast<const CpuBuffer*>(within);
  const std::size_t count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  if (other != nullptr && other->rows >= rows && other->columns >= columns && !any(&CpuWeight::reads_floats)) {
    act->values = other->values;
    act->stride = other->columns;
  } else {
    DALSEGNO_ASSIGN(data, work_.allocate(count * sizeof(float), "a step buffer"));
    act->values = reinterpret_cast<float*>(data);
    act->stride = columns;
  }
  if (any(&CpuWeight::reads_codes)) {
    DALSEGNO_ASSIGN(quant, make_quant_rows(count, columns));
    act->quant = quant;
  }
  return std::unique_ptr<Activations>(std::move(act));
}

Result<QuantRows> CpuBackend::make_quant_rows(std::size_t count, int columns) {
  const std::size_t groups = count / kGroup;
  const std::size_t wide = activation_bits_ == 16 ? 2 : 1;  // bytes of a code, sums of a group
  DALSEGNO_ASSIGN(codes, work_.allocate(count * wide, "a step buffer"));
  DALSEGNO_ASSIGN(scale, work_.allocate(groups * sizeof(float), "a step buffer"));
  DALSEGNO_ASSIGN(sum, work_.allocate(groups * wide * sizeof(std::int32_t), "a step buffer"));
  DALSEGNO_ASSIGN(total, work_.allocate(groups * sizeof(float), "a step buffer"));
  QuantRows rows;
  if (wide == 2) {
    rows.codes16 = reinterpret_cast<std::int16_t*>(codes);
  } else {
    rows.codes = reinterpret_cast<std::int8_t*>(codes);
  }
  rows.scale = reinterpret_cast<float*>(scale);
  rows.sum = reinterpret_cast<std::int32_t*>(sum);
  rows.total = reinterpret_cast<float*>(total);
  rows.k = columns;
  return rows;
}

Result<std::unique_ptr<RopeTable>> CpuBackend::make_rope(const RopeConfig& config, int positions) {
  const FloatState state;
  auto rope = std::make_unique<CpuRope>();
  rope->frequencies = rope_frequencies(config);
  rope->dims = config.dims;
  rope->positions = positions;
  rope->interleaved = config.interleaved;
  const std::size_t bytes = static_cast<std::size_t>(positions) * rope->frequencies.size() * sizeof(float);
  DALSEGNO_ASSIGN(cos, tables_.allocate(bytes, "the RoPE table"));
  DALSEGNO_ASSIGN(sin, tables_.allocate(bytes, "the RoPE table"));
  rope->cos = reinterpret_cast<float*>(cos);
  rope->sin = reinterpret_cast<float*>(sin);
  return std::unique_ptr<RopeTable>(std::move(rope));
}

Result<void> CpuBackend::reserve_logits(const Weight& head) {
  const auto& weight = as<const CpuWeight>(head);
  const std::size_t bytes = static_cast<std::size_t>(kLogitRows) * static_cast<std::size_t>(weight.n) * sizeof(float);
  DALSEGNO_ASSIGN(data, work_.allocate(bytes, "the logits"));
  logits_ = reinterpret_cast<float*>(data);
  const Weight* readers[] = {&head};
  DALSEGNO_ASSIGN(act, make_activations(kLogitRows, weight.k, readers, nullptr));
  head_in_ = std::move(act);
  return {};
}

void CpuBackend::begin(const Step& step) {
  step_ = step;
  failed_.assign(step.tokens.size(), nullptr);
  only_logit_rows_ = false;
  sequence_of_row_.clear();
  for (const StepSequence& sequence : step.sequences) {
    sequence_of_row_.insert(sequence_of_row_.end(), static_cast<std::size_t>(sequence.rows), &sequence);
  }
  lookahead_.begin(step);
}

template <class Body>
void CpuBackend::each_row(int count, const Body& body) {
  if (count < kParallelRows) {
    const FloatState state;
    for (int r = 0; r < count; ++r) body(r);
    return;
  }
  pool_.run([&](int part, int parts) {
    const int end = static_cast<int>(static_cast<std::int64_t>(count) * (part + 1) / parts);
    for (int r = static_cast<int>(static_cast<std::int64_t>(count) * part / parts); r < end; ++r) body(r);
  });
}

// body(i) for rows of logits, of which one may take many times as long as another.
template <class Body>
void CpuBackend::prepare_rows(int count, const Body& body) {
  if (count == 1) return body(0);
  std::atomic<int> next{0};
  pool_.run([&](int, int) {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  });
}

// row: among those that the step has now.
void CpuBackend::fail(int row, const char* why) {
  const auto at = static_cast<std::size_t>(row);
  const char*& reason = failed_[only_logit_rows_ ? static_cast<std::size_t>(step_.logit_rows[at]) : at];
  if (reason == nullptr) reason = why;
}

void CpuBackend::quantise(CpuActivations& a, int row, int step_row, const char* where) {
  const bool finite =
      a.quantised() ? kernels_.quantise(a.row(row), row, a.quant) : kernels_.all_finite(a.row(row), a.columns);
  if (!finite) fail(step_row, where);
}

void CpuBackend::embed(const Weight& table, float scale, Buffer& x) {
  const PackedMatrix& matrix = as<const CpuWeight>(table).parts.front().matrix;
  auto& out = as<CpuBuffer>(x);
  each_row(rows(), [&](int r) {
    kernels_.embed_row(matrix, step_.tokens[static_cast<std::size_t>(r)], out.row(r));
    if (scale != 1.0F) kernels_.scale(out.row(r), out.columns, scale);
  });
}

void CpuBackend::norm(const Buffer& x, const Vector& w, float eps, Activations& out) {
  const auto& in = as<const CpuBuffer>(x);
  const auto& weights = as<const CpuVector>(w);
  auto& act = as<CpuActivations>(out);
  each_row(rows(), [&](int r) {
    kernels_.rms_norm(in.row(r), weights.values, weights.n, eps, act.row(r));
    quantise(act, r, r, "a hidden state is NaN or infinite");
  });
}

void CpuBackend::norm_add(Buffer& y, const Vector& w, float eps, Buffer& x) {
  const auto& in = as<CpuBuffer>(y);
  const auto& weights = as<const CpuVector>(w);
  const auto& out = as<CpuBuffer>(x);
  each_row(rows(), [&](int r) {
    kernels_.rms_norm(in.row(r), weights.values, weights.n, eps, in.row(r));
    kernels_.add(out.row(r), in.row(r), weights.n);
  });
}

void CpuBackend::norm_heads(Buffer& qkv, const Vector& q_norm, const Vector& k_norm, float eps,
                            const AttentionConfig& config) {
  const auto& buffer = as<CpuBuffer>(qkv);
  each_row(rows(), [&](int r) {
    float* head = buffer.row(r);
    for (int h = 0; h < config.heads + config.kv_heads; ++h, head += config.head_dim) {
      const auto& weights = as<const CpuVector>(h < config.heads ? q_norm : k_norm);
      kernels_.rms_norm(head, weights.values, config.head_dim, eps, head);
    }
  });
}

void CpuBackend::multiply(const Activations& a, const Weight& w, const Vector* bias, Buffer& y, bool add) {
  const auto& weight = as<const CpuWeight>(w);
  const auto& out = as<CpuBuffer>(y);
  const float* offsets = bias != nullptr ? static_cast<const CpuVector*>(bias)->values : nullptr;
  products_.multiply(as<const CpuActivations>(a), rows(), weight, {offsets, out.values, out.columns, add},
                     lookahead_.take(rows(), weight));
}

void CpuBackend::rope_and_store(Buffer& qkv, const RopeTable& rope, const AttentionConfig& config) {
  const auto& table = as<const CpuRope>(rope);
  {
    const FloatState state;
    if (table.releases != releases_) table.filled = 0;
    table.releases = releases_;
    for (const StepSequence& sequence : step_.sequences) fill_rope(table, sequence.first_position + sequence.rows);
  }
  auto& in = as<CpuBuffer>(qkv);
  each_row(rows(), [&](int row) {
    const StepSequence& sequence = *sequence_of_row_[static_cast<std::size_t>(row)];
    const int position = sequence.first_position + row - sequence.first_row;
    if (!attention_.store_row(in.row(row), table, config, sequence, row, position)) {
      fail(row, "a key or value is NaN, infinite or beyond the K/V format's range");
    }
  });
}

void CpuBackend::keep_logit_rows(Buffer& x, const AttentionConfig& config) {
  const std::span<const std::int32_t> wanted = step_.logit_rows;
  if (wanted.size() == step_.tokens.size()) return;
  auto& values = as<CpuBuffer>(x);
  kept_.clear();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const int row = wanted[i];
    const StepSequence& sequence = *sequence_of_row_[static_cast<std::size_t>(row)];
    const bool continues =
        i > 0 && wanted[i - 1] == row - 1 && sequence_of_row_[static_cast<std::size_t>(row) - 1] == &sequence;
    if (continues) {
      ++kept_.back().rows;
    } else {
      kept_.push_back({sequence.kv, static_cast<int>(i), 1, sequence.first_position + row - sequence.first_row});
    }
    std::memmove(values.row(static_cast<int>(i)), values.row(row),
                 static_cast<std::size_t>(values.columns) * sizeof(float));
  }
  attention_.keep_rows(wanted, *step_.sequences.front().kv.layout, config);
  only_logit_rows_ = true;
}

void CpuBackend::attention(const Buffer&, const AttentionConfig& config, Activations& out) {
  auto& act = as<CpuActivations>(out);
  attention_.attend(sequences(), config, act.values, act.stride);
  lookahead_.look(config.layer + 1);
  each_row(rows(), [&](int r) {
    attention_.finish_row(r, config, act.row(r));
    quantise(act, r, r, "attention gave NaN or infinity");
  });
}

void CpuBackend::gate(const Buffer& gate_up, Gate kind, Activations& out) {
  const auto& in = as<const CpuBuffer>(gate_up);
  auto& act = as<CpuActivations>(out);
  const auto gate_mul = kind == Gate::gelu ? kernels_.gelu_mul : kernels_.silu_mul;
  each_row(rows(), [&](int r) {
    gate_mul(in.row(r), in.row(r) + act.columns, act.columns, act.row(r));
    quantise(act, r, r, "the feed-forward gate gave NaN or infinity");
  });
}

void CpuBackend::begin_at_logits(std::span<const float> hidden, Buffer& x) {
  auto& out = as<CpuBuffer>(x);
  const std::size_t count = hidden.size() / static_cast<std::size_t>(out.columns);
  assert(count <= static_cast<std::size_t>(out.rows));
  every_row_.resize(count);
  std::iota(every_row_.begin(), every_row_.end(), 0);
  begin({{}, {}, every_row_});
  failed_.assign(count, nullptr);
  std::ranges::copy(hidden, out.values);
}

void CpuBackend::logits(const Buffer& x, const Vector& w, float eps, const Weight& head, const LogitSink& sink) {
  const auto& in = as<const CpuBuffer>(x);
  const auto& norm_weights = as<const CpuVector>(w);
  const auto& matrix = as<const CpuWeight>(head);
  auto& act = as<CpuActivations>(*head_in_);
  const int wanted = static_cast<int>(step_.logit_rows.size());
  for (int first = 0; first < wanted; first += kLogitRows) {
    const int count = std::min(kLogitRows, wanted - first);
    // Where they are now: dropped rows have made way.
    const auto row_of = [&](int i) {
      return only_logit_rows_ ? first + i : step_.logit_rows[static_cast<std::size_t>(first + i)];
    };
    each_row(count, [&](int i) {
      kernels_.rms_norm(in.row(row_of(i)), norm_weights.values, norm_weights.n, eps, act.row(i));
      quantise(act, i, row_of(i), "the last hidden state is NaN or infinite");
    });
    products_.multiply_head(act, count, matrix, logits_, finite_);
    const auto logits_of = [&](int i) {
      const auto columns = static_cast<std::size_t>(matrix.n);
      return std::span<const float>(logits_ + static_cast<std::size_t>(i) * columns, columns);
    };
    for (int i = 0; i < count; ++i) {
      if (!finite_[static_cast<std::size_t>(i)]) fail(row_of(i), "a logit is NaN or infinite");
    }
    if (step_.prepare) {
      prepare_rows(count, [&](int i) {
        const auto row = static_cast<std::size_t>(step_.logit_rows[static_cast<std::size_t>(first + i)]);
        if (failed_[row] == nullptr) step_.prepare(first + i, logits_of(i));
      });
    }
    for (int i = 0; i < count; ++i) {
      sink(first + i, logits_of(i), {in.row(row_of(i)), static_cast<std::size_t>(in.columns)});
    }
  }
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(ThreadPool& pool, const Kernels& kernels, MemoryBudget& budget,
                                          int activation_bits, const std::stop_token& cancel) {
  return std::make_unique<CpuBackend>(pool, kernels, budget, activation_bits, Tensors::read, cancel);
}

std::unique_ptr<Backend> make_sizing_backend(ThreadPool& pool, const Kernels& kernels, MemoryBudget& budget,
                                             int activation_bits) {
  return std::make_unique<CpuBackend>(pool, kernels, budget, activation_bits, Tensors::only_sized, std::stop_token());
}

}  // namespace dalsegno
