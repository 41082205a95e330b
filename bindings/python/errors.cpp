#include <string_view>
#include <typeinfo>

#include "bindings/python/python.hpp"
#include "dalsegno/diagnostics.hpp"

// What nanobind raises where no arguments fit is many lines; it becomes a sentence here, since every call of the module
// that fails so comes by. The linker (--wrap, see CMakeLists.txt) puts this function before Python's own.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the linker's names
void __real_PyErr_SetString(PyObject* type, const char* message);
void __wrap_PyErr_SetString(PyObject* type, const char* message) {
  namespace nb = nanobind;
  constexpr std::string_view kNoFit = "(): incompatible function arguments. The following argument types";
  if (type == PyExc_TypeError && std::string_view(message).find(kNoFit) != std::string_view::npos) {
    try {
      const nb::object exception = nb::module_::import_("dalsegno._calls").attr("refusal")(message);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
      return;
    } catch (nb::python_error& other) {  // Ctrl-C, just then
      other.restore();
      return;
    } catch (...) {  // NOLINT(bugprone-empty-catch): then as nanobind has it
    }
  }
  __real_PyErr_SetString(type, message);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
}

namespace dalsegno::python {
namespace {

// The words of dalsegno/errors.py.
const char* name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::not_found:
      return "not_found";
    case ErrorCode::corrupt:
      return "corrupt";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::exhausted:
      return "exhausted";
    case ErrorCode::cancelled:
      return "cancelled";
    case ErrorCode::numeric:
      return "numeric";
    case ErrorCode::io:
      return "io";
  }
  return "";
}

}  // namespace

nb::object exception_of(const Error& error) {
  return nb::module_::import_("dalsegno.errors").attr("of_code")(name(error.code), error.message);
}

void raise(ErrorCode code, const std::string& message) {
  throw Raised(Error{code, message});
}

void bind_errors(nb::module_& module) {
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void*) {
        if (!thrown) stay();  // no exception of C++: Python ends this thread by unwinding it
        try {
          std::rethrow_exception(thrown);
        } catch (const std::bad_cast&) {
          PyErr_SetString(PyExc_ValueError,
                          "a value is of the wrong type, or a text holds half of a surrogate pair, which is no "
                          "character; look through what this call was given");
        } catch (const Raised& raised) {
          try {
            const nb::object exception = exception_of(raised.error);
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
          } catch (nb::python_error& other) {  // Ctrl-C, just then
            other.restore();
          }
        }
      },
      nullptr);
  module.def(
      "layers",
      [](nb::handle path) {
        const std::string file = path_of(path);
        const Released released;
        return value_of(inspect(file, {}, 0)).layers;
      },
      nb::arg("path"), nb::sig("def layers(path: str | os.PathLike[str]) -> int"),
      "How many layers the model of a GGUF file has.");
  module.attr("numerics_version") = kNumericsVersion;
  module.def(
      "cpu_levels",
      [] {
        const CpuLevels levels = value_of(cpu_levels());
        return std::pair(levels.available, levels.chosen);
      },
      "The CPU levels this machine runs, lowest first, and the one chosen (DALSEGNO_CPU forces another).");
}

}  // namespace dalsegno::python
