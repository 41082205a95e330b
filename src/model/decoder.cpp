#include "model/decoder.hpp"

#include <fmt/format.h>

#include "model/weights.hpp"

namespace dalsegno {
namespace {

Result<DecoderLayer> load_layer(const GgufFile& file, const ModelConfig& config, int index, Backend& backend) {
  const auto name = [&](const char* tensor) { return fmt::format("blk.{}.{}", index, tensor); };
  const auto weight = [&](std::unique_ptr<Weight>& to, std::initializer_list<std::string> names) {
    return put(to, load_weight(file, names, backend));
  };
  const auto vector = [&](std::unique_ptr<Vector>& to, const char* tensor) {
    return put(to, load_vector(file, {name(tensor)}, backend));
  };
  const auto optional = [&](std::unique_ptr<Vector>& to, std::initializer_list<std::string> names) {
    return put(to, load_optional_vector(file, names, backend));
  };
  DecoderLayer layer;
  layer.attention = {index,           config.heads,           config.kv_heads,
                     config.head_dim, config.attention_scale, config.windowed(index) ? config.sliding_window : 0};
  DALSEGNO_TRY(vector(layer.attention_norm, "attn_norm.weight"));
  DALSEGNO_TRY(weight(layer.qkv, {name("attn_q.weight"), name("attn_k.weight"), name("attn_v.weight")}));
  DALSEGNO_TRY(optional(layer.qkv_bias, {name("attn_q.bias"), name("attn_k.bias"), name("attn_v.bias")}));
  DALSEGNO_TRY(optional(layer.q_norm, {name("attn_q_norm.weight")}));
  DALSEGNO_TRY(optional(layer.k_norm, {name("attn_k_norm.weight")}));
  DALSEGNO_TRY(weight(layer.output, {name("attn_output.weight")}));
  DALSEGNO_TRY(optional(layer.output_bias, {name("attn_output.bias")}));
  DALSEGNO_TRY(optional(layer.attention_post_norm, {name("post_attention_norm.weight")}));
  DALSEGNO_TRY(vector(layer.ffn_norm, "ffn_norm.weight"));
  DALSEGNO_TRY(weight(layer.gate_up, {name("ffn_gate.weight"), name("ffn_up.weight")}));
  DALSEGNO_TRY(weight(layer.down, {name("ffn_down.weight")}));
  DALSEGNO_TRY(optional(layer.ffn_post_norm, {name("post_ffw_norm.weight")}));
  return layer;
}

Result<void> make_buffers(Decoder& decoder, const ModelLimits& limits, Backend& backend) {
  std::vector<const Weight*> normed_readers;
  std::vector<const Weight*> attended_readers;
  std::vector<const Weight*> gated_readers;
  bool post_norms = false;
  for (const DecoderLayer& layer : decoder.layers) {
    normed_readers.insert(normed_readers.end(), {layer.qkv.get(), layer.gate_up.get()});
    attended_readers.push_back(layer.output.get());
    gated_readers.push_back(layer.down.get());
    post_norms = post_norms || layer.attention_post_norm || layer.ffn_post_norm;
  }
  const ModelConfig& config = decoder.config;
  const int width = config.heads * config.head_dim;
  const int kv_width = config.kv_heads * config.head_dim;
  DALSEGNO_TRY(put(decoder.x, backend.make_buffer(limits.rows, config.hidden)));
  DALSEGNO_TRY(put(decoder.gate_up, backend.make_buffer(limits.rows, 2 * config.feed_forward)));
  // Everything below but x is written while neither q, k and v nor the gates are needed, or in their place.
  const Buffer* gate_up = decoder.gate_up.get();
  const auto activations = [&](std::unique_ptr<Activations>& to, int columns, const auto& readers) {
    return put(to, backend.make_activations(limits.rows, columns, readers, gate_up));
  };
  DALSEGNO_TRY(put(decoder.qkv, backend.make_buffer(limits.rows, width + 2 * kv_width, gate_up)));
  DALSEGNO_TRY(activations(decoder.normed, config.hidden, normed_readers));
  DALSEGNO_TRY(activations(decoder.attended, width, attended_readers));
  DALSEGNO_TRY(activations(decoder.gated, config.feed_forward, gated_readers));
  if (post_norms) DALSEGNO_TRY(put(decoder.block_output, backend.make_buffer(limits.rows, config.hidden)));
  DALSEGNO_TRY(backend.reserve_attention(decoder.layers.front().attention, limits.rows, limits.positions));
  return backend.reserve_logits(decoder.head());
}

}  // namespace

void run_head(const Decoder& decoder, Backend& backend, const Backend::LogitSink& sink) {
  backend.logits(*decoder.x, *decoder.final_norm, decoder.config.norm_eps, decoder.head(), sink);
}

Result<Decoder> load_decoder(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                             Backend& backend) {
  Decoder decoder;
  decoder.config = config;
  DALSEGNO_TRY(put(decoder.embedding, load_weight(file, {"token_embd.weight"}, backend)));
  for (int index = 0; index < config.layers; ++index) {
    DALSEGNO_ASSIGN(layer, load_layer(file, config, index, backend));
    decoder.layers.push_back(std::move(layer));
  }
  DALSEGNO_TRY(put(decoder.final_norm, load_vector(file, {"output_norm.weight"}, backend)));
  if (!config.tied_output) DALSEGNO_TRY(put(decoder.own_head, load_weight(file, {"output.weight"}, backend)));
  DALSEGNO_TRY(make_buffers(decoder, limits, backend));
  return decoder;
}

}  // namespace dalsegno
