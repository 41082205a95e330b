#pragma once

#include <cassert>
#include <string>
#include <utility>
#include <variant>

namespace dalsegno {

// What kind of failure an Error is; the message says the rest.
enum class ErrorCode {
  invalid_argument,  // the caller asked for something impossible
  not_found,         // a file, model or key that is not there
  corrupt,           // data that contradicts its format
  unsupported,       // well-formed, but nothing here can run it
  exhausted,         // a budget, pool or limit is used up
  cancelled,         // the caller ended it
  numeric,           // NaN or infinity where a finite value is required
  io,                // the operating system refused
};

// One sentence for the user: what, where, what to do.
struct Error {
  ErrorCode code = ErrorCode::invalid_argument;
  std::string message;
};

// A value or an Error. Expected failures travel in it; bugs hit assertions.
// Requires: ok() before value(), !ok() before error().
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  [[nodiscard]] T& value() & { return *checked<0>(); }
  [[nodiscard]] const T& value() const& { return *checked<0>(); }
  [[nodiscard]] T&& value() && { return std::move(*checked<0>()); }
  [[nodiscard]] const Error& error() const& { return *checked<1>(); }
  [[nodiscard]] Error&& error() && { return std::move(*checked<1>()); }

  T* operator->() { return checked<0>(); }
  const T* operator->() const { return checked<0>(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

 private:
  template <std::size_t I>
  auto* checked() {
    auto* held = std::get_if<I>(&state_);
    assert(held != nullptr && "Result used without checking ok()");
    return held;
  }
  template <std::size_t I>
  const auto* checked() const {
    const auto* held = std::get_if<I>(&state_);
    assert(held != nullptr && "Result used without checking ok()");
    return held;
  }
  std::variant<T, Error> state_;
};

// Success without a value.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const& {
    assert(failed_);
    return error_;
  }
  [[nodiscard]] Error&& error() && {
    assert(failed_);
    return std::move(error_);
  }

 private:
  bool failed_ = false;
  Error error_;
};

// Leaves the enclosing function with the error of `expr`, if it has one.
#define DALSEGNO_TRY(expr)                              \
  do {                                                  \
    if (auto try_result_ = (expr); !try_result_.ok()) { \
      return std::move(try_result_).error();            \
    }                                                   \
  } while (false)

// Declares `name` from a Result, or leaves with its error.
#define DALSEGNO_ASSIGN(name, expr)                                   \
  auto name##_result_ = (expr);                                       \
  if (!name##_result_.ok()) return std::move(name##_result_).error(); \
  auto name = std::move(name##_result_).value()

}  // namespace dalsegno
