#include "bindings/python/python.hpp"

#include <limits>

namespace dalsegno::python {
namespace {

thread_local bool t_released = false;

constexpr int kSignalMilliseconds = 50;  // between looks for signals: a quarter of what Ctrl-C may take

bool on_main_thread() {
  const nb::object ident = nb::module_::import_("threading").attr("main_thread")().attr("ident");
  return nb::cast<unsigned long>(ident) == PyThread_get_thread_ident();
}

}  // namespace

Released::Released() : state_(is_closed_to_this_thread() ? nullptr : PyEval_SaveThread()) {
  t_released = state_ != nullptr;
}

Released::~Released() {
  if (state_ == nullptr) return;
  t_released = false;
  const Entry entry;
  if (!entry) stay();
  PyEval_RestoreThread(state_);
}

bool holds_gil() {
  return !on_call_thread() && !t_released;
}

void let_go_elsewhere(std::shared_ptr<void> owner) {
  auto* const kept = new std::shared_ptr<void>(std::move(owner));
  try {
    Call::start([kept](Call&) { delete kept; });
  } catch (...) {  // NOLINT(bugprone-empty-catch): no thread can do it: the process has been forked, or ends
  }
}

Call::Event next_event(Call& call) {
  refuse_if_forked();
  const bool main = on_main_thread();
  for (;;) {
    std::optional<Call::Event> event;
    {
      const Released released;
      event = call.wait(main ? kSignalMilliseconds : 3600 * 1000);
    }
    if (event) return std::move(*event);
    if (main && PyErr_CheckSignals() != 0) {
      call.cancel();
      throw nb::python_error();
    }
  }
}

void finish(Call& call) {
  while (next_event(call).kind != Call::Event::Kind::done) {
  }
}

int checked_fd(Call& call) {
  const int fd = call.event_fd();
  if (fd < 0) {
    raise(ErrorCode::exhausted,
          "the system allows this process no more open files; each call that is awaited takes one");
  }
  return fd;
}

SharedObject shared_object(nb::object object) {
  return SharedObject(new nb::object(std::move(object)), [](nb::object* held) {
    const Entry entry;
    if (!entry || !nb::is_alive()) return;  // the interpreter goes, and with it what was held
    const nb::gil_scoped_acquire acquired;
    delete held;
  });
}

void Failure::set(const nb::python_error& error) {
  if (!exception_) exception_ = shared_object(nb::borrow(error.value()));
}

nb::object Failure::take() {
  const SharedObject exception = std::exchange(exception_, nullptr);
  return exception ? *exception : nb::object();
}

void Failure::rethrow() {
  const nb::object exception = take();
  if (!exception.is_valid()) return;
  PyErr_SetObject(exception.type().ptr(), exception.ptr());
  throw nb::python_error();
}

nb::object items_of(const char* name, const char* wanted, nb::handle value) {
  PyObject* const items = PyObject_GetIter(value.ptr());
  if (items != nullptr) return nb::steal(items);
  if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw nb::python_error();
  PyErr_Clear();
  refuse(name, wanted, value);
}

std::vector<TokenId> tokens_of(const char* name, nb::handle tokens) {
  constexpr const char* kWanted = "a list of token ids";
  if (nb::isinstance<nb::str>(tokens) || nb::isinstance<nb::bytes>(tokens)) {
    throw nb::type_error(
        (std::string(name) + ": token ids are wanted, not text: tokenizer.encode() makes them").c_str());
  }
  std::vector<TokenId> ids;
  const Py_ssize_t expected = PyObject_Size(tokens.ptr());
  if (expected > 0) ids.reserve(static_cast<std::size_t>(expected));
  if (expected < 0) PyErr_Clear();  // an iterator
  in_python([&] {
    const nb::object items = items_of(name, kWanted, tokens);
    for (PyObject* next = PyIter_Next(items.ptr()); next != nullptr; next = PyIter_Next(items.ptr())) {
      const nb::object item = nb::steal(next);
      const nb::object index = nb::steal(PyNumber_Index(item.ptr()));
      if (!index.is_valid()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw nb::python_error();
        PyErr_Clear();
        refuse((std::string(name) + ", item " + std::to_string(ids.size())).c_str(), "a token id", item);
      }
      int overflow = 0;
      const long long id = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
      if (overflow != 0 || id < 0 || id > std::numeric_limits<TokenId>::max()) {
        const std::string told = overflow == 0 ? std::to_string(id) : "a number of more than 64 bits";
        raise(ErrorCode::invalid_argument, std::string(name) + ": " + told + " is no token id");
      }
      ids.push_back(static_cast<TokenId>(id));
    }
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
  });
  return ids;
}

std::string path_of(nb::handle path, const char* name) {
  return nb::cast<std::string>(nb::module_::import_("dalsegno._arguments").attr("path")(name, path));
}

}  // namespace dalsegno::python
