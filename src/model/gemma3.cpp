#include "model/gemma3.hpp"

#include <cmath>
#include <utility>

#include "model/decoder.hpp"
#include "model/weights.hpp"

namespace dalsegno {
namespace {

class Gemma3 final : public Model {
 public:
  Gemma3(Decoder decoder, Backend& backend) : decoder_(std::move(decoder)), backend_(backend) {}

  Result<void> make_rope(const ModelLimits& limits);

  void forward(const Step& step, const Backend::LogitSink& sink) override {
    const Decoder& d = decoder_;
    const float eps = d.config.norm_eps;
    backend_.begin(step);
    backend_.embed(*d.embedding, std::sqrt(static_cast<float>(d.config.hidden)), *d.x);
    for (const DecoderLayer& layer : d.layers) {
      const RopeTable& rope = layer.attention.window > 0 ? *window_rope_ : *rope_;
      backend_.norm(*d.x, *layer.attention_norm, eps, *d.normed);
      backend_.linear(*d.normed, *layer.qkv, nullptr, *d.qkv);
      backend_.norm_heads(*d.qkv, *layer.q_norm, *layer.k_norm, eps, layer.attention);
      backend_.rope_and_store(*d.qkv, rope, layer.attention);
      if (&layer == &d.layers.back()) backend_.keep_logit_rows(*d.x, layer.attention);
      backend_.attention(*d.qkv, layer.attention, *d.attended);
      backend_.linear(*d.attended, *layer.output, nullptr, *d.block_output);
      backend_.norm_add(*d.block_output, *layer.attention_post_norm, eps, *d.x);

      backend_.norm(*d.x, *layer.ffn_norm, eps, *d.normed);
      backend_.linear(*d.normed, *layer.gate_up, nullptr, *d.gate_up);
      backend_.gate(*d.gate_up, Gate::gelu, *d.gated);
      backend_.linear(*d.gated, *layer.down, nullptr, *d.block_output);
      backend_.norm_add(*d.block_output, *layer.ffn_post_norm, eps, *d.x);
    }
    run_head(d, backend_, sink);
  }
  void logits_of(std::span<const float> hidden, const Backend::LogitSink& sink) override {
    backend_.begin_at_logits(hidden, *decoder_.x);
    run_head(decoder_, backend_, sink);
  }

 private:
  const Decoder decoder_;
  Backend& backend_;
  std::unique_ptr<RopeTable> rope_;         // of layers that look back without limit
  std::unique_ptr<RopeTable> window_rope_;  // of windowed layers
};

Result<void> Gemma3::make_rope(const ModelLimits& limits) {
  const ModelConfig& config = decoder_.config;
  const RopeConfig rope{config.rope_dims, config.rope_base, config.rope_position_scale};
  DALSEGNO_TRY(put(rope_, backend_.make_rope(rope, limits.positions)));
  if (config.sliding_window == 0) return {};
  const RopeConfig window_rope{config.rope_dims, config.window_rope_base};
  return put(window_rope_, backend_.make_rope(window_rope, limits.positions));
}

}  // namespace

Result<std::unique_ptr<Model>> load_gemma3(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                           Backend& backend) {
  DALSEGNO_ASSIGN(decoder, load_decoder(file, config, limits, backend));
  auto model = std::make_unique<Gemma3>(std::move(decoder), backend);
  DALSEGNO_TRY(model->make_rope(limits));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace dalsegno
