#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/tensor_type.hpp"

namespace dalsegno {

// The seam for a second device: a forward pass is written in these operations over opaque
// handles, so that models never see where numbers live. The CPU backend is the reference and
// the only one that promises bits.

// One matrix of a GGUF file, [n outputs, k inputs]; rows of whole blocks.
struct TensorSource {
  std::string name;
  TensorType type = TensorType::f32;
  const std::byte* data = nullptr;
  int n = 0;
  int k = 0;
};

class Weight {  // one or more matrices with the same k, their outputs side by side
 public:
  virtual ~Weight() = default;
};
class Vector {  // f32 values: a norm's weights, a bias
 public:
  virtual ~Vector() = default;
};
class Buffer {  // [rows, columns] f32 values of a step
 public:
  virtual ~Buffer() = default;
};
class Activations {  // [rows, columns] inputs of linear(), in the precisions its readers need
 public:
  virtual ~Activations() = default;
};
class RopeTable {
 public:
  virtual ~RopeTable() = default;
};

struct RopeConfig {
  int dims = 0;  // of a head that are rotated
  float base = 10000.0F;
  float position_scale = 1.0F;      // linear scaling: frequencies are multiplied by it
  bool interleaved = false;         // pairs (2i, 2i+1) instead of (i, i + dims/2)
  const float* divisors = nullptr;  // [dims/2] frequency divisors ("rope_freqs.weight"), or nullptr; read at load
};

// The new tokens of one sequence in a step: rows [first_row, first_row + rows) at positions
// first_position, first_position + 1, ...
struct StepSequence {
  KvView kv;
  int first_row = 0;
  int rows = 0;
  int first_position = 0;
};

// A step: new tokens of several sequences, and the rows whose logits are wanted (ascending).
struct Step {
  std::span<const TokenId> tokens;
  std::span<const StepSequence> sequences;
  std::span<const std::int32_t> logit_rows;
  // Before the sink is told of a row that has not failed, or empty: what can be done with logits beside other rows.
  // Called on any thread of the pool, for several rows at the same time; index: into logit_rows.
  std::function<void(int index, std::span<const float> logits)> prepare{};
};

struct AttentionConfig {
  int layer = 0;  // of the model; the K/V layout knows its place
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 0;
  int window = 0;  // a query sees itself and the window - 1 tokens before it; 0: all
};

enum class Gate : std::uint8_t { silu, gelu };  // gelu: its tanh form

// Threads: one caller at a time (the engine thread); work is spread over the process's pool.
// Rows that turn NaN or infinite are noted, see failed_rows(); the others are not disturbed.
class Backend {
 public:
  virtual ~Backend() = default;

  // Load time. read: called with each piece of a part's data that is not needed any more, on any thread of the pool.
  // Errors: corrupt (non-finite weights, named), exhausted, cancelled.
  using Read = std::function<void(std::span<const std::byte> piece)>;
  virtual Result<std::unique_ptr<Weight>> load(std::span<const TensorSource> parts, const Read& read) = 0;
  // The parts' values one after another; each part is f32 with n == 1.
  virtual Result<std::unique_ptr<Vector>> load_vector(std::span<const TensorSource> parts) = 0;
  // within: a buffer that is never needed at the same time, whose memory this one uses as well if it is large enough.
  virtual Result<std::unique_ptr<Buffer>> make_buffer(int rows, int columns, const Buffer* within = nullptr) = 0;
  // within: a buffer that is free, or what gate() reads, while these are written, until linear() reads them. Where
  // their readers take codes alone, the values need no memory of their own until they are codes.
  virtual Result<std::unique_ptr<Activations>> make_activations(int rows, int columns,
                                                                std::span<const Weight* const> readers,
                                                                const Buffer* within) = 0;
  virtual Result<std::unique_ptr<RopeTable>> make_rope(const RopeConfig& config, int positions) = 0;
  // Room for the queries and partial results of steps of at most `rows` rows over at most `positions` keys.
  virtual Result<void> reserve_attention(const AttentionConfig& config, int rows, int positions) = 0;
  // Room for logits() with this head.
  virtual Result<void> reserve_logits(const Weight& head) = 0;

  // Step time. begin() clears failed rows; the step's spans stay valid until the next begin().
  virtual void begin(const Step& step) = 0;
  // x = rows of `table` for the step's tokens, times `scale`.
  virtual void embed(const Weight& table, float scale, Buffer& x) = 0;
  // out = rms_norm(x) * w
  virtual void norm(const Buffer& x, const Vector& w, float eps, Activations& out) = 0;
  // x = x + rms_norm(y) * w: the residual of a block whose output is normed. y is used up.
  virtual void norm_add(Buffer& y, const Vector& w, float eps, Buffer& x) = 0;
  // y = a W^T + bias (nullptr: none)
  virtual void linear(const Activations& a, const Weight& w, const Vector* bias, Buffer& y) = 0;
  // y = y + (a W^T + bias): the residual
  virtual void linear_add(const Activations& a, const Weight& w, const Vector* bias, Buffer& y) = 0;
  // Each head of q and of k on its own: q = rms_norm(q) * q_norm, k = rms_norm(k) * k_norm. qkv as below.
  virtual void norm_heads(Buffer& qkv, const Vector& q_norm, const Vector& k_norm, float eps,
                          const AttentionConfig& config) = 0;
  // qkv: [rows, (heads + 2 * kv_heads) * head_dim]. Rotates q and k at the rows' positions and writes
  // k and v through the sequences' views.
  virtual void rope_and_store(Buffer& qkv, const RopeTable& rope, const AttentionConfig& config) = 0;
  // From here to the next begin() the step consists of its logit rows alone: of x and of the queries the others are
  // dropped, and row i of every buffer belongs to logit_rows[i]. For the last layer, once its k and v are stored.
  virtual void keep_logit_rows(Buffer& x, const AttentionConfig& config) = 0;
  // out = attention of q (as left by rope_and_store) over the views, [rows, heads * head_dim]
  virtual void attention(const Buffer& qkv, const AttentionConfig& config, Activations& out) = 0;
  // gate_up: [rows, 2 * columns], gate first. out = gate(g) * u
  virtual void gate(const Buffer& gate_up, Gate kind, Activations& out) = 0;
  // Instead of begin(): a step whose layers have been computed before. x = `hidden`, [rows, columns of x], and every
  // row is a logit row.
  virtual void begin_at_logits(std::span<const float> hidden, Buffer& x) = 0;
  // For the step's logit_rows, some at a time: norm, times `head`; sink is told (index into
  // logit_rows, logits [vocabulary], the row of x) in order. x: of all rows, or of those that keep_logit_rows() left.
  // Both spans are valid during the call.
  using LogitSink = std::function<void(int index, std::span<const float> logits, std::span<const float> hidden)>;
  virtual void logits(const Buffer& x, const Vector& w, float eps, const Weight& head, const LogitSink& sink) = 0;

  // Per row of the last step: why it failed (static text), or nullptr.
  [[nodiscard]] virtual std::span<const char* const> failed_rows() const = 0;
  // Device memory held for weights, buffers and tables.
  [[nodiscard]] virtual std::uint64_t weight_bytes() const = 0;
  [[nodiscard]] virtual std::uint64_t work_bytes() const = 0;
  // Between steps: gives the memory behind step buffers back to the system. It comes back when it is next written.
  virtual void release_buffers() = 0;
};

}  // namespace dalsegno
