#include "dalsegno/tokenizer.hpp"

#include "bindings/python/python.hpp"

namespace dalsegno::python {

void bind_tokenizer(nb::module_& module) {
  nb::class_<Tokenizer>(module, "Tokenizer",
                        "The tokenizer and chat template of one GGUF file; the weights are not loaded. Immutable.\n\n"
                        "Errors: NotFoundError, CorruptError, UnsupportedError.")
      .def(
          "__init__",
          [](Tokenizer* self, const nb::object& path) {
            const std::string file = path_of(path);
            new (self) Tokenizer(run<Tokenizer>([file](const std::stop_token&) { return Tokenizer::open(file); }));
          },
          nb::arg("path"), nb::sig("def __init__(self, path: str | os.PathLike[str]) -> None"))
      .def(
          "encode",
          [](const Tokenizer& self, const std::string& text, bool special, bool bos) {
            const Released released;
            return value_of(self.encode(text, {.special = special, .bos = bos}));
          },
          nb::arg("text"), nb::kw_only(), nb::arg("special") = false, nb::arg("bos") = false,
          "Text to token ids. special: control tokens such as <|im_start|> are recognised in the text; bos: what the\n"
          "model adds in front (usually BOS, or nothing) is added.")
      .def(
          "decode", [](const Tokenizer& self, const nb::object& ids) { return value_of(self.decode(tokens_of(ids))); },
          nb::arg("ids"), nb::sig("def decode(self, ids: collections.abc.Iterable[int]) -> str"),
          "Token ids to text; control tokens give none. Errors: InvalidArgumentError (an id outside the vocabulary).")
      .def(
          "render",
          [](const Tokenizer& self, const std::string& messages_json, bool add_generation_prompt) {
            const Released released;
            return value_of(self.render(messages_json, add_generation_prompt));
          },
          nb::arg("messages_json"), nb::arg("add_generation_prompt") = true,
          "The chat template's text for messages as JSON: an array, or an object with \"messages\" and what else the\n"
          "template wants. Errors: InvalidArgumentError (no template, or it refuses), ExhaustedError (its limits).")
      .def_prop_ro("has_template", &Tokenizer::has_template)
      .def_prop_ro("vocabulary_size", &Tokenizer::vocabulary_size)
      .def("is_end_of_turn", &Tokenizer::is_end_of_turn, nb::arg("id"));
}

}  // namespace dalsegno::python
