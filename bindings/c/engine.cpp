#include "bindings/c/values.hpp"
#include "dalsegno/memory.hpp"

struct dalsegno_pin {
  std::shared_ptr<dalsegno::Engine> engine;  // declared first: the pin goes before it
  dalsegno::Pin pin;
};

namespace {

using dalsegno::Result;
using dalsegno::TokenId;
using dalsegno::c::array_of;
using dalsegno::c::guarded;
using dalsegno::c::text_of;

using HeldAudit = dalsegno::c::Holding<dalsegno_audit, std::string>;

}  // namespace

std::int32_t dalsegno_engine_open(const dalsegno_engine_options* options, dalsegno_cancel* cancel,
                                  dalsegno_engine** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_ASSIGN(all, dalsegno::c::engine_options(options));
    DALSEGNO_ASSIGN(engine,
                    dalsegno::Engine::open(all, cancel == nullptr ? std::stop_token{} : cancel->source.get_token()));
    *out = new dalsegno_engine{std::move(engine)};
    return {};
  });
}

void dalsegno_engine_free(dalsegno_engine* engine) {
  delete engine;
}

std::int32_t dalsegno_engine_context(const dalsegno_engine* engine) {
  return engine == nullptr ? 0 : engine->engine->context();
}

std::int32_t dalsegno_engine_reset_cache(dalsegno_engine* engine, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(engine);
    engine->engine->reset_cache();
    return {};
  });
}

std::int32_t dalsegno_engine_audit_cache(dalsegno_engine* engine, std::int32_t blocks, dalsegno_audit** out,
                                         dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    const dalsegno::AuditReport report = engine->engine->audit_cache(blocks);
    auto held = std::make_unique<HeldAudit>(
        HeldAudit{{report.checked, report.skipped, report.mismatched, nullptr}, report.last_mismatch});
    held->last_mismatch = held->owned.c_str();
    *out = held.release();
    return {};
  });
}

void dalsegno_audit_free(dalsegno_audit* audit) {
  delete static_cast<HeldAudit*>(audit);
}

std::int32_t dalsegno_engine_generate(dalsegno_engine* engine, const std::int32_t* prompt, std::size_t prompt_count,
                                      const dalsegno_generate_options* options, dalsegno_reply** out,
                                      dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(tokens, array_of(prompt, prompt_count, "prompt"));
    DALSEGNO_ASSIGN(asked, dalsegno::c::asked(options));
    DALSEGNO_ASSIGN(reply, engine->engine->generate(tokens, asked.options, asked.callbacks));
    *out = dalsegno::c::new_reply(std::move(reply));
    return {};
  });
}

std::int32_t dalsegno_engine_explain(dalsegno_engine* engine, const std::int32_t* prompt, std::size_t prompt_count,
                                     const char* salt, dalsegno_explanation* out, std::size_t out_size,
                                     dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    dalsegno::c::write_report(out, out_size, dalsegno_explanation{});
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(tokens, array_of(prompt, prompt_count, "prompt"));
    DALSEGNO_ASSIGN(explanation, engine->engine->explain(tokens, text_of(salt)));
    dalsegno::c::write_report(out, out_size, dalsegno::c::plain(explanation));
    return {};
  });
}

std::int32_t dalsegno_engine_pin(dalsegno_engine* engine, const std::int32_t* prefix, std::size_t prefix_count,
                                 const char* salt, dalsegno_pin** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(tokens, array_of(prefix, prefix_count, "prefix"));
    DALSEGNO_ASSIGN(pin, engine->engine->pin(tokens, text_of(salt)));
    *out = new dalsegno_pin{engine->engine, std::move(pin)};
    return {};
  });
}

std::int32_t dalsegno_pin_tokens(const dalsegno_pin* pin) {
  return pin == nullptr ? 0 : pin->pin.tokens();
}

void dalsegno_pin_free(dalsegno_pin* pin) {
  delete pin;
}

std::int32_t dalsegno_memory(dalsegno_memory_report* out, std::size_t out_size, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    dalsegno_memory_report plain{};
    if (const auto report = dalsegno::memory_report()) {
      plain = {report->limit,     report->idle_limit, report->weights,  report->kv,      report->index,
               report->log_probs, report->work,       report->pressure, report->engines, report->active ? 1 : 0};
    }
    dalsegno::c::write_report(out, out_size, plain);
    return {};
  });
}

std::int32_t dalsegno_release_all(dalsegno_error* error) {
  return guarded(error, []() -> Result<void> {
    dalsegno::release_all();
    return {};
  });
}
