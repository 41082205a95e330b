#pragma once

#include <memory>
#include <vector>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// The tensors of one layer. What a family does not have, or a file leaves out, is nullptr.
struct DecoderLayer {
  AttentionConfig attention;
  std::unique_ptr<Vector> attention_norm;       // [hidden]
  std::unique_ptr<Weight> qkv;                  // [(heads + 2 kv_heads) * head_dim, hidden]
  std::unique_ptr<Vector> qkv_bias;             // llama (optional), qwen2
  std::unique_ptr<Vector> q_norm;               // [head_dim]; qwen3, gemma3
  std::unique_ptr<Vector> k_norm;               // [head_dim]; qwen3, gemma3
  std::unique_ptr<Weight> output;               // [hidden, heads * head_dim]
  std::unique_ptr<Vector> output_bias;          // llama (optional)
  std::unique_ptr<Vector> attention_post_norm;  // [hidden]; gemma3
  std::unique_ptr<Vector> ffn_norm;             // [hidden]
  std::unique_ptr<Weight> gate_up;              // [2 * feed_forward, hidden]
  std::unique_ptr<Weight> down;                 // [hidden, feed_forward]
  std::unique_ptr<Vector> ffn_post_norm;        // [hidden]; gemma3
};

// What the decoder families hold alike: weights and a step's values. How they are used, each family's
// forward pass says in its own file. Constant after load_decoder(), but for what the buffers hold.
struct Decoder {
  ModelConfig config;
  std::unique_ptr<Weight> embedding;  // [vocabulary, hidden]
  std::vector<DecoderLayer> layers;
  std::unique_ptr<Vector> final_norm;  // [hidden]
  std::unique_ptr<Weight> own_head;    // [vocabulary, hidden], or nullptr: the embedding serves
  [[nodiscard]] const Weight& head() const { return own_head ? *own_head : *embedding; }

  std::unique_ptr<Buffer> x;              // [rows, hidden], the residual stream
  std::unique_ptr<Activations> normed;    // [rows, hidden]
  std::unique_ptr<Buffer> qkv;            // [rows, (heads + 2 kv_heads) * head_dim]
  std::unique_ptr<Activations> attended;  // [rows, heads * head_dim]
  std::unique_ptr<Buffer> gate_up;        // [rows, 2 * feed_forward]
  std::unique_ptr<Activations> gated;     // [rows, feed_forward]
  std::unique_ptr<Buffer> block_output;   // [rows, hidden], or nullptr: no layer norms it before the residual
};

// Where every family's forward pass ends: final norm and head of the rows in x whose logits are wanted.
void run_head(const Decoder& decoder, Backend& backend, const Backend::LogitSink& sink);

// Errors: corrupt (tensors missing or not finite), unsupported, exhausted.
Result<Decoder> load_decoder(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                             Backend& backend);

}  // namespace dalsegno
