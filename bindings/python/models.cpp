#include "dalsegno/models.hpp"

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

struct PyRegistry {
  std::shared_ptr<ModelRegistry> registry;
};

// As load() finds a model: by its path, or by its name in the models folder.
std::string found(const std::string& path_or_name) {
  return nb::cast<std::string>(nb::module_::import_("dalsegno._models").attr("find_model")(path_or_name));
}

PyEngine acquire(const PyRegistry& self, const nb::object& path, const nb::kwargs& kwargs) {
  using Owner = std::shared_ptr<Engine>;
  EngineOptions options = engine_options(found(path_of(path)), kwargs);
  if (!options.draft_model_path.empty()) options.draft_model_path = found(options.draft_model_path);
  auto engine = run<Owner>(Needed::all(), [registry = self.registry, options](const std::stop_token& cancel) {
    return registry->acquire(options, cancel);
  });
  return {shared_without_gil(std::move(engine)), options.model_path};
}

}  // namespace

void bind_models(nb::module_& module) {
  nb::class_<LoadedModel>(module, "LoadedModel", "What a ModelRegistry holds of one model.")
      .def_ro("path", &LoadedModel::path, "Of its file.")
      .def_ro("bytes", &LoadedModel::bytes, "Weights, work buffers and tables.")
      .def_ro("users", &LoadedModel::users, "Engines that are acquired and not closed.")
      .def_ro("loading", &LoadedModel::loading, "Whether it is still being read.");
  nb::class_<PyRegistry>(
      module, "ModelRegistry",
      "The models of a process, each loaded once however many ask for it. When the next one has no room,\n"
      "those that nobody uses are closed, the one used longest ago first.\n\n"
      "max_models: at most so many at any moment; max_bytes: what they take together, 0: the budget.")
      .def(
          "__init__",
          [](PyRegistry* self, int max_models, std::uint64_t max_bytes) {
            new (self) PyRegistry{shared_without_gil(std::make_unique<ModelRegistry>(
                ModelRegistryOptions{.max_models = max_models, .max_bytes = max_bytes}))};
          },
          nb::kw_only(), nb::arg("max_models") = 1, nb::arg("max_bytes") = 0)
      .def(
          "acquire", &acquire, nb::arg("path"), nb::arg("options"),
          nb::sig("def acquire(self, path: str | os.PathLike[str], " DALSEGNO_ENGINE_OPTIONS ") -> Engine"),
          "The open engine of a model, loaded first if it is not there; in use until the Engine and all that was made\n"
          "of it are gone. path and draft_model: also names in the models folder. Errors: as Engine, ExhaustedError "
          "(models in use leave no room, named).")
      .def(
          "report",
          [](const PyRegistry& self) {
            refuse_if_forked();
            const Released released;
            return self.registry->report();
          },
          "What is loaded or loading, the most recently used first.")
      .def(
          "close_idle",
          [](const PyRegistry& self) {
            return run<int>(Needed::all(), [registry = self.registry](const std::stop_token&) -> Result<int> {
              return registry->close_idle();
            });
          },
          "Closes what nobody uses; how many models that was.");
}

}  // namespace dalsegno::python
