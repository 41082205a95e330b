#include "bindings/python/stream.hpp"

namespace dalsegno::python {
namespace {

using EngineOwner = std::shared_ptr<Engine>;

// A pin and the engine it needs. The pin goes first.
struct PyPin {
  EngineOwner engine;
  std::shared_ptr<Pin> pin;
};

// As a C++ Pin: goes without the GIL, since unpinning may wait for a step.
PyPin pinned(const EngineOwner& engine, std::vector<TokenId> prefix, std::string salt) {
  auto pin = run<std::shared_ptr<Pin>>(Needed::of(engine.get()),
                                       [engine, prefix = std::move(prefix), salt = std::move(salt)](
                                           const std::stop_token&) -> Result<std::shared_ptr<Pin>> {
                                         DALSEGNO_ASSIGN(made, engine->pin(prefix, salt));
                                         return std::make_shared<Pin>(std::move(made));
                                       });
  return {engine, shared_without_gil(std::move(pin))};
}

PyEngine opened(const nb::handle& path, const nb::kwargs& kwargs) {
  const EngineOptions options = engine_options(path_of(path), kwargs);
  auto engine = run<EngineOwner>(Needed::all(), [options](const std::stop_token& cancel) -> Result<EngineOwner> {
    DALSEGNO_ASSIGN(made, Engine::open(options, cancel));
    return EngineOwner(std::move(made));
  });
  return {shared_without_gil(std::move(engine)), options.model_path};
}

Stream stream(const PyEngine& self, const nb::object& prompt, nb::object on_prefill, const nb::kwargs& kwargs) {
  const auto& owner = self.use();
  const Asked all = asked(*owner, kwargs);
  return Stream(
      parts_of<Reply>([engine = owner, tokens = tokens_of("prompt", prompt), options = all.options](
                          const GenerateCallbacks& callbacks) { return engine->generate(tokens, options, callbacks); },
                      all, std::move(on_prefill)));
}

Explanation explain(const PyEngine& self, const nb::object& prompt, std::string salt) {
  return run<Explanation>(Needed::of(self.engine.get()),
                          [engine = self.use(), tokens = tokens_of("prompt", prompt),
                           salt = std::move(salt)](const std::stop_token&) { return engine->explain(tokens, salt); });
}

void reset_cache(const PyEngine& self) {
  run<void>(Needed::of(self.engine.get()), [engine = self.use()](const std::stop_token&) -> Result<void> {
    engine->reset_cache();
    return {};
  });
}

// A block at a time, so that other requests go on in between, and one that is interrupted ends.
AuditReport audit_cache(const PyEngine& self, int blocks) {
  return run<AuditReport>(Needed::of(self.engine.get()),
                          [engine = self.use(), blocks](const std::stop_token& cancelled) -> Result<AuditReport> {
                            AuditReport report = engine->audit_cache(0);
                            for (int i = 0; i < blocks && !cancelled.stop_requested(); ++i) {
                              report = engine->audit_cache(1);
                            }
                            return report;
                          });
}

std::string shown(const PyEngine& self) {
  if (!self.engine) return "Engine(closed)";
  return "Engine(" + nb::cast<std::string>(nb::repr(nb::str(self.path.c_str()))) +
         ", context=" + std::to_string(self.engine->context()) + ")";
}

nb::dict to_python(const Histogram& histogram) {
  nb::dict buckets;  // {least value: how many}
  for (std::size_t i = 0; i < Histogram::kBuckets; ++i) {
    if (histogram.buckets[i] > 0) buckets[nb::int_(Histogram::from(i))] = histogram.buckets[i];
  }
  nb::dict all;
  all["count"] = histogram.count;
  all["sum"] = histogram.sum;
  all["buckets"] = buckets;
  return all;
}

nb::dict to_python(const ReuseCounts& counts) {
  nb::dict all;
  all["requests"] = counts.requests;
  all["reused_tokens"] = counts.reused_tokens;
  all["missing_tokens"] = counts.missing_tokens;
  return all;
}

// None without a draft model.
nb::object draft_report(const PyEngine& self) {
  using Report = std::optional<DraftReport>;
  const auto report =
      run<Report>(Needed::of(self.engine.get()),
                  [engine = self.use()](const std::stop_token&) -> Result<Report> { return engine->draft_report(); });
  if (!report) return nb::none();
  const auto by_place = [](const auto& counts) {
    nb::list all;
    for (const std::uint64_t count : counts) all.append(count);
    return all;
  };
  nb::dict all;
  all["proposed"] = by_place(report->proposed);
  all["accepted"] = by_place(report->accepted);
  all["trials"] = report->trials;
  all["passes"] = report->passes;
  all["read"] = report->read;
  all["seconds"] = report->seconds;
  all["pass_ms"] = report->pass_ms;
  all["pays"] = report->pays;
  return all;
}

nb::dict cache_report(const PyEngine& self) {
  const auto report = run<CacheReport>(
      Needed::of(self.engine.get()),
      [engine = self.use()](const std::stop_token&) -> Result<CacheReport> { return engine->cache_report(); });
  nb::dict by_cause;
  for (std::size_t i = 0; i < kStoppedCount; ++i) {
    by_cause[name(static_cast<Stopped>(i))] = to_python(report.by_cause[i]);
  }
  nb::dict evicted;
  evicted["room"] = report.evicted.room;
  evicted["quota"] = report.evicted.quota;
  evicted["limit"] = report.evicted.limit;
  evicted["expired"] = report.evicted.expired;
  evicted["cleared"] = report.evicted.cleared;
  evicted["checkpoints"] = report.evicted.checkpoints;
  nb::dict all = to_python(report.total());
  all["by_cause"] = by_cause;
  all["reused"] = to_python(report.reused_tokens);
  all["missing"] = to_python(report.missing_tokens);
  all["continued"] = report.continued;
  all["waits"] = report.waits;
  all["preemptions"] = report.preemptions;
  all["evicted"] = evicted;
  all["unused_for"] = to_python(report.unused_for);
  all["blocks"] = report.blocks;
  all["window_blocks"] = report.window_blocks;
  all["checkpoints"] = report.checkpoints;
  all["kv_cached"] = report.kv_cached;
  all["kv_in_use"] = report.kv_in_use;
  all["kv_pinned"] = report.kv_pinned;
  all["kv_free"] = report.kv_free;
  all["index"] = report.index;
  return all;
}

constexpr const char* kEngineDoc =
    "One model, one cache, one engine thread. Safe to use from several threads: requests queue, run together and get\n"
    "the bits they would get alone.\n\n"
    "path: a GGUF file. Errors: NotFoundError, CorruptError, UnsupportedError, ExhaustedError (the budget cannot hold\n"
    "the model).";
constexpr const char* kGenerateDoc =
    "Generates a reply to token ids, and waits for it.\n\n"
    "on_text(text) gets whole characters as they come and may end the reply by returning False; on_prefill(done, "
    "total)\n"
    "is told the prompt's tokens done. What a callback raises cancels the request and comes out here.\n"
    "Errors: InvalidArgumentError (an empty prompt, ids outside the vocabulary, longer than the context),\n"
    "ExhaustedError (can never fit the budget), NumericError.";

}  // namespace

const std::shared_ptr<Engine>& PyEngine::use() const {
  refuse_if_forked();
  if (!engine) raise(ErrorCode::invalid_argument, "the engine is closed");
  return engine;
}

void bind_engine(nb::module_& module) {
  nb::class_<PyEngine>(module, "Engine", kEngineDoc, nb::is_weak_referenceable())
      .def(
          "__init__",
          [](PyEngine* self, const nb::object& path, const nb::kwargs& options) {
            new (self) PyEngine(opened(path, options));
          },
          nb::arg("path"), nb::arg("options"),
          nb::sig("def __init__(self, path: str | os.PathLike[str], " DALSEGNO_ENGINE_OPTIONS ") -> None"))
      .def(
          "generate",
          [](const PyEngine& self, const nb::object& prompt, const nb::object& on_text, nb::object on_prefill,
             const nb::kwargs& options) { return stream(self, prompt, std::move(on_prefill), options).drain(on_text); },
          nb::arg("prompt"), nb::arg("on_text") = nb::none(), nb::arg("on_prefill") = nb::none(), nb::arg("options"),
          nb::sig("def generate(self, prompt: collections.abc.Iterable[int], "
                  "on_text: collections.abc.Callable[[str], object] | None = None, "
                  "on_prefill: collections.abc.Callable[[int, int], object] | None = None, " DALSEGNO_GENERATE_OPTIONS
                  ") -> Reply"),
          kGenerateDoc)
      .def("stream", &stream, nb::arg("prompt"), nb::arg("on_prefill") = nb::none(), nb::arg("options"),
           nb::sig("def stream(self, prompt: collections.abc.Iterable[int], "
                   "on_prefill: collections.abc.Callable[[int, int], object] | None = None, " DALSEGNO_GENERATE_OPTIONS
                   ") -> Stream"),
           "The same as an iterator of text, begun when it is first read.")
      .def("explain", &explain, nb::arg("prompt"), nb::arg("salt") = "",
           nb::sig("def explain(self, prompt: collections.abc.Iterable[int], salt: str = '') -> Explanation"),
           "What generate() would reuse of this prompt now, and why no more. Computes nothing.")
      .def(
          "pin",
          [](const PyEngine& self, const nb::object& prefix, std::string salt) {
            return pinned(self.use(), tokens_of("prefix", prefix), std::move(salt));
          },
          nb::arg("prefix"), nb::arg("salt") = "",
          nb::sig("def pin(self, prefix: collections.abc.Iterable[int], salt: str = '') -> Pin"),
          "Computes and keeps the whole blocks of 16 tokens of this prefix while the Pin exists.\n"
          "Errors: as generate(), InvalidArgumentError (not one whole block), ExhaustedError (no room).")
      .def_prop_ro(
          "context", [](const PyEngine& self) { return self.use()->context(); }, "Most tokens of a sequence.")
      .def_prop_ro(
          "tokenizer", [](const PyEngine& self) { return self.use()->tokenizer(); }, "The model's Tokenizer.")
      .def("reset_cache", &reset_cache, "Drops every cached block that no running request uses.")
      .def("cache_report", &cache_report, nb::sig("def cache_report(self) -> dict[str, typing.Any]"),
           "What the cache has done since the engine was opened, and what it holds now: requests, reused_tokens and\n"
           "missing_tokens, in all and by_cause (why reuse ended); blocks evicted, by why; histograms of tokens "
           "({least\n"
           "value: how many}); blocks held, and the bytes of K/V that are kv_cached, kv_in_use, kv_pinned, kv_free.")
      .def("draft_report", &draft_report, nb::sig("def draft_report(self) -> dict[str, typing.Any] | None"),
           "What the draft model has done, or None without one: tokens proposed and accepted, by their place in a "
           "draft;\n"
           "trials of guesses that were not known to pay; passes of the model, their seconds, and pass_ms of one "
           "lately;\n"
           "tokens read before it could guess; pays: whether it guesses at present.")
      .def("audit_cache", &audit_cache, nb::arg("blocks") = 0,
           "Computes so many sampled blocks again and compares them with the cached ones; 0: only reports.")
      .def(
          "close", [](PyEngine& self) { self.engine.reset(); },
          "Lets go of the engine, which ends when no session, cache, batch or pin of it is left.")
      .def_prop_ro(
          "is_open", [](const PyEngine& self) { return self.engine != nullptr; }, "False after close().")
      .def("__repr__", &shown)
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); }, nb::sig("def __enter__(self) -> Engine"))
      .def(
          "__exit__", [](PyEngine& self, const nb::args&) { self.engine.reset(); },
          nb::sig("def __exit__(self, *exception: object) -> None"));

  nb::class_<PyPin>(module, "Pin", "A cached prefix that stays while this exists, whatever needs room.")
      .def_prop_ro(
          "tokens", [](const PyPin& self) { return self.pin ? self.pin->tokens() : 0; }, "How many are kept.")
      .def(
          "release", [](PyPin& self) { self.pin.reset(); }, "Lets go of it now.")
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); }, nb::sig("def __enter__(self) -> Pin"))
      .def(
          "__exit__", [](PyPin& self, const nb::args&) { self.pin.reset(); },
          nb::sig("def __exit__(self, *exception: object) -> None"));
}

}  // namespace dalsegno::python
