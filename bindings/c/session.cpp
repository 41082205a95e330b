#include "dalsegno/session.hpp"

#include "bindings/c/values.hpp"

struct dalsegno_tool_result {
  std::string text{};
};

namespace dalsegno::c {

Result<std::vector<Tool>> tools_of(const dalsegno_tool* tools, std::size_t count) {
  DALSEGNO_ASSIGN(array, array_of(tools, count, "tools"));
  std::vector<Tool> all;
  for (const dalsegno_tool& tool : array) {
    DALSEGNO_NEED(tool.name);
    Tool one{.name = tool.name, .description = text_of(tool.description)};
    if (tool.parameters_json != nullptr) one.parameters_json = tool.parameters_json;
    if (const auto handler = tool.handler) {
      one.handler = [handler, user = tool.user](const std::string& arguments) -> Result<std::string> {
        dalsegno_tool_result answer;
        if (handler(user, arguments.c_str(), &answer) == 0) return std::move(answer.text);
        return Error{ErrorCode::invalid_argument, answer.text.empty() ? "the tool failed" : std::move(answer.text)};
      };
    }
    all.push_back(std::move(one));
  }
  return all;
}

dalsegno_session* new_session(std::shared_ptr<Engine> engine, Session session) {
  auto made = std::make_unique<dalsegno_session>();
  made->engine = std::move(engine);
  made->own.emplace(std::move(session));
  made->session = &*made->own;
  return made.release();
}

namespace {

using HeldMessages = Holding<dalsegno_messages, std::pair<std::vector<Message>, std::vector<dalsegno_message>>>;
using HeldTexts = Holding<dalsegno_texts, std::pair<std::vector<std::string>, std::vector<const char*>>>;

struct OwnedRuns {
  std::unique_ptr<dalsegno_reply, decltype(&dalsegno_reply_free)> reply{nullptr, dalsegno_reply_free};
  std::vector<ToolRun> runs{};
  std::vector<dalsegno_tool_run> plain{};
};
using HeldToolsReply = Holding<dalsegno_tools_reply, OwnedRuns>;

dalsegno_tools_reply* new_tools_reply(ToolsReply reply) {
  auto held = std::make_unique<HeldToolsReply>();
  held->owned.reply.reset(new_reply(std::move(reply.reply)));
  held->owned.runs = std::move(reply.runs);
  for (const ToolRun& run : held->owned.runs) {
    held->owned.plain.push_back(
        {run.call.name.c_str(), run.call.arguments_json.c_str(), run.result.c_str(), run.failed ? 1 : 0});
  }
  held->reply = held->owned.reply.get();
  held->ended = static_cast<std::int32_t>(reply.ended);
  held->rounds = reply.rounds;
  held->runs = held->owned.plain.data();
  held->run_count = held->owned.plain.size();
  return held.release();
}

// What respond() and reply() have in common.
template <class Run>
Status replied(dalsegno_session* session, const dalsegno_generate_options* options, dalsegno_reply** out,
               dalsegno_error* error, Run&& run) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    DALSEGNO_ASSIGN(all, asked(options));
    DALSEGNO_ASSIGN(reply, run(*session->session, all));
    *out = new_reply(std::move(reply));
    return {};
  });
}

}  // namespace
}  // namespace dalsegno::c

using dalsegno::Result;
using dalsegno::Session;
using dalsegno::c::guarded;
using dalsegno::c::text_of;

std::int32_t dalsegno_tool_answer(dalsegno_tool_result* result, const char* text, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(result);
    DALSEGNO_NEED(text);
    result->text = text;
    return {};
  });
}

std::int32_t dalsegno_session_create(dalsegno_engine* engine, const dalsegno_session_options* options,
                                     dalsegno_session** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(all, dalsegno::c::session_options(options));
    DALSEGNO_ASSIGN(session, Session::create(*engine->engine, std::move(all)));
    *out = dalsegno::c::new_session(engine->engine, std::move(session));
    return {};
  });
}

void dalsegno_session_free(dalsegno_session* session) {
  if (session != nullptr && session->own.has_value()) delete session;
}

std::int32_t dalsegno_session_respond(dalsegno_session* session, const char* user_text,
                                      const dalsegno_generate_options* options, dalsegno_reply** out,
                                      dalsegno_error* error) {
  return dalsegno::c::replied(session, options, out, error,
                              [&](Session& on, const dalsegno::c::Asked& all) -> Result<dalsegno::Reply> {
                                DALSEGNO_NEED(user_text);
                                return on.stream(user_text, all.options, all.callbacks);
                              });
}

std::int32_t dalsegno_session_reply(dalsegno_session* session, const dalsegno_generate_options* options,
                                    dalsegno_reply** out, dalsegno_error* error) {
  return dalsegno::c::replied(session, options, out, error, [](Session& on, const dalsegno::c::Asked& all) {
    return on.reply(all.options, all.callbacks);
  });
}

std::int32_t dalsegno_session_run_tools(dalsegno_session* session, const char* user_text,
                                        const dalsegno_generate_options* options, std::int32_t most_rounds,
                                        dalsegno_tools_reply** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    DALSEGNO_NEED(user_text);
    DALSEGNO_ASSIGN(all, dalsegno::c::asked(options));
    DALSEGNO_ASSIGN(reply, session->session->run_tools(user_text, all.options, most_rounds, all.callbacks));
    *out = dalsegno::c::new_tools_reply(std::move(reply));
    return {};
  });
}

void dalsegno_tools_reply_free(dalsegno_tools_reply* reply) {
  delete static_cast<dalsegno::c::HeldToolsReply*>(reply);
}

std::int32_t dalsegno_session_prewarm(dalsegno_session* session, const dalsegno_generate_options* options,
                                      std::int32_t* cached, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    if (cached != nullptr) *cached = 0;
    DALSEGNO_NEED(session);
    DALSEGNO_ASSIGN(all, dalsegno::c::asked(options));
    DALSEGNO_ASSIGN(tokens, session->session->prewarm(all.options, all.callbacks));
    if (cached != nullptr) *cached = tokens;
    return {};
  });
}

std::int32_t dalsegno_session_fork(dalsegno_session* session, std::int32_t draws, dalsegno_session** out,
                                   dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    if (draws != DALSEGNO_DRAWS_INDEPENDENT && draws != DALSEGNO_DRAWS_SAME) {
      return dalsegno::Error{dalsegno::ErrorCode::invalid_argument, "draws is not one of the constants"};
    }
    DALSEGNO_ASSIGN(fork, session->session->fork(draws == DALSEGNO_DRAWS_SAME ? Session::Draws::same
                                                                              : Session::Draws::independent));
    *out = dalsegno::c::new_session(session->engine, std::move(fork));
    return {};
  });
}

std::int32_t dalsegno_session_rewind(dalsegno_session* session, std::int32_t turn, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    return session->session->rewind(turn);
  });
}

std::int32_t dalsegno_session_edit(dalsegno_session* session, std::int32_t turn, const char* user_text,
                                   dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    DALSEGNO_NEED(user_text);
    return session->session->edit(turn, user_text);
  });
}

std::int32_t dalsegno_session_set_transcript(dalsegno_session* session, const dalsegno_message* messages,
                                             std::size_t count, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    DALSEGNO_ASSIGN(all, dalsegno::c::messages_of(messages, count));
    return session->session->set_transcript(std::move(all));
  });
}

std::int32_t dalsegno_session_trim(dalsegno_session* session, std::int32_t tokens, const char* salt,
                                   dalsegno_explanation* out, std::size_t out_size, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    if (out != nullptr) dalsegno::c::write_report(out, out_size, dalsegno_explanation{});
    DALSEGNO_NEED(session);
    DALSEGNO_ASSIGN(left, session->session->trim(tokens, text_of(salt)));
    if (out != nullptr) dalsegno::c::write_report(out, out_size, dalsegno::c::plain(left));
    return {};
  });
}

std::int32_t dalsegno_session_save(dalsegno_session* session, const char* path, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    DALSEGNO_NEED(path);
    return session->session->save(path);
  });
}

std::int32_t dalsegno_session_load(dalsegno_engine* engine, const char* path, const dalsegno_tool* tools,
                                   std::size_t tool_count, const char* salt, dalsegno_session** out,
                                   dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_NEED(path);
    DALSEGNO_ASSIGN(all, dalsegno::c::tools_of(tools, tool_count));
    DALSEGNO_ASSIGN(session, Session::load(*engine->engine, path, all, text_of(salt)));
    *out = dalsegno::c::new_session(engine->engine, std::move(session));
    return {};
  });
}

std::int32_t dalsegno_session_turns(const dalsegno_session* session) {
  return session == nullptr ? 0 : session->session->turns();
}

std::int32_t dalsegno_session_transcript(const dalsegno_session* session, dalsegno_messages** out,
                                         dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    auto held = std::make_unique<dalsegno::c::HeldMessages>();
    auto& [messages, plain] = held->owned;
    messages = session->session->transcript();
    for (const dalsegno::Message& message : messages) {
      plain.push_back({message.role.c_str(), message.content.c_str(), message.name.c_str()});
    }
    held->items = plain.data();
    held->count = plain.size();
    *out = held.release();
    return {};
  });
}

void dalsegno_messages_free(dalsegno_messages* messages) {
  delete static_cast<dalsegno::c::HeldMessages*>(messages);
}

std::int32_t dalsegno_session_last_options(dalsegno_session* session, dalsegno_generate_options* out,
                                           std::size_t out_size, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    dalsegno_generate_options_init(out, out_size);
    DALSEGNO_NEED(session);
    session->last = session->session->last_options();
    dalsegno::c::initialise(out, out_size,
                            dalsegno::c::plain_options(session->last, session->last_strings, session->last_bias));
    return {};
  });
}

std::size_t dalsegno_session_report_count(const dalsegno_session* session) {
  return session == nullptr ? 0 : session->session->reports().size();
}

std::int32_t dalsegno_session_report(const dalsegno_session* session, std::size_t index, dalsegno_reply_report* out,
                                     std::size_t out_size, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(out);
    dalsegno::c::write_report(out, out_size, dalsegno_reply_report{});
    DALSEGNO_NEED(session);
    const auto& reports = session->session->reports();
    if (index >= reports.size()) {
      return dalsegno::Error{dalsegno::ErrorCode::invalid_argument,
                             "there is no report " + std::to_string(index) + " of " + std::to_string(reports.size())};
    }
    const dalsegno::ReplyReport& report = reports[index];
    dalsegno::c::write_report(
        out, out_size,
        dalsegno_reply_report{report.turn, static_cast<std::int32_t>(report.message), dalsegno::c::plain(report.usage),
                              dalsegno::c::plain(report.reuse), report.ttft_ms, report.tokens_per_second,
                              report.usage.proposed_tokens, report.usage.accepted_tokens});
    return {};
  });
}

std::int32_t dalsegno_session_pinned_tokens(const dalsegno_session* session) {
  return session == nullptr ? 0 : session->session->pinned_tokens();
}

std::int32_t dalsegno_session_pin_refusal(const dalsegno_session* session, dalsegno_text** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    *out = dalsegno::c::new_text(session->session->pin_refusal());
    return {};
  });
}

std::int32_t dalsegno_session_add_tag(dalsegno_session* session, const char* tag, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    DALSEGNO_NEED(tag);
    session->session->tags().insert(tag);
    return {};
  });
}

std::int32_t dalsegno_session_remove_tag(dalsegno_session* session, const char* tag, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(session);
    DALSEGNO_NEED(tag);
    session->session->tags().erase(tag);
    return {};
  });
}

std::int32_t dalsegno_session_tags(const dalsegno_session* session, dalsegno_texts** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(session);
    auto held = std::make_unique<dalsegno::c::HeldTexts>();
    auto& [tags, plain] = held->owned;
    const Session& on = *session->session;
    tags.assign(on.tags().begin(), on.tags().end());
    for (const std::string& tag : tags) plain.push_back(tag.c_str());
    held->items = plain.data();
    held->count = plain.size();
    *out = held.release();
    return {};
  });
}

void dalsegno_texts_free(dalsegno_texts* texts) {
  delete static_cast<dalsegno::c::HeldTexts*>(texts);
}
