#include "bindings/python/stream.hpp"

namespace dalsegno::python {
namespace {

// Whether a callback's answer ends the request: False does, numpy's too.
bool ends(const nb::object& answer) {
  if (answer.is(nb::handle(Py_False))) return true;
  if (answer.is_none() || answer.is(nb::handle(Py_True))) return false;
  return nb::cast<bool>(nb::module_::import_("dalsegno._arguments").attr("ends")(answer));
}

}  // namespace

// Of one read. Another thread's, or one from within a callback of this one, is refused.
class Stream::Reading {
 public:
  explicit Reading(Stream& stream) : stream_(stream) { stream.open(); }
  ~Reading() { stream_.close(); }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

 private:
  Stream& stream_;
};

Stream::Stream(Parts parts) : parts_(std::move(parts)) {}

Stream::Stream(Stream&& other) noexcept
    : parts_(std::exchange(other.parts_, {})),
      call_(std::move(other.call_)),
      reading_(other.reading_),
      ended_(other.ended_),
      reply_(std::move(other.reply_)) {}

Stream::~Stream() {
  if (call_ && !is_forked()) call_->cancel();  // one that nobody reads any more
}

void Stream::open() {
  if (reading_) {
    raise(
        ErrorCode::invalid_argument,
        "this stream is being read already, by another thread, task or callback; give each reader a stream of its own");
  }
  reading_ = true;
}

void Stream::close() {
  reading_ = false;
}

Call& Stream::call() {
  if (!call_) {
    call_ = parts_.begin(parts_.owner);
    parts_.begin = nullptr;
  }
  return *call_;
}

int Stream::event_fd() {
  return checked_fd(call());
}

void Stream::cancel() {
  if (call_) {
    call_->cancel();
  } else {
    end();
  }
}

// What it referred to is let go.
void Stream::end() {
  ended_ = true;
  const Parts gone = std::exchange(parts_, {});  // whole, before anything of it can look back here
}

std::optional<std::string> Stream::handle(Call::Event event) {
  using Kind = Call::Event::Kind;
  try {
    if (event.kind == Kind::text) return std::move(event.text);
    if (event.kind == Kind::question) {
      call_->answer(in_python([&] { return parts_.answer(parts_.owner, event.text); }));
    } else if (event.kind == Kind::done) {
      const auto take = std::move(parts_.take);
      end();
      reply_ = take();
    } else if (parts_.on_prefill.is_valid() && !parts_.on_prefill.is_none()) {
      if (ends(in_python([&] { return parts_.on_prefill(event.done, event.total); }))) call_->cancel();
    }
  } catch (...) {  // what a callback raises ends the call
    call_->cancel();
    throw;
  }
  return std::nullopt;
}

std::optional<std::string> Stream::next() {
  const Reading reading(*this);
  while (!ended_) {
    const Awaits awaits(Needed::of(parts_.engine));
    if (auto text = handle(next_event(call()))) return text;
  }
  return std::nullopt;
}

nb::object Stream::poll() {
  refuse_if_forked();
  while (!ended_) {
    { const Awaits awaits(Needed::of(parts_.engine)); }  // as the loop that polls will
    std::optional<Call::Event> event = call().wait(0);
    if (!event) return nb::none();
    if (auto text = handle(std::move(*event))) return nb::cast(std::move(*text));
  }
  return nb::bool_(true);
}

nb::object Stream::drain(const nb::object& on_text) {
  while (const auto text = next()) {
    if (!on_text.is_valid() || on_text.is_none()) continue;
    try {
      if (ends(in_python([&] { return on_text(*text); }))) call_->cancel();
    } catch (...) {
      call_->cancel();
      throw;
    }
  }
  return reply();
}

nb::object Stream::reply() const {
  if (!ended_) raise(ErrorCode::invalid_argument, "the reply is not complete yet: read the stream to its end");
  if (!reply_.is_valid()) {
    raise(ErrorCode::invalid_argument,
          call_ ? "there is no reply: it ended with an error" : "there is no reply: it was closed before it was read");
  }
  return reply_;
}

int Stream::traverse(visitproc visit, void* arg) const {
  Py_VISIT(parts_.owner.ptr());
  Py_VISIT(parts_.on_prefill.ptr());
  if (parts_.processor) Py_VISIT(parts_.processor->ptr());
  return parts_.failure ? parts_.failure->traverse(visit, arg) : 0;
}

void Stream::finalize() {
  if (call_ && !is_forked()) call_->cancel();
  if (!parts_.processor) return;
  const auto processor = std::exchange(*parts_.processor, {});
}

void Stream::clear() {
  const auto owner = std::exchange(parts_.owner, {});
  const auto on_prefill = std::exchange(parts_.on_prefill, {});
  const auto raised = parts_.failure ? parts_.failure->take() : nb::object();
}

GenerateCallbacks callbacks_of(Call& call) {
  return {.on_text = [&call](std::string_view text) { return call.give(std::string(text)); },
          .on_prefill = [&call](int done, int total) { return call.progress(done, total); }};
}

void bind_stream(nb::module_& module) {
  nb::class_<Stream>(
      module, "Stream", nb::type_slots(kCollected<Stream>),
      "A reply as it comes: an iterator of new text, always whole characters, also `async for`.\n\n"
      "Leaving it (closing, or dropping the last reference) cancels the request; a `with` block closes.\n"
      "Nothing begins before it is first read, and nothing is generated further ahead of the reader than a\n"
      "few tokens. One reader at a time: InvalidArgumentError for another one.")
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
      .def("_open", &Stream::open, "Before the first _poll().")
      .def("_close", &Stream::close, "After the last.")
      .def("_event_fd", &Stream::event_fd, "Readable when _poll() may have something.");
}

}  // namespace dalsegno::python
