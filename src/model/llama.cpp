#include "model/llama.hpp"

#include <utility>

#include "model/decoder.hpp"
#include "model/weights.hpp"

namespace dalsegno {
namespace {

class Llama final : public Model {
 public:
  Llama(Decoder decoder, Backend& backend) : decoder_(std::move(decoder)), backend_(backend) {}

  Result<void> make_rope(const GgufFile& file, const ModelLimits& limits);

  void forward(const Step& step, const Backend::LogitSink& sink) override {
    const Decoder& d = decoder_;
    const float eps = d.config.norm_eps;
    backend_.begin(step);
    backend_.embed(*d.embedding, 1.0F, *d.x);
    for (const DecoderLayer& layer : d.layers) {
      backend_.norm(*d.x, *layer.attention_norm, eps, *d.normed);
      backend_.linear(*d.normed, *layer.qkv, layer.qkv_bias.get(), *d.qkv);
      backend_.rope_and_store(*d.qkv, *rope_, layer.attention);
      if (&layer == &d.layers.back()) backend_.keep_logit_rows(*d.x, layer.attention);
      backend_.attention(*d.qkv, layer.attention, *d.attended);
      backend_.linear_add(*d.attended, *layer.output, layer.output_bias.get(), *d.x);

      backend_.norm(*d.x, *layer.ffn_norm, eps, *d.normed);
      backend_.linear(*d.normed, *layer.gate_up, nullptr, *d.gate_up);
      backend_.gate(*d.gate_up, Gate::silu, *d.gated);
      backend_.linear_add(*d.gated, *layer.down, nullptr, *d.x);
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
  std::unique_ptr<RopeTable> rope_;
};

Result<void> Llama::make_rope(const GgufFile& file, const ModelLimits& limits) {
  const ModelConfig& config = decoder_.config;
  const GgufTensor* divisors = file.find_tensor("rope_freqs.weight");
  const RopeConfig rope{config.rope_dims, config.rope_base, config.rope_position_scale, true,
                        divisors != nullptr ? reinterpret_cast<const float*>(divisors->data) : nullptr};
  return put(rope_, backend_.make_rope(rope, limits.positions));
}

}  // namespace

Result<std::unique_ptr<Model>> load_llama(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend) {
  DALSEGNO_ASSIGN(decoder, load_decoder(file, config, limits, backend));
  auto model = std::make_unique<Llama>(std::move(decoder), backend);
  DALSEGNO_TRY(model->make_rope(file, limits));
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace dalsegno
