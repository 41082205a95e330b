#include "dalsegno/batch.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>

#include "bindings/python/prompt_cache.hpp"

namespace dalsegno::python {
namespace {

// The logits of a request's tokens on their way from the engine's thread to the reader: one row for each token.
class Rows {
 public:
  void push(std::span<const float> logits) {
    auto row = std::make_shared<std::vector<float>>(logits.begin(), logits.end());
    const std::lock_guard lock(mutex_);
    rows_.push_back(std::move(row));
  }
  std::shared_ptr<std::vector<float>> pop() {
    const std::lock_guard lock(mutex_);
    if (rows_.empty()) return nullptr;
    auto row = std::move(rows_.front());
    rows_.pop_front();
    return row;
  }

 private:
  std::mutex mutex_;
  std::deque<std::shared_ptr<std::vector<float>>> rows_;
};

struct PyResponse {
  BatchResponse response;
  std::optional<PyPromptCache> cache{};
  std::shared_ptr<std::vector<float>> logits{};
  nb::object raised{};  // by the request's logits processor

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(raised.ptr());
    return 0;
  }
  void clear() { const auto gone = std::exchange(raised, {}); }
};

struct PyBatch {
  // One request's part that C++ has no place for.
  struct Extra {
    std::shared_ptr<Failure> failure;
    SharedObject processor;
    std::shared_ptr<Rows> rows;
  };
  using Responses = std::vector<BatchResponse>;

  std::shared_ptr<Engine> engine;
  std::shared_ptr<BatchGenerator> batch;
  std::map<std::uint64_t, Extra> extras{};
  // A call of next() that a signal cut short: what it brings is the next one's.
  std::shared_ptr<Call> call{};
  std::shared_ptr<Responses> responses{};
  bool waiting = false;

  [[nodiscard]] const std::shared_ptr<BatchGenerator>& use() const {
    refuse_if_forked();
    return batch;
  }
  int traverse(visitproc visit, void* arg) const {
    for (const auto& [uid, extra] : extras) {
      if (extra.processor) Py_VISIT(extra.processor->ptr());
      if (const int stopped = extra.failure->traverse(visit, arg); stopped != 0) return stopped;
    }
    return 0;
  }
  void clear() {}
  void finalize() {
    const auto gone = std::exchange(extras, {});
    for (const auto& [uid, extra] : gone) {
      if (!extra.processor) continue;
      const auto processor = std::exchange(*extra.processor, {});
    }
  }
};

PyBatch made(const PyEngine& engine) {
  const auto& owner = engine.use();
  return {owner, shared_without_gil(std::make_unique<BatchGenerator>(*owner))};
}

// The logits as they are drawn from, after the caller's own processor.
void keep_logits(GenerateOptions& options, const std::shared_ptr<Rows>& rows) {
  options.logits_processor = [first = options.logits_processor, rows](std::span<const TokenId> tokens,
                                                                      std::span<float> logits) {
    if (first) first(tokens, logits);
    rows->push(logits);
  };
}

// What of a list, or of one thing for all, is the i-th request's.
nb::object item_of(const nb::object& given, std::size_t i, std::size_t count, const char* what) {
  if (given.is_none()) return given;
  if (PySequence_Check(given.ptr()) == 0) refuse(what, "a list with an entry for each prompt", given);
  if (static_cast<std::size_t>(nb::len(given)) != count) {
    throw nb::value_error((std::string(what) + ": there must be one for each prompt").c_str());
  }
  return given[i];
}

struct Inserted {
  std::vector<BatchRequest> requests{};
  std::vector<PyBatch::Extra> extras{};
};

Inserted requests_of(const Engine& engine, const nb::list& prompts, const nb::object& max_tokens,
                     const nb::object& caches, const nb::object& options, const nb::object& uids, bool keep_cache,
                     bool logits, const nb::kwargs& kwargs) {
  Inserted all;
  const std::size_t count = nb::len(prompts);
  for (std::size_t i = 0; i < count; ++i) {
    Asked one = asked(engine, kwargs);
    const bool for_all = max_tokens.is_none() || nb::isinstance<nb::int_>(max_tokens);
    const nb::object most = for_all ? max_tokens : item_of(max_tokens, i, count, "max_tokens");
    if (!most.is_none()) set_option(one, "max_tokens", most);
    const nb::object own = item_of(options, i, count, "options");
    if (!own.is_none()) {
      if (!nb::isinstance<nb::dict>(own)) refuse("options", "a list of dicts or None", own);
      for (const auto& [key, value] : nb::cast<nb::dict>(own)) {
        if (!nb::isinstance<nb::str>(key)) refuse("options", "a list of dicts whose keys are names", own);
        const auto name = nb::cast<std::string>(key);
        if (!set_option(one, name, value)) throw nb::type_error(("options: there is no '" + name + "'").c_str());
      }
    }
    PyBatch::Extra extra{one.failure, one.processor, nullptr};
    if (logits) {
      extra.rows = std::make_shared<Rows>();
      keep_logits(one.options, extra.rows);
    }
    const std::string name = "prompts, item " + std::to_string(i);
    BatchRequest request{
        .prompt = tokens_of(name.c_str(), prompts[i]), .options = std::move(one.options), .keep_cache = keep_cache};
    if (const nb::object cache = item_of(caches, i, count, "caches"); !cache.is_none()) {
      if (!nb::isinstance<PyPromptCache>(cache)) refuse("caches", "a list of PromptCaches or None", cache);
      request.cache = *nb::cast<const PyPromptCache&>(cache).cache;
    }
    if (const nb::object uid = item_of(uids, i, count, "uids"); !uid.is_none()) {
      std::uint64_t wanted = 0;
      if (!nb::try_cast(uid, wanted)) refuse("uids", "a list of whole numbers from 0 on, or None", uid);
      request.uid = wanted;
    }
    all.requests.push_back(std::move(request));
    all.extras.push_back(std::move(extra));
  }
  return all;
}

std::vector<std::uint64_t> insert(PyBatch& self, const nb::list& prompts, const nb::object& max_tokens,
                                  const nb::object& caches, const nb::object& options, const nb::object& uids,
                                  bool keep_cache, bool logits, const nb::kwargs& kwargs) {
  Inserted all = requests_of(*self.engine, prompts, max_tokens, caches, options, uids, keep_cache, logits, kwargs);
  // Not to be left in the middle, which would lose the uids: it only queues.
  Result<std::vector<std::uint64_t>> inserted = [&] {
    const auto batch = self.use();
    const Released released;
    return batch->insert(std::move(all.requests));
  }();
  std::vector<std::uint64_t> names = value_of(std::move(inserted));
  for (std::size_t i = 0; i < names.size(); ++i) self.extras[names[i]] = std::move(all.extras[i]);
  return names;
}

std::string sentence_of(const nb::object& raised) {
  const std::string kind = nb::cast<std::string>(raised.type().attr("__name__"));
  return "the logits processor raised " + kind + ": " +
         nb::cast<std::string>(nb::module_::import_("builtins").attr("ascii")(raised));
}

PyResponse response_of(PyBatch& self, BatchResponse&& response) {
  PyResponse all{std::move(response)};
  if (all.response.cache) {
    all.cache = PyPromptCache::of(self.engine, std::move(*all.response.cache));
    all.response.cache.reset();
  }
  const auto extra = self.extras.find(all.response.uid);
  if (extra == self.extras.end()) return all;
  if (all.response.token && extra->second.rows) all.logits = extra->second.rows->pop();
  if (all.response.finish_reason) {
    const auto ended = self.extras.extract(extra);
    all.raised = ended.mapped().failure->take();
  }
  if (all.raised.is_valid() && all.response.error) all.response.error->message = sentence_of(all.raised);
  return all;
}

std::vector<PyResponse> next(PyBatch& self) {
  if (self.waiting) raise(ErrorCode::invalid_argument, "next() is under way on another thread");
  const Awaits awaits(Needed::of(self.engine.get()));
  if (!self.call) {
    self.responses = std::make_shared<PyBatch::Responses>();
    self.call = Call::start(
        [engine = self.engine, batch = self.use(), responses = self.responses](Call&) { *responses = batch->next(); });
  }
  self.waiting = true;
  struct Waiting {
    bool& flag;
    ~Waiting() { flag = false; }
  } const waiting{self.waiting};
  finish(*self.call);
  self.call.reset();
  std::vector<PyResponse> all;
  for (BatchResponse& response : *self.responses) all.push_back(response_of(self, std::move(response)));
  return all;
}

PyPromptCache extract_cache(const PyBatch& self, std::uint64_t uid) {
  return PyPromptCache::of(self.engine,
                           run<PromptCache>(Needed::of(self.engine.get()),
                                            [engine = self.engine, batch = self.use(), uid](const std::stop_token&) {
                                              return batch->extract_cache(uid);
                                            }));
}

void remove(PyBatch& self, std::uint64_t uid) {
  Result<void> removed = [&] {
    const auto batch = self.use();
    const Released released;
    return batch->remove(uid);
  }();
  value_of(std::move(removed));
  const auto gone = self.extras.extract(uid);
}

// Natural logarithms of probabilities of one row of logits, in place; each the float nearest to the double.
void log_softmax(std::vector<float>& row) {
  const double most = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float logit : row) sum += std::exp(static_cast<double>(logit) - most);
  const double log_sum = most + std::log(sum);
  for (float& value : row) value = static_cast<float>(static_cast<double>(value) - log_sum);
}

}  // namespace

void bind_batch(nb::module_& module) {
  nb::class_<PyResponse>(module, "BatchResponse", "One token of a request, or its end.",
                         nb::type_slots(kCollected<PyResponse>))
      .def_prop_ro(
          "uid", [](const PyResponse& self) { return self.response.uid; }, "Of the request, as insert() gave it.")
      .def_prop_ro(
          "token", [](const PyResponse& self) { return self.response.token; },
          "The id, an end-of-turn token's too; None where a request ended without one.")
      .def_prop_ro(
          "logprob", [](const PyResponse& self) { return self.response.logprob; },
          "Of the token, a natural logarithm, if asked for by logprobs=True.")
      .def_prop_ro(
          "text", [](const PyResponse& self) { return self.response.text; }, "New text, whole characters.")
      .def_prop_ro(
          "finish_reason",
          [](const PyResponse& self) -> std::optional<std::string> {
            if (!self.response.finish_reason) return std::nullopt;
            return name(*self.response.finish_reason);
          },
          "None while it goes on; 'stop', 'length', 'cancelled', 'deadline', 'error', or 'dead_end': the text of the\n"
          "constraint is not whole, but other options forbid every token that it allows.")
      .def_prop_ro(
          "error",
          [](const PyResponse& self) -> std::optional<std::string> {
            if (!self.response.error) return std::nullopt;
            return self.response.error->message;
          },
          "With finish_reason 'error', what went wrong.")
      .def_prop_ro(
          "exception",
          [](const PyResponse& self) -> nb::object {
            if (self.raised.is_valid()) return self.raised;
            if (!self.response.error) return nb::none();
            return exception_of(*self.response.error);
          },
          nb::sig("def exception(self, /) -> Exception | None"),
          "The same as the exception that stands for it, to be raised: a DalSegnoError, or what the request's logits\n"
          "processor raised.")
      .def_prop_ro(
          "usage", [](const PyResponse& self) { return self.response.usage; }, "So far.")
      .def_prop_ro(
          "reuse", [](const PyResponse& self) { return self.response.reuse; },
          "What of the prompt was reused, and why no more.")
      .def_ro("cache", &PyResponse::cache,
              "With the end: the PromptCache of prompt and reply, but for the last token, which has no K/V yet.")
      .def_prop_ro(
          "cache_refusal", [](const PyResponse& self) { return self.response.cache_refusal; },
          "Why there is no cache though one was wanted.")
      .def(
          "logprobs_row",
          [](PyResponse& self) -> nb::object {
            if (!self.logits) return nb::none();
            log_softmax(*self.logits);
            return array_of(std::exchange(self.logits, nullptr));
          },
          nb::sig("def logprobs_row(self) -> numpy.typing.NDArray[numpy.float32] | None"),
          "Log-probabilities of all tokens as they were drawn from, [vocabulary] float32, if insert() had\n"
          "keep_logits=True; once.");

  nb::class_<PyBatch>(
      module, "BatchGenerator",
      "Requests that run together, a token of each at a time. They come and go while others run; what a\n"
      "request yields depends neither on the others nor on their order.",
      nb::type_slots(kCollected<PyBatch>))
      .def(
          "__init__", [](PyBatch* self, const PyEngine& engine) { new (self) PyBatch(made(engine)); },
          nb::arg("engine"))
      .def("insert", &insert, nb::arg("prompts"), nb::arg("max_tokens") = nb::none(), nb::kw_only(),
           nb::arg("caches") = nb::none(), nb::arg("options") = nb::none(), nb::arg("uids") = nb::none(),
           nb::arg("keep_cache") = true, nb::arg("keep_logits") = false, nb::arg("all_options"),
           nb::sig("def insert(self, prompts: list[collections.abc.Iterable[int]], "
                   "max_tokens: int | list[int] | None = None, *, "
                   "caches: list[PromptCache | None] | None = None, "
                   "options: list[dalsegno.options.GenerateOptions | None] | None = None, "
                   "uids: list[int | None] | None = None, keep_cache: bool = True, keep_logits: bool = False, "
                   "**all_options: typing_extensions.Unpack[dalsegno.options.GenerateOptions]) -> list[int]"),
           "Queues requests, all together or none, and gives their uids. Keyword options hold for all of them,\n"
           "`options` for each. caches: continued as far as a prompt begins with their tokens.\n"
           "Errors: InvalidArgumentError (as Engine.generate, a uid in use, a cache of another engine or salt).")
      .def("next", &next,
           "Waits until a request has something new; the next response of every one that has, by ascending uid.\n"
           "Empty once no request is left. What goes wrong with one request, an exception of its logits processor too, "
           "is\n"
           "its last response, with finish_reason 'error'; nothing is raised for it, so that the others lose nothing.")
      .def("extract_cache", &extract_cache, nb::arg("uid"),
           "What a request has computed so far; it goes on. Errors: NotFoundError, ExhaustedError.")
      .def("remove", &remove, nb::arg("uid"), "Drops a request, wherever it stands. Errors: NotFoundError.")
      .def(
          "close",
          [](PyBatch& self) {
            refuse_if_forked();
            self.batch = shared_without_gil(std::make_unique<BatchGenerator>(*self.engine));
            const auto gone = std::exchange(self.extras, {});
          },
          "Drops all requests.");
}

}  // namespace dalsegno::python
