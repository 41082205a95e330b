#include "dalsegno/session.hpp"

#include <set>

#include "bindings/python/stream.hpp"

namespace dalsegno::python {
namespace {

// A session takes one call at a time. One that was interrupted may still be ending, which the next one waits for.
struct PySession {
  std::shared_ptr<Engine> engine;
  std::shared_ptr<Session> session;
  nb::list tools{};  // as they were given: handlers are called by their place in it
  std::shared_ptr<Call> call{};

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(tools.ptr());
    return 0;
  }
  void clear() { const nb::list gone = std::exchange(tools, nb::borrow<nb::list>(nb::handle())); }
};

// Requires: the GIL is held until the next call has begun.
Session& idle(PySession& self) {
  refuse_if_forked();
  if (!self.session) raise(ErrorCode::invalid_argument, "the session is closed");
  while (self.call && !self.call->is_done()) {
    if (!self.call->cancelled().stop_requested()) {
      raise(ErrorCode::invalid_argument,
            "a call is under way on this session; wait for its end, read or close its stream, or fork the session");
    }
    const auto ending = self.call;
    const Awaits awaits(Needed::of(self.engine.get()));
    const Released released;
    while (!ending->is_done()) ending->wait(1000);
  }
  self.call.reset();
  return *self.session;
}

template <class T>
T run_on(PySession& self, std::function<Result<T>(Session&)> body) {
  idle(self);
  return run<T>(
      Needed::of(self.engine.get()),
      [engine = self.engine, session = self.session, body = std::move(body)](const std::stop_token&) {
        return body(*session);
      },
      &self.call);
}

PySession of(const std::shared_ptr<Engine>& engine, Session session, const nb::list& tools) {
  return {engine, shared_without_gil(std::make_shared<Session>(std::move(session))), tools};
}

std::string text_of(nb::handle dict, const char* key, const char* otherwise = "") {
  const nb::object value = dict.attr("get")(key, otherwise);
  return nb::cast<std::string>(value);
}

std::vector<Message> messages_of(const nb::object& messages) {
  std::vector<Message> all;
  const nb::object checked = nb::module_::import_("dalsegno._arguments").attr("messages")("messages", messages, true);
  for (const nb::handle message : nb::iter(checked)) {
    all.push_back({.role = nb::cast<std::string>(message["role"]),
                   .content = nb::cast<std::string>(message["content"]),
                   .name = text_of(message, "name")});
  }
  return all;
}

nb::list to_python(const std::vector<Message>& messages) {
  nb::list all;
  for (const Message& message : messages) {
    nb::dict one;
    one["role"] = message.role;
    one["content"] = message.content;
    if (!message.name.empty()) one["name"] = message.name;
    all.append(one);
  }
  return all;
}

// A tool's handler runs on the thread of the call and asks the thread that reads the call's stream: "PLACE ARGUMENTS".
// The answer begins with + (a result) or - (a failure).
Result<std::string> ask(std::size_t place, const std::string& arguments_json) {
  const auto answer = Call::current()->ask(std::to_string(place) + " " + arguments_json);
  if (!answer) return Error{ErrorCode::cancelled, "cancelled"};
  if (answer->front() == '-') return Error{ErrorCode::invalid_argument, answer->substr(1)};
  return answer->substr(1);
}

// errors: what becomes of half of a surrogate pair, by Python's name for it.
std::string encoded(const nb::object& text, const char* errors) {
  const auto bytes = nb::cast<nb::bytes>(text.attr("encode")("utf-8", errors));
  return {bytes.c_str(), bytes.size()};
}

std::string answer(const nb::list& tools, const std::string& question) {
  const std::size_t space = question.find(' ');
  const nb::object tool = tools[std::stoul(question.substr(0, space))];
  const nb::module_ json = nb::module_::import_("json");
  try {
    const nb::object arguments = json.attr("loads")(question.substr(space + 1));
    const nb::object result = tool["handler"](**nb::cast<nb::dict>(arguments));
    const nb::object text = nb::isinstance<nb::str>(result) ? result : json.attr("dumps")(result);
    return "+" + encoded(text, "strict");
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) throw;  // KeyboardInterrupt and the like end the call
    return "-" + encoded(nb::str(error.value()), "replace");
  }
}

// Dicts with name, description, parameters (a JSON schema as a dict) and handler.
std::vector<Tool> tools_of(const nb::list& tools) {
  std::vector<Tool> all;
  const nb::module_ json = nb::module_::import_("json");
  for (std::size_t i = 0; i < nb::len(tools); ++i) {
    const nb::object given = tools[i];
    Tool tool{.name = nb::cast<std::string>(given["name"]), .description = text_of(given, "description")};
    const nb::object parameters = given.attr("get")("parameters");
    if (!parameters.is_none()) tool.parameters_json = nb::cast<std::string>(json.attr("dumps")(parameters));
    if (!given.attr("get")("handler").is_none()) {
      tool.handler = [i](const std::string& arguments_json) { return ask(i, arguments_json); };
    }
    all.push_back(std::move(tool));
  }
  return all;
}

ToolCallStyle style_of(const std::string& wanted) {
  for (const auto style :
       {ToolCallStyle::automatic, ToolCallStyle::hermes, ToolCallStyle::llama3, ToolCallStyle::json}) {
    if (wanted == name(style)) return style;
  }
  throw nb::value_error(("call_style: there is no '" + wanted + "'").c_str());
}

// A list, so that a place in it stays a place in it.
nb::list list_of(const nb::object& tools) {
  return nb::cast<nb::list>(nb::module_::import_("dalsegno._arguments").attr("tools")("tools", tools));
}

struct ToolOptions {
  nb::object tools;
  std::string call_style;
  nb::object tool_choice;
  bool strict = true;
};

PySession made(const PyEngine& engine, std::string instructions, const nb::object& messages,
               const ToolOptions& of_tools, bool pin) {
  const auto& owner = engine.use();
  const nb::list given = list_of(of_tools.tools);
  const SessionOptions options{.instructions = std::move(instructions),
                               .tools = tools_of(given),
                               .call_style = style_of(of_tools.call_style),
                               .tool_choice = tool_choice_of("tool_choice", of_tools.tool_choice),
                               .strict = of_tools.strict,
                               .messages = messages_of(messages),
                               .pin = pin};
  return of(owner,
            run<Session>(Needed::of(owner.get()),
                         [owner, options](const std::stop_token&) { return Session::create(*owner, options); }),
            given);
}

PySession loaded(const PyEngine& engine, const nb::object& path, const nb::object& tools, std::string salt) {
  const auto& owner = engine.use();
  const nb::list given = list_of(tools);
  return of(owner,
            run<Session>(Needed::of(owner.get()),
                         [owner, file = path_of(path), wanted = tools_of(given), salt = std::move(salt)](
                             const std::stop_token&) { return Session::load(*owner, file, wanted, salt); }),
            given);
}

template <class T>
Stream stream_of(PySession& self, const Asked& asked, nb::object on_prefill,
                 std::function<Result<T>(Session&, const GenerateCallbacks&)> body) {
  idle(self);  // to tell at once; by the time it begins that may have changed
  Stream::Parts parts = parts_of<T>([engine = self.engine, session = self.session, body = std::move(body)](
                                        const GenerateCallbacks& callbacks) { return body(*session, callbacks); },
                                    asked, std::move(on_prefill));
  parts.owner = nb::find(self);
  parts.begin = [start = std::move(parts.begin)](nb::handle owner) {
    auto& session = nb::cast<PySession&>(owner);
    idle(session);
    return session.call = start(owner);
  };
  parts.answer = [](nb::handle owner, const std::string& question) {
    return answer(nb::cast<const PySession&>(owner).tools, question);
  };
  return Stream(std::move(parts));
}

Stream stream(PySession& self, std::string text, nb::object on_prefill, const nb::kwargs& kwargs) {
  const Asked all = asked(*self.engine, kwargs);
  return stream_of<Reply>(
      self, all, std::move(on_prefill),
      [text = std::move(text), options = all.options](Session& session, const GenerateCallbacks& callbacks) {
        return session.stream(text, options, callbacks);
      });
}

Stream reply(PySession& self, nb::object on_prefill, const nb::kwargs& kwargs) {
  const Asked all = asked(*self.engine, kwargs);
  return stream_of<Reply>(self, all, std::move(on_prefill),
                          [options = all.options](Session& session, const GenerateCallbacks& callbacks) {
                            return session.reply(options, callbacks);
                          });
}

Stream run_tools(PySession& self, std::string text, int most_rounds, nb::object on_prefill, const nb::kwargs& kwargs) {
  const Asked all = asked(*self.engine, kwargs);
  return stream_of<ToolsReply>(self, all, std::move(on_prefill),
                               [text = std::move(text), options = all.options, most_rounds](
                                   Session& session, const GenerateCallbacks& callbacks) {
                                 return session.run_tools(text, options, most_rounds, callbacks);
                               });
}

nb::object prewarm(PySession& self, nb::object on_prefill, const nb::kwargs& kwargs) {
  const Asked all = asked(*self.engine, kwargs);
  return stream_of<int>(self, all, std::move(on_prefill),
                        [options = all.options](Session& session, const GenerateCallbacks& callbacks) {
                          return session.prewarm(options, callbacks);
                        })
      .drain(nb::none());
}

std::string shown(const PySession& self) {
  if (!self.session) return "Session(closed)";
  if (self.call && !self.call->is_done()) return "Session(a call is under way)";
  return "Session(" + std::to_string(self.session->turns()) + " turns, " +
         std::to_string(self.session->transcript().size()) + " messages)";
}

PySession fork(PySession& self, bool same_draws) {
  const auto draws = same_draws ? Session::Draws::same : Session::Draws::independent;
  return of(self.engine, run_on<Session>(self, [draws](Session& session) { return session.fork(draws); }), self.tools);
}

void bind_results(nb::module_& module) {
  nb::class_<ReplyReport>(module, "ReplyReport", "What a reply of a session took. With tools a turn has several.")
      .def_ro("turn", &ReplyReport::turn, "1 for the first user message.")
      .def_ro("message", &ReplyReport::message, "The reply's place in the transcript.")
      .def_ro("usage", &ReplyReport::usage, "What it took, in tokens.")
      .def_ro("reuse", &ReplyReport::reuse, "What of the prompt was reused, and why no more.")
      .def_ro("ttft_ms", &ReplyReport::ttft_ms, "Milliseconds to the first token.")
      .def_ro("tokens_per_second", &ReplyReport::tokens_per_second, "Of the reply, after its first token.");
  nb::class_<ToolRun>(module, "ToolRun", "One call of a tool.")
      .def_prop_ro(
          "name", [](const ToolRun& self) { return self.call.name; }, "Of the tool.")
      .def_prop_ro(
          "arguments_json", [](const ToolRun& self) { return self.call.arguments_json; },
          "What the model called it with, a JSON object as text.")
      .def_ro("result", &ToolRun::result, "What the tool returned, as text, or why it failed.")
      .def_ro("failed", &ToolRun::failed, "The result says why.");
  nb::class_<ToolsReply>(module, "ToolsReply", "What run_tools came to.")
      .def_ro("reply", &ToolsReply::reply, "The last one.")
      .def_prop_ro(
          "ended", [](const ToolsReply& self) { return name(self.ended); },
          "'answered', 'rounds', 'repeated' or 'unfinished'.")
      .def_ro("rounds", &ToolsReply::rounds, "How often the model was asked.")
      .def_ro("runs", &ToolsReply::runs, "Every call of a tool, in order.");
}

#define ON_TEXT "on_text: collections.abc.Callable[[str], object] | None = None, "
#define ON_PREFILL "on_prefill: collections.abc.Callable[[int, int], object] | None = None, "
#define MESSAGES "collections.abc.Iterable[dict[str, str]]"

void bind_replies(nb::class_<PySession>& session) {
  session
      .def(
          "respond",
          [](PySession& self, std::string text, const nb::object& on_text, nb::object on_prefill,
             const nb::kwargs& options) {
            return stream(self, std::move(text), std::move(on_prefill), options).drain(on_text);
          },
          nb::arg("user_text"), nb::arg("on_text") = nb::none(), nb::arg("on_prefill") = nb::none(), nb::arg("options"),
          nb::sig("def respond(self, user_text: str, " ON_TEXT ON_PREFILL DALSEGNO_GENERATE_OPTIONS ") -> Reply"),
          "Adds a user message, generates the reply and adds it too. A cancelled reply is kept as far as it came; on "
          "an\n"
          "error the transcript is as it was. Callbacks and errors: as Engine.generate.")
      .def("stream", &stream, nb::arg("user_text"), nb::arg("on_prefill") = nb::none(), nb::arg("options"),
           nb::sig("def stream(self, user_text: str, " ON_PREFILL DALSEGNO_GENERATE_OPTIONS ") -> Stream"),
           "The same as an iterator of text, begun when it is first read. Closed early, what was read of the reply "
           "stays in the transcript.")
      .def(
          "reply",
          [](PySession& self, const nb::object& on_text, nb::object on_prefill, const nb::kwargs& options) {
            return reply(self, std::move(on_prefill), options).drain(on_text);
          },
          nb::arg("on_text") = nb::none(), nb::arg("on_prefill") = nb::none(), nb::arg("options"),
          nb::sig("def reply(self, " ON_TEXT ON_PREFILL DALSEGNO_GENERATE_OPTIONS ") -> Reply"),
          "A reply to the transcript as it stands. Errors: InvalidArgumentError (the assistant has the last word).")
      .def(
          "run_tools",
          [](PySession& self, std::string text, int most_rounds, const nb::object& on_text, nb::object on_prefill,
             const nb::kwargs& options) {
            return run_tools(self, std::move(text), most_rounds, std::move(on_prefill), options).drain(on_text);
          },
          nb::arg("user_text"), nb::arg("most_rounds") = 8, nb::arg("on_text") = nb::none(),
          nb::arg("on_prefill") = nb::none(), nb::arg("options"),
          nb::sig(
              "def run_tools(self, user_text: str, most_rounds: int = 8, " ON_TEXT ON_PREFILL DALSEGNO_GENERATE_OPTIONS
              ") -> ToolsReply"),
          "As respond(), and runs the tools that replies call until one answers. Handlers run on this thread; what "
          "they\n"
          "raise is told to the model. Once tools have been run, a tool_choice that requires calls counts as 'auto'. "
          "Errors: also InvalidArgumentError (no tools).")
      .def("prewarm", &prewarm, nb::arg("on_prefill") = nb::none(), nb::arg("options"),
           nb::sig("def prewarm(self, " ON_PREFILL DALSEGNO_GENERATE_OPTIONS ") -> int"),
           "Computes and caches what the next turn's prompt begins with, whatever the user will say. How many tokens "
           "are\n"
           "cached then.");
}

void bind_changes(nb::class_<PySession>& bound) {
  bound
      .def(
          "fork", &fork, nb::kw_only(), nb::arg("same_draws") = false,
          "A session that shares all so far, cached and said, and goes its own way; it draws from a stream of its own\n"
          "unless same_draws.")
      .def(
          "rewind",
          [](PySession& self, int turn) {
            run_on<void>(self, [turn](Session& session) { return session.rewind(turn); });
          },
          nb::arg("turn"), "Back to after the given turn; 0: before the first. Errors: InvalidArgumentError.")
      .def(
          "edit",
          [](PySession& self, int turn, const std::string& text) {
            run_on<void>(self, [turn, text](Session& session) { return session.edit(turn, text); });
          },
          nb::arg("turn"), nb::arg("user_text"),
          "Replaces the user's message of a turn and drops what followed; reply() answers.")
      .def(
          "set_transcript",
          [](PySession& self, const nb::object& messages) {
            run_on<void>(self, [all = messages_of(messages)](Session& session) { return session.set_transcript(all); });
          },
          nb::arg("messages"), nb::sig("def set_transcript(self, messages: " MESSAGES ") -> None"),
          "Replaces the transcript. What it begins with of this one, or of one of the latest others, keeps its ids.\n"
          "Errors: as edit().")
      .def(
          "trim",
          [](PySession& self, int tokens, const std::string& salt) {
            return run_on<Explanation>(self, [tokens, salt](Session& session) { return session.trim(tokens, salt); });
          },
          nb::arg("tokens"), nb::arg("salt") = "",
          "Drops the last tokens of the last prompt and its reply; messages other than replies go as a whole.")
      .def(
          "save",
          [](PySession& self, const nb::object& path) {
            run_on<void>(self, [file = path_of(path)](Session& session) { return session.save(file); });
          },
          nb::arg("path"), nb::sig("def save(self, path: str | os.PathLike[str]) -> None"),
          "One file with what was said and its K/V. Errors: IoError, ExhaustedError.")
      .def_static("load", &loaded, nb::arg("engine"), nb::arg("path"), nb::arg("tools") = nb::tuple(),
                  nb::arg("salt") = "",
                  nb::sig("def load(engine: Engine, path: str | os.PathLike[str], tools: "
                          "collections.abc.Iterable[dict[str, object]] = (), salt: str = '') -> Session"),
                  "Goes on in any process as the saved one would have, to the bit. Errors: as PromptCache.load.");
}

}  // namespace

void bind_session(nb::module_& module) {
  bind_results(module);
  nb::class_<PySession> session(
      module, "Session",
      "A conversation. Replies go into later prompts as the ids that were generated, so that\n"
      "tokenising their text again never breaks reuse. One call at a time.\n\n"
      "instructions: the system message; messages: what was said before, dicts with role and\n"
      "content; tools: dicts with name, description, parameters (a JSON schema) and handler;\n"
      "tool_choice: 'auto', 'required' (each reply is nothing but calls), 'none' or {'name': ...};\n"
      "strict: calls are well-formed and their arguments valid by the tool's parameters; one that\n"
      "cannot be enforced is refused. False: the model writes what it likes;\n"
      "pin: what is cached stays while the session exists.",
      nb::type_slots(kCollected<PySession>));
  session.def(
      "__init__",
      [](PySession* self, const PyEngine& engine, std::string instructions, const nb::object& messages,
         nb::object tools, std::string call_style, nb::object tool_choice, bool strict, bool pin) {
        const ToolOptions of_tools{std::move(tools), std::move(call_style), std::move(tool_choice), strict};
        new (self) PySession(made(engine, std::move(instructions), messages, of_tools, pin));
      },
      nb::arg("engine"), nb::arg("instructions") = "", nb::kw_only(), nb::arg("messages") = nb::tuple(),
      nb::arg("tools") = nb::tuple(), nb::arg("call_style") = "automatic", nb::arg("tool_choice") = "auto",
      nb::arg("strict") = true, nb::arg("pin") = false,
      nb::sig(
          "def __init__(self, engine: Engine, instructions: str = '', *, messages: " MESSAGES
          " = (), tools: collections.abc.Iterable[dict[str, object]] = (), call_style: str = 'automatic', "
          "tool_choice: dalsegno.constraints.ToolChoice = 'auto', strict: bool = True, pin: bool = False) -> None"));
  bind_replies(session);
  bind_changes(session);
  session
      .def_prop_ro(
          "transcript", [](PySession& self) { return to_python(idle(self).transcript()); },
          nb::sig("def transcript(self, /) -> list[dict[str, str]]"),
          "The messages so far: dicts with role, content and maybe name.")
      .def_prop_ro(
          "turns", [](PySession& self) { return idle(self).turns(); }, "How many messages of the user there are.")
      .def_prop_ro(
          "reports", [](PySession& self) { return idle(self).reports(); }, "What the replies in the transcript took.")
      .def_prop_ro(
          "pinned_tokens", [](PySession& self) { return idle(self).pinned_tokens(); },
          "With pin=True, how many tokens are kept so far whatever needs room.")
      .def_prop_ro(
          "pin_refusal", [](PySession& self) { return idle(self).pin_refusal(); },
          "A sentence where the last turn's pin was refused, and an earlier turn's stays; else empty.")
      .def_prop_rw(
          "tags",
          [](PySession& self) {
            const auto& tags = idle(self).tags();
            return std::vector<std::string>(tags.begin(), tags.end());
          },
          [](PySession& self, const nb::object& value) {
            const std::vector<std::string> tags = texts_of("tags", value, "a list of texts");
            idle(self).tags() = std::set<std::string>(tags.begin(), tags.end());
          },
          nb::for_setter(nb::sig("def tags(self, value: collections.abc.Sequence[str], /) -> None")),
          "The caller's own words for a session; assign to change them.")
      .def("__repr__", &shown)
      .def(
          "close", [](PySession& self) { self.session.reset(); }, "Lets go of what it holds.");
}

}  // namespace dalsegno::python
