#include "bindings/python/python.hpp"

namespace dalsegno::python {

Stream::Stream(std::shared_ptr<Call> call, Take take, nb::object on_prefill, Answerer answerer)
    : call_(std::move(call)),
      take_(std::move(take)),
      on_prefill_(std::move(on_prefill)),
      answerer_(std::move(answerer)) {}

Stream::~Stream() {
  if (call_ && !is_forked()) call_->cancel();  // one that nobody reads any more
}

std::optional<std::string> Stream::handle(Call::Event event) {
  using Kind = Call::Event::Kind;
  try {
    if (event.kind == Kind::text) return std::move(event.text);
    if (event.kind == Kind::question) {
      call_->answer(answerer_(event.text));
    } else if (event.kind == Kind::done) {
      ended_ = true;
      reply_ = std::exchange(take_, nullptr)();
    } else if (on_prefill_.is_valid() && !on_prefill_.is_none()) {
      if (on_prefill_(event.done, event.total).is(nb::handle(Py_False))) call_->cancel();
    }
  } catch (...) {  // what a callback raises ends the call
    call_->cancel();
    throw;
  }
  return std::nullopt;
}

std::optional<std::string> Stream::next() {
  while (!ended_) {
    if (auto text = handle(next_event(*call_))) return text;
  }
  return std::nullopt;
}

nb::object Stream::poll() {
  refuse_if_forked();
  while (!ended_) {
    std::optional<Call::Event> event = call_->wait(0);
    if (!event) return nb::none();
    if (auto text = handle(std::move(*event))) return nb::cast(std::move(*text));
  }
  return nb::bool_(true);
}

nb::object Stream::drain(const nb::object& on_text) {
  while (const auto text = next()) {
    if (!on_text.is_valid() || on_text.is_none()) continue;
    try {
      if (on_text(*text).is(nb::handle(Py_False))) call_->cancel();
    } catch (...) {
      call_->cancel();
      throw;
    }
  }
  return reply();
}

nb::object Stream::reply() const {
  if (!ended_) raise(ErrorCode::invalid_argument, "the reply is not complete yet: read the stream to its end");
  if (!reply_.is_valid()) raise(ErrorCode::invalid_argument, "there is no reply: it ended with an error");
  return reply_;
}

GenerateCallbacks callbacks_of(Call& call) {
  return {.on_text = [&call](std::string_view text) { return call.give(std::string(text)); },
          .on_prefill = [&call](int done, int total) { return call.progress(done, total); }};
}

void bind_stream(nb::module_& module) {
  nb::class_<Stream>(
      module, "Stream",
      "A reply as it comes: an iterator of new text, always whole characters, also `async for`.\n\n"
      "Leaving it (closing, or dropping the last reference) cancels the request; a `with` block closes.\n"
      "Nothing is generated further ahead of the reader than a few tokens.")
      .def(
          "__iter__", [](nb::handle self) { return nb::borrow(self); }, nb::sig("def __iter__(self) -> Stream"))
      .def("__next__",
           [](Stream& self) {
             auto text = self.next();
             if (!text) throw nb::stop_iteration();
             return std::move(*text);
           })
      .def("cancel", &Stream::cancel, "Ends the reply with the text read so far; finish_reason is then 'cancelled'.")
      .def("close", &Stream::cancel, "The same.")
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); }, nb::sig("def __enter__(self) -> Stream"))
      .def(
          "__exit__", [](Stream& self, const nb::args&) { self.cancel(); },
          nb::sig("def __exit__(self, *exception: object) -> None"))
      .def(
          "result", [](Stream& self) { return self.drain(nb::none()); }, nb::sig("def result(self) -> Reply"),
          "Reads to the end and gives the reply.")
      .def(
          "__aiter__", [](nb::handle self) { return nb::module_::import_("dalsegno._aio").attr("texts")(self); },
          nb::sig("def __aiter__(self) -> collections.abc.AsyncIterator[str]"))
      .def(
          "result_async", [](nb::handle self) { return nb::module_::import_("dalsegno._aio").attr("result")(self); },
          nb::sig("def result_async(self) -> collections.abc.Coroutine[object, object, Reply]"), "result(), awaited.")
      .def_prop_ro("reply", &Stream::reply, nb::sig("def reply(self, /) -> Reply"),
                   "The whole reply. Errors: InvalidArgumentError (the stream has not been read to its end).")
      .def_prop_ro("has_ended", &Stream::has_ended, "True once all of it has been read.")
      .def("_poll", &Stream::poll, "New text, None (nothing yet) or True (the end), without waiting.")
      .def("_event_fd", &Stream::event_fd, "Readable when _poll() may have something.");
}

}  // namespace dalsegno::python
