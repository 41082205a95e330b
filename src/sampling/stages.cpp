#include "sampling/sampler.hpp"

namespace dalsegno {

using Options = const SamplingOptions&;

// In the order in which they act. A new option is one row here, one function, one test against its definition.
constinit const std::array<Sampler::Stage, 9> Sampler::kStages = {{
    {"logit_bias", [](Options o) { return !o.logit_bias.empty(); }, &Sampler::add_bias, true},
    {"repeat_penalty", [](Options o) { return o.repeat_penalty != 1; }, &Sampler::penalise_repeats, true},
    {"presence_penalty, frequency_penalty",
     [](Options o) { return o.presence_penalty != 0 || o.frequency_penalty != 0; }, &Sampler::penalise_counts, true},
    {"dry_multiplier", [](Options o) { return o.dry_multiplier > 0; }, &Sampler::penalise_runs, true},
    {"temperature", [](Options) { return true; }, &Sampler::weigh, false},
    {"top_k", [](Options o) { return o.top_k > 0; }, &Sampler::keep_top_k, false},
    {"typical_p", [](Options o) { return o.typical_p < 1; }, &Sampler::keep_typical, false},
    {"top_p", [](Options o) { return o.top_p < 1; }, &Sampler::keep_top_p, false},
    {"min_p", [](Options o) { return o.min_p > 0; }, &Sampler::keep_min_p, false},
}};

}  // namespace dalsegno
