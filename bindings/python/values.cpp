// Plain results: what the C++ interface gives, read-only.

#include "bindings/python/python.hpp"
#include "dalsegno/memory.hpp"

namespace dalsegno::python {
namespace {

void bind_usage(nb::module_& module) {
  nb::class_<Usage>(module, "Usage",
                    "In tokens. reused + prefilled = prompt, less what a cancelled prefill left undone.\n"
                    "reply_tokens excludes an end-of-turn token. Of speculation: proposed_tokens were guessed and\n"
                    "computed beside others, accepted_tokens of them proved right.")
      .def_ro("prompt_tokens", &Usage::prompt_tokens, "Of the whole prompt, reused ones too.")
      .def_ro("reused_tokens", &Usage::reused_tokens, "Of the prompt, taken from the cache.")
      .def_ro("prefilled_tokens", &Usage::prefilled_tokens, "Of the prompt, computed.")
      .def_ro("reply_tokens", &Usage::reply_tokens, "Generated, without an end-of-turn token.")
      .def_ro("proposed_tokens", &Usage::proposed_tokens, "Guessed, and computed beside others.")
      .def_ro("accepted_tokens", &Usage::accepted_tokens, "Of these, those that proved right.")
      .def("__repr__", [](const Usage& self) {
        return "Usage(prompt_tokens=" + std::to_string(self.prompt_tokens) +
               ", reused_tokens=" + std::to_string(self.reused_tokens) +
               ", prefilled_tokens=" + std::to_string(self.prefilled_tokens) +
               ", reply_tokens=" + std::to_string(self.reply_tokens) +
               ", proposed_tokens=" + std::to_string(self.proposed_tokens) +
               ", accepted_tokens=" + std::to_string(self.accepted_tokens) + ")";
      });
  nb::class_<Reuse>(module, "Reuse", "From which tier tokens were reused, and why no more.")
      .def_prop_ro(
          "tier", [](const Reuse& self) { return self.tier; }, "'ram', or 'none' if nothing was reused.")
      .def_prop_ro(
          "stopped", [](const Reuse& self) { return name(self.stopped); },
          "Why reuse ended: 'end' (all was cached), 'cold', 'diverged', 'evicted', 'window', 'namespace', 'off'.")
      .def_ro("at", &Reuse::at, "The first token that was not cached.")
      .def_ro("resumed", &Reuse::resumed,
              "Where prefill began: before `at` where a sliding window lacked what precedes.")
      .def_ro("saved_ms", &Reuse::saved_ms, "What the reused tokens would have taken; 0: no such step yet.")
      .def("__repr__", [](const Reuse& self) {
        return std::string("Reuse(tier='") + self.tier + "', stopped='" + name(self.stopped) +
               "', at=" + std::to_string(self.at) + ")";
      });
  nb::class_<Explanation>(module, "Explanation", "What a prompt would reuse now, without running it.")
      .def_ro("prompt_tokens", &Explanation::prompt_tokens, "Of the whole prompt.")
      .def_ro("reused_tokens", &Explanation::reused_tokens, "Of the prompt, which are cached now.")
      .def_ro("reuse", &Explanation::reuse, "Why no more.")
      .def_ro("ttft_ms", &Explanation::ttft_ms, "Predicted milliseconds to the first token; 0: no such step yet.");
}

void bind_reply(nb::module_& module) {
  nb::class_<Reply>(module, "Reply", "What a request came to.")
      .def_ro("text", &Reply::text, "Whole characters, without a stop text.")
      .def_ro("prompt_ids", &Reply::prompt_ids, "The prompt's token ids.")
      .def_ro("ids", &Reply::ids, "The reply's token ids, without an end-of-turn token.")
      .def_prop_ro(
          "logprobs",
          [](nb::handle self) -> nb::object {
            const auto& values = nb::cast<const Reply&>(self).logprobs;
            return nb::cast(nb::ndarray<nb::numpy, const double, nb::ndim<1>>(values.data(), {values.size()}, self));
          },
          nb::sig("def logprobs(self, /) -> numpy.typing.NDArray[numpy.float64]"),
          "Natural logarithms of the probabilities of `ids`, [len(ids)] float64, if asked for; read-only, not copied.")
      .def_prop_ro(
          "finish_reason", [](const Reply& self) { return name(self.finish_reason); },
          "'stop', 'length', 'cancelled', 'deadline', or 'dead_end': the text of the constraint is not whole, but "
          "other\n"
          "options forbid every token that it allows.")
      .def_ro("usage", &Reply::usage, "What it took, in tokens.")
      .def_ro("reuse", &Reply::reuse, "What of the prompt was reused, and why no more.")
      .def_ro("ttft_ms", &Reply::ttft_ms, "Milliseconds to the first token.")
      .def_ro("tokens_per_second", &Reply::tokens_per_second, "Of the reply, after its first token.")
      .def("__str__", [](const Reply& self) { return self.text; })
      .def("__repr__", [](const Reply& self) {
        return "Reply(text=" + nb::cast<std::string>(nb::repr(nb::cast(self.text))) + ", finish_reason='" +
               name(self.finish_reason) + "')";
      });
}

void bind_memory(nb::module_& module) {
  nb::class_<MemoryReport>(module, "MemoryReport", "Of the whole process, in bytes.")
      .def_ro("limit", &MemoryReport::limit, "The budget.")
      .def_ro("idle_limit", &MemoryReport::idle_limit, "What is kept while nothing is active.")
      .def_ro("weights", &MemoryReport::weights, "Reserved for weights.")
      .def_ro("kv", &MemoryReport::kv, "Reserved for K/V.")
      .def_ro("index", &MemoryReport::index, "Reserved for the prefix index.")
      .def_ro("log_probs", &MemoryReport::log_probs, "Reserved for LogprobCaches.")
      .def_ro("work", &MemoryReport::work, "Reserved for step buffers.")
      .def_ro("engines", &MemoryReport::engines, "How many are open.")
      .def_ro("active", &MemoryReport::active, "A request runs or a session exists.")
      .def_ro("pressure", &MemoryReport::pressure, "How often caches were cut down because the system lacked memory.");
  module.def(
      "memory_report",
      [] {
        refuse_if_forked();
        return memory_report();
      },
      "The process's memory; None while no engine is open.");
  module.def(
      "release_all",
      [] {
        run<void>(Needed::all(), [](const std::stop_token&) -> Result<void> {
          release_all();
          return {};
        });
      },
      "Gives back to the system everything cached that no running request uses, and step buffers.\n"
      "Waits for the steps that run. Not to be called from a callback.");
}

}  // namespace

void bind_values(nb::module_& module) {
  bind_usage(module);
  bind_reply(module);
  bind_memory(module);
  nb::class_<AuditReport>(module, "AuditReport", "What auditing the cache has found so far.")
      .def_ro("checked", &AuditReport::checked, "Blocks computed again and compared.")
      .def_ro("skipped", &AuditReport::skipped,
              "Blocks that could not be, for want of room or of what a sliding window sees.")
      .def_ro("mismatched", &AuditReport::mismatched,
              "Blocks that differed: nothing of their namespace is reused any more.")
      .def_ro("last_mismatch", &AuditReport::last_mismatch,
              "A sentence: which tokens, which layer; empty if none differed.");
}

}  // namespace dalsegno::python
