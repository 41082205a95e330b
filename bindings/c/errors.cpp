#include <new>

#include "bindings/c/handles.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::c {

Status code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return DALSEGNO_INVALID_ARGUMENT;
    case ErrorCode::not_found:
      return DALSEGNO_NOT_FOUND;
    case ErrorCode::corrupt:
      return DALSEGNO_CORRUPT;
    case ErrorCode::unsupported:
      return DALSEGNO_UNSUPPORTED;
    case ErrorCode::exhausted:
      return DALSEGNO_EXHAUSTED;
    case ErrorCode::cancelled:
      return DALSEGNO_CANCELLED;
    case ErrorCode::numeric:
      return DALSEGNO_NUMERIC;
    case ErrorCode::io:
      return DALSEGNO_IO;
  }
  return DALSEGNO_INTERNAL;
}

void set_fixed_error(dalsegno_error* error, Status code, const char* message) noexcept {
  if (error == nullptr) return;
  error->code = code;
  error->fixed = message;
}

void set_error(dalsegno_error* error, Status code, const std::string& message) noexcept {
  if (error == nullptr) return;
  try {
    error->message = message;
    set_fixed_error(error, code, nullptr);
  } catch (...) {
    set_fixed_error(error, code, "the system has no memory left to say what is wrong");
  }
}

}  // namespace dalsegno::c

using dalsegno::c::guarded;

const char* dalsegno_version() {
  return DALSEGNO_VERSION;
}

std::int32_t dalsegno_numerics_version() {
  return dalsegno::kNumericsVersion;
}

dalsegno_error* dalsegno_error_new() {
  return new (std::nothrow) dalsegno_error;
}

void dalsegno_error_free(dalsegno_error* error) {
  delete error;
}

std::int32_t dalsegno_error_code(const dalsegno_error* error) {
  return error == nullptr ? DALSEGNO_OK : error->code;
}

const char* dalsegno_error_message(const dalsegno_error* error) {
  if (error == nullptr) return "";
  return error->fixed != nullptr ? error->fixed : error->message.c_str();
}

const char* dalsegno_stopped_name(std::int32_t stopped) {
  const bool known = stopped >= DALSEGNO_STOPPED_END && stopped <= DALSEGNO_STOPPED_OFF;
  return known ? dalsegno::name(static_cast<dalsegno::Stopped>(stopped)) : "unknown";
}

const char* dalsegno_finish_name(std::int32_t finish) {
  const bool known = finish >= DALSEGNO_FINISH_STOP && finish <= DALSEGNO_FINISH_DEAD_END;
  return known ? dalsegno::name(static_cast<dalsegno::FinishReason>(finish)) : "unknown";
}

const char* dalsegno_tools_ended_name(std::int32_t ended) {
  const bool known = ended >= DALSEGNO_TOOLS_ANSWERED && ended <= DALSEGNO_TOOLS_UNFINISHED;
  return known ? dalsegno::name(static_cast<dalsegno::ToolsEnded>(ended)) : "unknown";
}

std::int32_t dalsegno_cancel_new(dalsegno_cancel** out, dalsegno_error* error) {
  return guarded(error, [&]() -> dalsegno::Result<void> {
    DALSEGNO_OUT(out);
    *out = new dalsegno_cancel;
    return {};
  });
}

std::int32_t dalsegno_cancel_request(dalsegno_cancel* cancel, dalsegno_error* error) {
  return guarded(error, [&]() -> dalsegno::Result<void> {
    DALSEGNO_NEED(cancel);
    cancel->source.request_stop();
    return {};
  });
}

void dalsegno_cancel_free(dalsegno_cancel* cancel) {
  delete cancel;
}
