#include "dalsegno/logprobs.hpp"

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

struct PyLogprobs {
  std::shared_ptr<Engine> engine;
  std::shared_ptr<LogprobCache> cache;
  [[nodiscard]] const std::shared_ptr<LogprobCache>& use() const {
    refuse_if_forked();
    if (!cache) raise(ErrorCode::invalid_argument, "the cache of log-probabilities is closed");
    return cache;
  }
};

using Rows = std::vector<LogprobRow>;

// Answers of queries that entered the queue together, for event loops.
struct PyQueries {
  std::shared_ptr<Call> call;
  std::shared_ptr<std::vector<Result<LogprobRow>>> rows;
  std::vector<nb::object> refusals;  // one for each prompt: why it is no query and has no row, or None
};

PyLogprobs made(const PyEngine& engine, std::string salt, std::uint64_t max_bytes, int chunk) {
  const auto& owner = engine.use();
  const LogprobOptions options{.salt = std::move(salt), .max_bytes = max_bytes, .chunk = chunk};
  auto cache = run<std::shared_ptr<LogprobCache>>(
      Needed::of(owner.get()), [owner, options](const std::stop_token&) -> Result<std::shared_ptr<LogprobCache>> {
        DALSEGNO_ASSIGN(one, LogprobCache::create(*owner, options));
        return std::shared_ptr<LogprobCache>(std::move(one));
      });
  return {owner, shared_without_gil(std::move(cache))};
}

nb::object row_of(const LogprobRow& row) {
  return array_of(row);
}

std::vector<std::vector<TokenId>> batch_of(const nb::object& prompts) {
  std::vector<std::vector<TokenId>> batch;
  const nb::object items = items_of("prompts", "a list of lists of token ids", prompts);
  for (const nb::handle prompt : nb::iter(items)) {
    batch.push_back(tokens_of(("prompts, item " + std::to_string(batch.size())).c_str(), prompt));
  }
  return batch;
}

// An answer that is there needs no thread.
nb::object next_token_logprobs(const PyLogprobs& self, const nb::object& prompt) {
  const auto& cache = self.use();
  const Awaits awaits(Needed::of(self.engine.get()));  // also for an answer that is there, which may be gone next time
  auto query = [&] {
    const auto tokens = tokens_of("prompt", prompt);
    const Released released;
    return cache->query(tokens);
  }();
  if (query.is_ready()) return row_of(value_of(query.get()));
  return row_of(run<LogprobRow>(Needed::of(self.engine.get()),
                                [engine = self.engine, cache, query](const std::stop_token&) { return query.get(); }));
}

std::vector<LogprobCache::Query> queries_of(const PyLogprobs& self, const std::vector<std::vector<TokenId>>& batch) {
  const auto& cache = self.use();
  const Awaits awaits(Needed::of(self.engine.get()));
  const Released released;
  return cache->query(batch);
}

nb::object next_token_logprobs_batch(const PyLogprobs& self, const nb::object& prompts) {
  auto queries = queries_of(self, batch_of(prompts));
  const Rows rows = run<Rows>(
      Needed::of(self.engine.get()),
      [engine = self.engine, cache = self.use(), queries = std::move(queries)](const std::stop_token&) -> Result<Rows> {
        Rows all;
        for (const auto& query : queries) {
          DALSEGNO_ASSIGN(row, query.get());
          all.push_back(std::move(row));
        }
        return all;
      });
  nb::list arrays;
  for (const LogprobRow& row : rows) arrays.append(row_of(row));
  return arrays;
}

// The exception, if these are no token ids.
nb::object take(nb::handle prompt, std::vector<std::vector<TokenId>>& batch) {
  try {
    batch.push_back(tokens_of("prompt", prompt));
    return nb::none();
  } catch (const Raised& raised) {
    return exception_of(raised.error);
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) throw;
    return nb::borrow(error.value());
  }
}

// Those of several tasks: what is wrong with one is no concern of the others.
PyQueries begin(const PyLogprobs& self, const nb::object& prompts) {
  std::vector<std::vector<TokenId>> batch;
  std::vector<nb::object> refusals;
  for (const nb::handle prompt : nb::iter(prompts)) refusals.push_back(take(prompt, batch));
  auto queries = queries_of(self, batch);
  const auto rows = std::make_shared<std::vector<Result<LogprobRow>>>();
  auto call = Call::start([engine = self.engine, cache = self.use(), queries = std::move(queries), rows](Call&) {
    for (const auto& query : queries) rows->push_back(query.get());
  });
  return {std::move(call), rows, std::move(refusals)};
}

// [(row, None) or (None, exception)], or None while some are missing.
nb::object poll(const PyQueries& self) {
  refuse_if_forked();
  const auto event = self.call->wait(0);
  if (!event) return nb::none();
  nb::list all;
  auto next = self.rows->begin();
  for (const nb::object& refusal : self.refusals) {
    if (!refusal.is_none()) {
      all.append(nb::make_tuple(nb::none(), refusal));
      continue;
    }
    const Result<LogprobRow>& row = *next++;
    all.append(row.ok() ? nb::make_tuple(row_of(row.value()), nb::none())
                        : nb::make_tuple(nb::none(), exception_of(row.error())));
  }
  return all;
}

void cache_kv(const PyLogprobs& self, const nb::object& prompt) {
  run<void>(Needed::of(self.engine.get()),
            [engine = self.engine, cache = self.use(), tokens = tokens_of("prompt", prompt)](const std::stop_token&) {
              return cache->cache_kv(tokens);
            });
}

template <void (LogprobCache::*Clear)()>
void clear(const PyLogprobs& self) {
  run<void>(Needed::of(self.engine.get()),
            [engine = self.engine, cache = self.use()](const std::stop_token&) -> Result<void> {
              ((*cache).*Clear)();
              return {};
            });
}

constexpr const char* kCacheDoc =
    "The distribution of the next token after any tokens, for probabilistic programs. Equal queries run the model "
    "once,\n"
    "those of several threads or of one batch run in common steps, and each continues from the longest beginning "
    "whose\n"
    "K/V are cached. Use it from any number of threads.\n\n"
    "max_bytes: of answers kept, taken from the memory budget at once. Errors: ExhaustedError.";
constexpr const char* kNextDoc =
    "Natural logarithms of the next token's probabilities, [vocabulary] float32; read-only, not copied.\n"
    "Errors: InvalidArgumentError (no tokens, ids outside the vocabulary, more than the context), ExhaustedError,\n"
    "NumericError.";

void bind_stats(nb::module_& module) {
  nb::class_<LogprobStats>(module, "LogprobStats", "What queries took, and what is kept.")
      .def_ro("queries", &LogprobStats::queries, "Contexts asked for.")
      .def_ro("hits", &LogprobStats::hits, "Answered from rows kept.")
      .def_ro("joined", &LogprobStats::joined, "Answered by an equal query that was on its way.")
      .def_ro("from_hidden", &LogprobStats::from_hidden, "By the output head alone.")
      .def_ro("computed", &LogprobStats::computed, "By the whole model.")
      .def_ro("tokens_computed", &LogprobStats::tokens_computed,
              "Tokens of `computed` queries that no K/V were cached of.")
      .def_ro("evicted", &LogprobStats::evicted, "Answers forgotten for room.")
      .def_ro("rows", &LogprobStats::rows, "Rows kept now.")
      .def_ro("hidden_states", &LogprobStats::hidden_states,
              "Hidden states kept now; each answer that is kept has one.")
      .def_ro("bytes", &LogprobStats::bytes, "Of what is kept, tokens included.");
}

}  // namespace

void bind_logprobs(nb::module_& module) {
  bind_stats(module);
  nb::class_<PyQueries>(module, "_Queries").def("poll", &poll).def("event_fd", [](const PyQueries& self) {
    return checked_fd(*self.call);
  });
  const LogprobOptions defaults;
  nb::class_<PyLogprobs>(module, "LogprobCache", kCacheDoc, nb::is_weak_referenceable(), nb::dynamic_attr())
      .def(
          "__init__",
          [](PyLogprobs* self, const PyEngine& engine, std::string salt, std::uint64_t max_bytes, int chunk) {
            new (self) PyLogprobs(made(engine, std::move(salt), max_bytes, chunk));
          },
          nb::arg("engine"), nb::kw_only(), nb::arg("salt") = "", nb::arg("max_bytes") = defaults.max_bytes,
          nb::arg("chunk") = defaults.chunk)
      .def("next_token_logprobs", &next_token_logprobs, nb::arg("prompt"),
           nb::sig("def next_token_logprobs(self, prompt: collections.abc.Iterable[int]) -> "
                   "numpy.typing.NDArray[numpy.float32]"),
           kNextDoc)
      .def(
          "next_token_logprobs_batch", &next_token_logprobs_batch, nb::arg("prompts"),
          nb::sig("def next_token_logprobs_batch(self, prompts: collections.abc.Iterable[collections.abc.Iterable[int]]"
                  ") -> list[numpy.typing.NDArray[numpy.float32]]"),
          "The same for several prompts, which enter the queue together; the first error if there is one.")
      .def(
          "next_token_logprobs_async",
          [](nb::handle self, const nb::object& prompt) {
            return nb::module_::import_("dalsegno._aio").attr("next_token_logprobs")(self, prompt);
          },
          nb::arg("prompt"),
          nb::sig("def next_token_logprobs_async(self, prompt: collections.abc.Iterable[int]) -> "
                  "collections.abc.Coroutine[object, object, numpy.typing.NDArray[numpy.float32]]"),
          "The same, awaited. Queries that tasks make in one turn of the event loop run in common steps.")
      .def("_begin", &begin, nb::arg("prompts"))
      .def("cache_kv", &cache_kv, nb::arg("prompt"),
           nb::sig("def cache_kv(self, prompt: collections.abc.Iterable[int]) -> None"),
           "Computes the K/V of a prompt and keeps its whole blocks of 16 tokens until they are cleared.\n"
           "Errors: as Engine.pin.")
      .def("clear_cache", &clear<&LogprobCache::clear_cache>,
           "Forgets the answers kept, and all K/V of the engine that no running request uses.")
      .def("clear_kv_cache", &clear<&LogprobCache::clear_kv_cache>, "Forgets the K/V alone.")
      .def(
          "stats", [](const PyLogprobs& self) { return self.use()->stats(); },
          "What queries took so far: a LogprobStats.")
      .def(
          "close", [](PyLogprobs& self) { self.cache.reset(); }, "Gives its memory back.");
}

}  // namespace dalsegno::python
