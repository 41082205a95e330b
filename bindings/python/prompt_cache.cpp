#include "dalsegno/prompt_cache.hpp"

#include "bindings/python/prompt_cache.hpp"

namespace dalsegno::python {

nb::object kv_of(const KvOptions& kv) {
  nb::dict all;
  all["format"] = name(kv.format);
  all["group_size"] = kv.group_size;
  all["start"] = kv.start;
  all["max_size"] = kv.max_size;
  all["keep"] = kv.keep;
  return all;
}

// The last copy of a cache lets its blocks go, for which it may wait for a step.
PyPromptCache PyPromptCache::of(std::shared_ptr<Engine> engine, PromptCache cache) {
  return {std::move(engine), shared_without_gil(std::make_unique<PromptCache>(std::move(cache)))};
}

namespace {

PyPromptCache made(const PyEngine& engine, const nb::object& tokens, std::string salt) {
  const auto& owner = engine.use();
  return PyPromptCache::of(
      owner, run<PromptCache>(Needed::of(owner.get()),
                              [owner, ids = tokens_of("tokens", tokens), salt = std::move(salt)](
                                  const std::stop_token&) { return PromptCache::make(*owner, ids, salt); }));
}

PyPromptCache loaded(const PyEngine& engine, const nb::object& path, std::string salt) {
  const auto& owner = engine.use();
  return PyPromptCache::of(
      owner, run<PromptCache>(Needed::of(owner.get()),
                              [owner, file = path_of(path), salt = std::move(salt)](const std::stop_token&) {
                                return PromptCache::load(*owner, file, salt);
                              }));
}

// A copy is trimmed and takes the place of the old one, so that nobody else sees it half done, and an interrupted call
// changes nothing.
int trim(PyPromptCache& self, int tokens) {
  using Trimmed = std::pair<std::shared_ptr<PromptCache>, int>;
  auto [cache, left] =
      run<Trimmed>(Needed::of(self.engine.get()),
                   [engine = self.engine, old = self.cache, tokens](const std::stop_token&) -> Result<Trimmed> {
                     auto copy = std::make_shared<PromptCache>(*old);
                     DALSEGNO_ASSIGN(rest, copy->trim(tokens));
                     return Trimmed(std::move(copy), rest);
                   });
  self.cache = shared_without_gil(std::move(cache));
  return left;
}

void save(const PyPromptCache& self, const nb::object& path) {
  run<void>(Needed::of(self.engine.get()), [engine = self.engine, cache = self.cache, file = path_of(path)](
                                               const std::stop_token&) { return cache->save(file); });
}

}  // namespace

void bind_prompt_cache(nb::module_& module) {
  nb::class_<PyPromptCache>(
      module, "PromptCache",
      "The K/V of a sequence of tokens, which stay whatever needs room. Every request that begins\n"
      "with these tokens reuses them. What all prompt caches and pins keep may take half of the\n"
      "room for K/V.")
      .def_static(
          "make", &made, nb::arg("engine"), nb::arg("tokens"), nb::arg("salt") = "",
          nb::sig("def make(engine: Engine, tokens: collections.abc.Iterable[int], salt: str = '') -> PromptCache"),
          "Computes what is not cached yet. Errors: as Engine.generate, ExhaustedError (no room).")
      .def_static("load", &loaded, nb::arg("engine"), nb::arg("path"), nb::arg("salt") = "",
                  nb::sig("def load(engine: Engine, path: str | os.PathLike[str], salt: str = '') -> PromptCache"),
                  "Reads what save() wrote; nothing is used before all of it has been checked.\n"
                  "Errors: NotFoundError, IoError, CorruptError, UnsupportedError (another model, format or version).")
      .def("save", &save, nb::arg("path"), nb::sig("def save(self, path: str | os.PathLike[str]) -> None"),
           "Writes one file, which takes the place of another at once or not at all. Errors: IoError,\n"
           "InvalidArgumentError (there is nothing to save).")
      .def(
          "trim", &trim, nb::arg("tokens"),
          "Forgets the last tokens, all if there are no more. Returns how many are left: fewer where a sliding window\n"
          "lacks what comes before. Errors: InvalidArgumentError (a negative number), ExhaustedError.")
      .def(
          "fork", [](const PyPromptCache& self) { return self; }, "The same cache once more, at no cost.")
      .def("__copy__", [](const PyPromptCache& self) { return self; })
      .def(
          "__deepcopy__", [](const PyPromptCache& self, const nb::object& /*memo*/) { return self; }, nb::arg("memo"))
      .def("__len__", [](const PyPromptCache& self) { return self.cache->size(); })
      .def(
          "__bool__", [](const PyPromptCache& /*self*/) { return true; }, "True: a cache of no tokens is one too.")
      .def_prop_ro(
          "tokens",
          [](const PyPromptCache& self) {
            return std::vector<TokenId>(self.cache->tokens().begin(), self.cache->tokens().end());
          },
          "The token ids, [len].")
      .def_prop_ro(
          "format", [](const PyPromptCache& self) { return kv_of(self.cache->format()); },
          nb::sig("def format(self, /) -> dict[str, str | int]"), "How K/V are stored: the engine's `kv`.")
      .def_prop_ro(
          "salt", [](const PyPromptCache& self) { return self.cache->salt(); },
          "Requests of this salt alone go on from it.")
      .def("__repr__",
           [](const PyPromptCache& self) { return "PromptCache(" + std::to_string(self.cache->size()) + " tokens)"; });
}

}  // namespace dalsegno::python
