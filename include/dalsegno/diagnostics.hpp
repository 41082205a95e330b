#pragma once

// What `score`, `bench` and `inspect` need. No promise of stability.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno/engine.hpp"

namespace dalsegno {

// Bumped whenever a logit bit may change for the same tokens.
inline constexpr int kNumericsVersion = 1;

struct CpuLevels {
  std::vector<std::string> available;  // that this CPU runs and whose self-check passed, lowest first
  std::string chosen;
};
// Errors: invalid_argument when DALSEGNO_CPU names a level that is unknown or not available.
Result<CpuLevels> cpu_levels();

struct ScoreOptions {
  std::vector<int> at;  // positions whose top tokens are wanted, each >= from
  int top = 0;          // how many per position
  bool nll = true;
  bool hash = false;   // SHA-256 over the float32 logits of positions from..end, little endian
  int from = 0;        // first position whose logits are wanted; earlier ones may be reused
  int chunk = 512;     // tokens per step
  int warm = 0;        // first let another request compute this many tokens
  bool evict = false;  // then drop everything cached
};

struct ScoreResult {
  struct Position {
    int at = 0;
    std::vector<std::pair<TokenId, double>> top;  // log-probabilities in nats, best first, ties by id
  };
  std::vector<Position> positions;
  std::vector<double> nll;  // nll[i] = -ln p(ids[from+i+1] | ids[0..from+i]), nats
  std::string hash;         // lower-case hex; empty unless asked for
  Usage usage;
  Reuse reuse;
};
Result<ScoreResult> score(Engine& engine, const std::vector<TokenId>& ids, const ScoreOptions& options);

// Several sequences, each prefilled to `depth` distinct tokens of its own unless shared, then
// decoded together. For bench: wall-clock seconds of the timed part alone.
struct TimedRun {
  double seconds = 0;
  int tokens = 0;  // that the timed part computed, all sequences together
};
// prefill: one prompt of `tokens` tokens, nothing reused.
Result<TimedRun> time_prefill(Engine& engine, int tokens);
// decode: `batch` sequences at `depth`, `tokens` steps each; shared: they share the first `depth` tokens.
Result<TimedRun> time_decode(Engine& engine, int depth, int batch, int tokens, bool shared);

// What the machine can do at the CPU level in force, on `threads` threads (0: one per core): operations per second,
// two per multiply-add, of multiply-adds in registers. The best of several tries, `seconds` of them in all.
// Errors: as cpu_levels().
struct MachinePeak {
  double int8 = 0;
  double bf16 = 0;
};
Result<MachinePeak> measure_peak(int threads, double seconds);

// Operations by the unit that can do them fastest. Products with float weights count as bf16.
struct Operations {
  double int8 = 0;
  double bf16 = 0;
};
// What computing with a model cannot avoid, whatever the code.
struct ModelCost {
  double file_bytes = 0;
  double weight_bytes = 0;          // read by every step: all packed matrices but an embedding that is no head as well
  double kv_bytes = 0;              // per token held
  Operations layers;                // weight products per token; with 16-bit activations twice the int8 ones
  Operations head;                  // per token whose logits are wanted: the last layer beyond its K and V, the head
  double attention_operations = 0;  // bf16, per token and key it sees
  int window = 0;                   // what a token of windowed layers sees
  double windowed_share = 0;        // of K/V and attention that is windowed layers'
};
// Errors: as Engine::open.
Result<ModelCost> model_cost(const std::string& model_path, const KvOptions& kv, int activation_bits);

struct TensorTypeCount {
  std::string type;
  int count = 0;
  std::uint64_t bytes = 0;
};
struct InspectReport {
  std::string path;
  int gguf_version = 0;
  std::uint64_t file_bytes = 0;
  std::string architecture;
  bool runnable = false;  // by this version
  std::string name;
  std::uint64_t parameters = 0;
  int layers = 0, hidden = 0, feed_forward = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0, context = 0;
  int sliding_window = 0;   // tokens that windowed layers look back
  int windowed_layers = 0;  // how many those are
  std::vector<TensorTypeCount> tensor_types;
  std::uint64_t kv_bytes_per_token =
      0;               // in the KV format asked about, from kv_start on; bf16 if none is from there on
  int kv_start = 0;    // of codes, as rounded up: bf16 before
  int at_context = 0;  // the context length asked about
  std::uint64_t packed_weight_bytes = 0;  // weights in memory once repacked; 0 if not runnable
  std::uint64_t memory_at_context = 0;    // the least budget with which a sequence may be so long; 0 if not runnable
  std::string tokenizer_model, tokenizer_pre;
  bool has_template = false;
  std::vector<std::string> unusual;  // one sentence each
};
// context 0: the model's own; threads 0: one per core. Errors: as Engine::open, but unknown architectures are reported,
// not refused.
Result<InspectReport> inspect(const std::string& model_path, const KvOptions& kv, int context, int activation_bits = 8,
                              int threads = 0);

}  // namespace dalsegno
