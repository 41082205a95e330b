#pragma once

// What all files of the module share: errors, the GIL, waiting, token ids, options.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/python/awaits.hpp"
#include "bindings/python/call.hpp"
#include "bindings/python/ending.hpp"
#include "bindings/python/fork.hpp"
#include "dalsegno/engine.hpp"
#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno::python {

namespace nb = nanobind;

// An Error on its way to Python, where it becomes one of the classes of dalsegno/errors.py.
struct Raised : std::runtime_error {
  explicit Raised(Error failure) : std::runtime_error(failure.message), error(std::move(failure)) {}
  Error error;
};
// The exception that stands for it.
nb::object exception_of(const Error& error);
[[noreturn]] void raise(ErrorCode code, const std::string& message);

template <class T>
T value_of(Result<T> result) {
  if (!result.ok()) throw Raised(std::move(result).error());
  if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

// The GIL is not held while this exists. Where it could not be taken again (see ending.hpp), it is kept.
class Released {
 public:
  Released();
  ~Released();
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

 private:
  PyThreadState* const state_;  // null: kept
};
// Of a thread of Python, a call's or an engine's.
[[nodiscard]] bool holds_gil();

// Lets go of it on a thread that no engine waits for.
void let_go_elsewhere(std::shared_ptr<void> owner);

// Owns what may wait for the engine when it is destroyed: then without the GIL, wherever that happens, and not within a
// step of an engine. In a forked process it is left alone.
template <class T>
std::shared_ptr<T> shared_without_gil(std::shared_ptr<T> owner) {
  T* const raw = owner.get();
  return std::shared_ptr<T>(raw, [owner = std::move(owner)](T*) mutable {
    if (is_forked() || is_within_step()) {
      let_go_elsewhere(std::move(owner));
      return;
    }
    std::optional<Released> released;
    if (holds_gil()) released.emplace();
    owner.reset();
  });
}
template <class T>
std::shared_ptr<T> shared_without_gil(std::unique_ptr<T> owner) {
  return shared_without_gil(std::shared_ptr<T>(std::move(owner)));
}

// What the call says next. A signal whose handler raises (Ctrl-C) cancels the call and leaves at once, whatever the
// engine is doing.
Call::Event next_event(Call& call);
// Its end.
void finish(Call& call);
// For event loops. Errors: exhausted.
int checked_fd(Call& call);

// Runs `body` without the GIL; signals are obeyed as by next_event(). Requires: body owns what it uses, since it may go
// on alone, and holds no Python object; it waits for no engine but those needed. begun: where to put the call.
template <class T>
T run(Needed needed, std::function<Result<T>(const std::stop_token&)> body, std::shared_ptr<Call>* begun = nullptr) {
  const Awaits awaits(needed);
  const auto result = std::make_shared<std::optional<Result<T>>>();
  const auto call =
      Call::start([result, body = std::move(body)](Call& running) { result->emplace(body(running.cancelled())); });
  if (begun != nullptr) *begun = call;
  finish(*call);
  return value_of<T>(std::move(**result));
}

// A Python object that other threads hold and let go: whoever drops the last of these takes the GIL for it.
using SharedObject = std::shared_ptr<nb::object>;
SharedObject shared_object(nb::object object);

// The first exception that a callback raised on a thread of the engine. Requires, of all: the GIL.
class Failure {
 public:
  void set(const nb::python_error& error);
  void rethrow();
  // Once; otherwise null.
  nb::object take();
  int traverse(visitproc visit, void* arg) const {
    if (exception_) Py_VISIT(exception_->ptr());
    return 0;
  }

 private:
  SharedObject exception_{};
};

// The slots of a class that can be part of a reference cycle. Requires: traverse(visit, arg) and clear(), and
// finalize() where an engine might call what is cleared: a collection finalizes everything before it clears anything,
// and a function that is cleared must not be called.
template <class T>
int traverse_instance(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  return nb::inst_ready(self) ? nb::inst_ptr<T>(self)->traverse(visit, arg) : 0;
}
template <class T>
int clear_instance(PyObject* self) {
  if (nb::inst_ready(self)) nb::inst_ptr<T>(self)->clear();
  return 0;
}
template <class T>
void finalize_instance(PyObject* self) {
  if constexpr (requires(T & value) { value.finalize(); }) {
    if (nb::inst_ready(self)) nb::inst_ptr<T>(self)->finalize();
  }
}
template <class T>
inline PyType_Slot kCollected[] = {{Py_tp_finalize, reinterpret_cast<void*>(&finalize_instance<T>)},
                                   {Py_tp_traverse, reinterpret_cast<void*>(&traverse_instance<T>)},
                                   {Py_tp_clear, reinterpret_cast<void*>(&clear_instance<T>)},
                                   {0, nullptr}};

// Throws TypeError: "NAME: WANTED is wanted, not VALUE".
[[noreturn]] void refuse(const char* name, const char* wanted, nb::handle value);
// The iterator of what a caller gave. Throws TypeError: as refuse().
nb::object items_of(const char* name, const char* wanted, nb::handle value);
// A sequence of whole numbers, numpy's too.
std::vector<TokenId> tokens_of(const char* name, nb::handle tokens);
// os.PathLike or str. Throws TypeError, ValueError (no text of Unicode).
std::string path_of(nb::handle path, const char* name = "path");
// A list of texts, but not one text.
std::vector<std::string> texts_of(const char* name, nb::handle value, const char* wanted);

// A numpy array [size] of a vector's own memory, which lives as long as the array. Const elements: read-only.
template <class T>
nb::object array_of(std::shared_ptr<T> values) {
  using Element = std::conditional_t<std::is_const_v<T>, const typename T::value_type, typename T::value_type>;
  auto* const data = values->data();
  const std::size_t size = values->size();
  auto* const held = new std::shared_ptr<T>(std::move(values));
  const nb::capsule owner(held, [](void* owned) noexcept { delete static_cast<std::shared_ptr<T>*>(owned); });
  return nb::cast(nb::ndarray<nb::numpy, Element, nb::ndim<1>>(data, {size}, owner));
}

EngineOptions engine_options(const std::string& model_path, const nb::kwargs& kwargs);

// The options of a request of an engine, its logits processor as its options hold it, and what that raises.
struct Asked {
  const Engine* engine = nullptr;
  GenerateOptions options{};
  SharedObject processor{};
  std::shared_ptr<Failure> failure = std::make_shared<Failure>();
};
Asked asked(const Engine& engine, const nb::kwargs& kwargs);
// "auto", "required", "none" or {"name": of a tool}. Throws TypeError, ValueError.
ToolChoice tool_choice_of(const char* option, nb::handle value);
// One more option by its name. False: there is none of that name.
bool set_option(Asked& asked, const std::string& name, nb::handle value);

// What a class of this module stands for, for as long as it is open.
struct PyEngine {
  std::shared_ptr<Engine> engine{};
  std::string path{};
  // Errors: invalid_argument (closed).
  [[nodiscard]] const std::shared_ptr<Engine>& use() const;
};

void bind_errors(nb::module_& module);
void bind_options(nb::module_& module);
void bind_values(nb::module_& module);
void bind_tokenizer(nb::module_& module);
void bind_engine(nb::module_& module);
void bind_stream(nb::module_& module);
void bind_session(nb::module_& module);
void bind_prompt_cache(nb::module_& module);
void bind_batch(nb::module_& module);
void bind_logprobs(nb::module_& module);
void bind_models(nb::module_& module);

// Texts of the interface for typed options, as stubs show them.
#define DALSEGNO_GENERATE_OPTIONS "**options: typing_extensions.Unpack[dalsegno.options.GenerateOptions]"
#define DALSEGNO_ENGINE_OPTIONS "**options: typing_extensions.Unpack[dalsegno.options.EngineOptions]"

}  // namespace dalsegno::python
