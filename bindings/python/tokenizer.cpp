#include "dalsegno/tokenizer.hpp"

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

TokenId checked(const Tokenizer& self, TokenId id) {
  if (id < 0 || id >= self.vocabulary_size()) {
    raise(ErrorCode::invalid_argument, "token " + std::to_string(id) + " is outside the vocabulary");
  }
  return id;
}

// What takes no longer than to hand it to another thread is done on this one. The rest waits as calls of an engine do,
// so that Ctrl-C leaves it. size: in bytes or tokens; ten million of them take a second or two.
template <class T>
T worked(std::size_t size, std::function<Result<T>()> work) {
  constexpr std::size_t kLong = 1 << 15;
  if (size >= kLong) {
    return run<T>(Needed::nothing(), [work = std::move(work)](const std::stop_token&) { return work(); });
  }
  const Released released;
  return value_of(work());
}

}  // namespace

void bind_tokenizer(nb::module_& module) {
  nb::class_<Tokenizer>(module, "Tokenizer",
                        "The tokenizer and chat template of one GGUF file; the weights are not loaded. Immutable.\n\n"
                        "Errors: NotFoundError, CorruptError, UnsupportedError.")
      .def(
          "__init__",
          [](Tokenizer* self, const nb::object& path) {
            const std::string file = path_of(path);
            new (self) Tokenizer(
                run<Tokenizer>(Needed::nothing(), [file](const std::stop_token&) { return Tokenizer::open(file); }));
          },
          nb::arg("path"), nb::sig("def __init__(self, path: str | os.PathLike[str]) -> None"))
      .def(
          "encode",
          [](const Tokenizer& self, std::string text, bool special, bool bos) {
            const EncodeOptions options{.special = special, .bos = bos};
            const std::size_t size = text.size();
            return worked<std::vector<TokenId>>(
                size, [self, text = std::move(text), options] { return self.encode(text, options); });
          },
          nb::arg("text"), nb::kw_only(), nb::arg("special") = false, nb::arg("bos") = false,
          "Text to token ids. special: control tokens such as <|im_start|> are recognised in the text; bos: what the\n"
          "model adds in front (usually BOS, or nothing) is added.")
      .def(
          "decode",
          [](const Tokenizer& self, const nb::object& ids) {
            auto tokens = tokens_of("ids", ids);
            const std::size_t size = tokens.size();
            return worked<std::string>(size, [self, tokens = std::move(tokens)] { return self.decode(tokens); });
          },
          nb::arg("ids"), nb::sig("def decode(self, ids: collections.abc.Iterable[int]) -> str"),
          "Token ids to text; control tokens give none. Errors: InvalidArgumentError (an id outside the vocabulary).")
      .def(
          "render",
          [](const Tokenizer& self, std::string messages_json, bool add_generation_prompt) {
            const std::size_t size = messages_json.size();
            return worked<std::string>(size, [self, json = std::move(messages_json), add_generation_prompt] {
              return self.render(json, add_generation_prompt);
            });
          },
          nb::arg("messages_json"), nb::arg("add_generation_prompt") = true,
          "The chat template's text for messages as JSON: an array, or an object with \"messages\" and what else the\n"
          "template wants. Errors: InvalidArgumentError (no template, or it refuses), ExhaustedError (its limits).")
      .def_prop_ro("has_template", &Tokenizer::has_template, "Whether the file has a chat template.")
      .def_prop_ro("vocabulary_size", &Tokenizer::vocabulary_size, "How many tokens there are.")
      .def_prop_ro("bos", &Tokenizer::bos, "The file's own, None if it names none.")
      .def_prop_ro("eos", &Tokenizer::eos, "The file's own, None if it names none.")
      .def(
          "token_bytes",
          [](const Tokenizer& self, TokenId id) {
            const std::string bytes = self.token_bytes(checked(self, id));
            return nb::bytes(bytes.data(), bytes.size());
          },
          nb::arg("id"), "What one token adds to a text; nothing for control tokens.")
      .def(
          "token_text",
          [](const Tokenizer& self, TokenId id) {
            const std::string text = self.token_text(checked(self, id));
            return nb::steal<nb::str>(
                PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
          },
          nb::arg("id"), "One token's name as the file has it.")
      .def(
          "is_control", [](const Tokenizer& self, TokenId id) { return self.is_control(checked(self, id)); },
          nb::arg("id"), "Whether it is a control token, which has no text. Errors: InvalidArgumentError.")
      .def("is_end_of_turn", &Tokenizer::is_end_of_turn, nb::arg("id"), "Whether a reply ends with it.");
}

}  // namespace dalsegno::python
