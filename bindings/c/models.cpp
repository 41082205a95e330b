#include "dalsegno/models.hpp"

#include "bindings/c/values.hpp"

struct dalsegno_models {
  dalsegno::ModelRegistry registry;
};

namespace {

using dalsegno::Result;
using dalsegno::c::guarded;

using HeldModels = dalsegno::c::Holding<dalsegno_model_list,
                                        std::pair<std::vector<dalsegno::LoadedModel>, std::vector<dalsegno_model>>>;

dalsegno_models_options default_options() {
  const dalsegno::ModelRegistryOptions options;
  dalsegno_models_options plain{};
  plain.max_models = options.max_models;
  plain.max_bytes = options.max_bytes;
  return plain;
}

}  // namespace

void dalsegno_models_options_init(dalsegno_models_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, default_options());
}

std::int32_t dalsegno_models_new(const dalsegno_models_options* options, dalsegno_models** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_ASSIGN(all, dalsegno::c::sized(options, default_options(), "dalsegno_models_options"));
    *out = new dalsegno_models{dalsegno::ModelRegistry({.max_models = all.max_models, .max_bytes = all.max_bytes})};
    return {};
  });
}

void dalsegno_models_free(dalsegno_models* models) {
  delete models;
}

std::int32_t dalsegno_models_acquire(dalsegno_models* models, const dalsegno_engine_options* options,
                                     dalsegno_cancel* cancel, dalsegno_engine** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(models);
    DALSEGNO_ASSIGN(all, dalsegno::c::engine_options(options));
    DALSEGNO_ASSIGN(engine,
                    models->registry.acquire(all, cancel == nullptr ? std::stop_token{} : cancel->source.get_token()));
    *out = new dalsegno_engine{std::move(engine)};
    return {};
  });
}

std::int32_t dalsegno_models_close_idle(dalsegno_models* models, std::int32_t* closed, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    if (closed != nullptr) *closed = 0;
    DALSEGNO_NEED(models);
    const int count = models->registry.close_idle();
    if (closed != nullptr) *closed = count;
    return {};
  });
}

std::int32_t dalsegno_models_report(const dalsegno_models* models, dalsegno_model_list** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(models);
    auto held = std::make_unique<HeldModels>();
    auto& [loaded, plain] = held->owned;
    loaded = models->registry.report();
    for (const dalsegno::LoadedModel& model : loaded) {
      plain.push_back({model.path.c_str(), model.bytes, model.users, model.loading ? 1 : 0});
    }
    held->items = plain.data();
    held->count = plain.size();
    *out = held.release();
    return {};
  });
}

void dalsegno_model_list_free(dalsegno_model_list* list) {
  delete static_cast<HeldModels*>(list);
}
