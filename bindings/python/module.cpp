#include "bindings/python/python.hpp"

NB_MODULE(_dalsegno, module) {
  namespace python = dalsegno::python;
  namespace nb = nanobind;
  module.doc() = "The C++ part of the package dalsegno.";
  nb::set_leak_warnings(false);  // what is alive when the interpreter ends, ends with the process
  python::bind_errors(module);
  python::bind_options(module);
  python::bind_values(module);
  python::bind_tokenizer(module);
  python::bind_stream(module);
  python::bind_engine(module);
  python::bind_session(module);
  python::bind_prompt_cache(module);
  python::bind_batch(module);
  python::bind_logprobs(module);
  python::bind_models(module);
  module.def(
      "_end",
      [] {
        if (python::is_forked()) return;
        python::close_entries();
        const python::Released released;
        python::Call::end_all();
        python::wait_for_entries();
      },
      "When the interpreter ends: no thread of ours may need it any more.");
  nb::module_::import_("atexit").attr("register")(module.attr("_end"));
  module.attr("__version__") = DALSEGNO_VERSION;
}
