#include "model/llama.hpp"

#include <cmath>
#include <vector>

#include "model/weights.hpp"

namespace dalsegno {
namespace {

struct Layer {
  AttentionConfig attention;
  std::unique_ptr<Vector> attention_norm;  // [hidden]
  std::unique_ptr<Weight> qkv;             // [(heads + 2 kv_heads) * head_dim, hidden]
  std::unique_ptr<Vector> qkv_bias;        // or nullptr
  std::unique_ptr<Weight> output;          // [hidden, heads * head_dim]
  std::unique_ptr<Vector> output_bias;     // or nullptr
  std::unique_ptr<Vector> ffn_norm;        // [hidden]
  std::unique_ptr<Weight> gate_up;         // [2 * feed_forward, hidden]
  std::unique_ptr<Weight> down;            // [hidden, feed_forward]
};

class Llama final : public Model {
 public:
  Llama(const ModelConfig& config, Backend& backend) : config_(config), backend_(backend) {}

  Result<void> load(const GgufFile& file, const ModelLimits& limits);

  void forward(const Step& step, const Backend::LogitSink& sink) override {
    const float eps = config_.norm_eps;
    backend_.begin(step);
    backend_.embed(*embedding_, *x_);
    for (const Layer& layer : layers_) {
      backend_.norm(*x_, *layer.attention_norm, eps, *normed_);
      backend_.linear(*normed_, *layer.qkv, layer.qkv_bias.get(), *qkv_);
      backend_.rope_and_store(*qkv_, *rope_, layer.attention);
      backend_.attention(*qkv_, layer.attention, *attended_);
      backend_.linear_add(*attended_, *layer.output, layer.output_bias.get(), *x_);

      backend_.norm(*x_, *layer.ffn_norm, eps, *normed_);
      backend_.linear(*normed_, *layer.gate_up, nullptr, *gate_up_);
      backend_.gate(*gate_up_, Gate::silu, *gated_);
      backend_.linear_add(*gated_, *layer.down, nullptr, *x_);
    }
    backend_.logits(*x_, *final_norm_, eps, head(), sink);
  }

 private:
  Result<void> load_layer(const GgufFile& file, int index);
  Result<void> make_buffers(const GgufFile& file, const ModelLimits& limits);
  [[nodiscard]] const Weight& head() const { return head_ ? *head_ : *embedding_; }

  // Constant after load().
  const ModelConfig config_;
  Backend& backend_;
  std::unique_ptr<Weight> embedding_;  // [vocabulary, hidden]
  std::vector<Layer> layers_;
  std::unique_ptr<Vector> final_norm_;
  std::unique_ptr<Weight> head_;  // [vocabulary, hidden], or nullptr: the embedding serves
  std::unique_ptr<RopeTable> rope_;

  // A step's values.
  std::unique_ptr<Buffer> x_;              // [rows, hidden], the residual stream
  std::unique_ptr<Activations> normed_;    // [rows, hidden]
  std::unique_ptr<Buffer> qkv_;            // [rows, (heads + 2 kv_heads) * head_dim]
  std::unique_ptr<Activations> attended_;  // [rows, heads * head_dim]
  std::unique_ptr<Buffer> gate_up_;        // [rows, 2 * feed_forward]
  std::unique_ptr<Activations> gated_;     // [rows, feed_forward]
};

// Puts a result's value into `target`, or leaves with its error.
template <class T>
Result<void> put(T& target, Result<T> result) {
  if (!result.ok()) return std::move(result).error();
  target = std::move(result).value();
  return {};
}

Result<void> Llama::load(const GgufFile& file, const ModelLimits& limits) {
  DALSEGNO_TRY(put(embedding_, load_weight(file, {"token_embd.weight"}, backend_)));
  for (int index = 0; index < config_.layers; ++index) DALSEGNO_TRY(load_layer(file, index));
  DALSEGNO_TRY(put(final_norm_, load_vector(file, {"output_norm.weight"}, backend_)));
  if (!config_.tied_output) DALSEGNO_TRY(put(head_, load_weight(file, {"output.weight"}, backend_)));
  return make_buffers(file, limits);
}

Result<void> Llama::load_layer(const GgufFile& file, int index) {
  const std::string prefix = "blk." + std::to_string(index) + ".";
  Layer layer;
  layer.attention = {
      index, config_.heads, config_.kv_heads, config_.head_dim, 1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
      0};
  DALSEGNO_TRY(put(layer.attention_norm, load_vector(file, {prefix + "attn_norm.weight"}, backend_)));
  DALSEGNO_TRY(
      put(layer.qkv,
          load_weight(file, {prefix + "attn_q.weight", prefix + "attn_k.weight", prefix + "attn_v.weight"}, backend_)));
  DALSEGNO_TRY(put(
      layer.qkv_bias,
      load_optional_vector(file, {prefix + "attn_q.bias", prefix + "attn_k.bias", prefix + "attn_v.bias"}, backend_)));
  DALSEGNO_TRY(put(layer.output, load_weight(file, {prefix + "attn_output.weight"}, backend_)));
  DALSEGNO_TRY(put(layer.output_bias, load_optional_vector(file, {prefix + "attn_output.bias"}, backend_)));
  DALSEGNO_TRY(put(layer.ffn_norm, load_vector(file, {prefix + "ffn_norm.weight"}, backend_)));
  DALSEGNO_TRY(put(layer.gate_up, load_weight(file, {prefix + "ffn_gate.weight", prefix + "ffn_up.weight"}, backend_)));
  DALSEGNO_TRY(put(layer.down, load_weight(file, {prefix + "ffn_down.weight"}, backend_)));
  layers_.push_back(std::move(layer));
  return {};
}

Result<void> Llama::make_buffers(const GgufFile& file, const ModelLimits& limits) {
  std::vector<const Weight*> normed_readers;
  std::vector<const Weight*> attended_readers;
  std::vector<const Weight*> gated_readers;
  for (const Layer& layer : layers_) {
    normed_readers.insert(normed_readers.end(), {layer.qkv.get(), layer.gate_up.get()});
    attended_readers.push_back(layer.output.get());
    gated_readers.push_back(layer.down.get());
  }
  const int width = config_.heads * config_.head_dim;
  const int kv_width = config_.kv_heads * config_.head_dim;
  DALSEGNO_TRY(put(x_, backend_.make_buffer(limits.rows, config_.hidden)));
  DALSEGNO_TRY(put(normed_, backend_.make_activations(limits.rows, config_.hidden, normed_readers)));
  DALSEGNO_TRY(put(qkv_, backend_.make_buffer(limits.rows, width + 2 * kv_width)));
  DALSEGNO_TRY(put(attended_, backend_.make_activations(limits.rows, width, attended_readers)));
  DALSEGNO_TRY(put(gate_up_, backend_.make_buffer(limits.rows, 2 * config_.feed_forward)));
  DALSEGNO_TRY(put(gated_, backend_.make_activations(limits.rows, config_.feed_forward, gated_readers)));
  const GgufTensor* divisors = file.find_tensor("rope_freqs.weight");
  const RopeConfig rope{config_.rope_dims, config_.rope_base, config_.rope_position_scale, true,
                        divisors != nullptr ? reinterpret_cast<const float*>(divisors->data) : nullptr};
  DALSEGNO_TRY(put(rope_, backend_.make_rope(rope, limits.positions)));
  DALSEGNO_TRY(backend_.reserve_attention(layers_.front().attention, limits.rows, limits.positions));
  return backend_.reserve_logits(head());
}

}  // namespace

Result<std::unique_ptr<Model>> load_llama(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend) {
  auto model = std::make_unique<Llama>(config, backend);
  DALSEGNO_TRY(model->load(file, limits));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace dalsegno
