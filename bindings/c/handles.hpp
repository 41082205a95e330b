#pragma once

// What stands behind the handles of dalsegno.h, and what every function there does: errors become codes, exceptions
// end here, and NULL is an error.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "dalsegno.h"
#include "dalsegno/engine.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "dalsegno/session.hpp"

struct dalsegno_error {
  std::int32_t code = DALSEGNO_OK;
  std::string message{};
  const char* fixed = nullptr;  // instead of the message, where there is no memory for one
};

struct dalsegno_cancel {
  std::stop_source source{};
};

// Every handle that needs an engine shares it: what C's callers free first does not matter.
struct dalsegno_engine {
  std::shared_ptr<dalsegno::Engine> engine{};
};

struct dalsegno_tokenizer {
  dalsegno::Tokenizer tokenizer;
};

struct dalsegno_prompt_cache {
  std::shared_ptr<dalsegno::Engine> engine{};
  dalsegno::PromptCache cache{};
};

namespace dalsegno::c {

using Status = std::int32_t;

void set_error(dalsegno_error* error, Status code, const std::string& message) noexcept;
void set_fixed_error(dalsegno_error* error, Status code, const char* message) noexcept;
Status code_of(ErrorCode code);

// Runs what a function of the C interface does.
template <class Body>
Status guarded(dalsegno_error* error, Body&& body) noexcept {
  try {
    const Result<void> done = body();
    const Status code = done.ok() ? DALSEGNO_OK : code_of(done.error().code);
    set_error(error, code, done.ok() ? std::string{} : done.error().message);
    return code;
  } catch (const std::bad_alloc&) {
    set_fixed_error(error, DALSEGNO_EXHAUSTED, "the system has no memory left");
    return DALSEGNO_EXHAUSTED;
  } catch (const std::exception& thrown) {
    set_error(error, DALSEGNO_INTERNAL, thrown.what());
  } catch (...) {
    set_fixed_error(error, DALSEGNO_INTERNAL, "an exception without a message");
  }
  return DALSEGNO_INTERNAL;
}

// Leaves with an error where a caller passed NULL.
#define DALSEGNO_NEED(pointer)                                                                \
  do {                                                                                        \
    if ((pointer) == nullptr) {                                                               \
      return ::dalsegno::Error{::dalsegno::ErrorCode::invalid_argument, #pointer " is NULL"}; \
    }                                                                                         \
  } while (false)

// out is wanted, and NULL until there is something.
#define DALSEGNO_OUT(out) \
  DALSEGNO_NEED(out);     \
  *(out) = nullptr

// NULL is "".
inline std::string text_of(const char* text) {
  return text == nullptr ? std::string{} : std::string(text);
}

// Requires, of all arrays: NULL only if there is nothing in it; checked.
template <class T>
Result<std::span<const T>> array_of(const T* items, std::size_t count, const char* what) {
  if (items == nullptr && count > 0) return Error{ErrorCode::invalid_argument, std::string(what) + " is NULL"};
  return std::span<const T>(items, count);
}

// A struct that begins with its size, as far as the caller's header knows it; the rest as `defaults` has it. A size
// beyond ours is of a later version, whose wishes must not go unheard.
template <class T>
Result<T> sized(const T* given, const T& defaults, const char* what) {
  T all = defaults;
  if (given == nullptr) return all;
  if (given->size < sizeof given->size || given->size > sizeof all) {
    return Error{ErrorCode::invalid_argument, std::string(what) + " of " + std::to_string(given->size) +
                                                  " bytes are not known here: fill them in with " + what +
                                                  "_init, of this version of the library"};
  }
  std::memcpy(&all, given, given->size);
  return all;
}

// The default values into as much as the caller has.
template <class T>
void initialise(T* out, std::size_t size, T defaults) noexcept {
  if (out == nullptr) return;
  defaults.size = size;
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &defaults, std::min(size, sizeof defaults));
}

// A report into as much as the caller has.
template <class T>
void write_report(T* out, std::size_t size, const T& report) {
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &report, std::min(size, sizeof report));
}

}  // namespace dalsegno::c
