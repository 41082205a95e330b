#include "dalsegno/conversations.hpp"

#include "bindings/c/values.hpp"

struct dalsegno_conversations {
  std::shared_ptr<dalsegno::Engine> engine;
  std::shared_ptr<dalsegno::Conversations> conversations;  // shared with those in use
};

struct dalsegno_conversation {
  std::shared_ptr<dalsegno::Engine> engine;
  std::shared_ptr<dalsegno::Conversations> conversations;
  dalsegno::Conversations::Lease lease;
  dalsegno_session session;  // the lease's
};

namespace {

using dalsegno::Result;
using dalsegno::c::guarded;

dalsegno_conversations_options default_options() {
  const dalsegno::ConversationOptions options;
  dalsegno_conversations_options plain{};
  plain.most_in_memory = options.most_in_memory;
  plain.most_on_disk = options.most_on_disk;
  return plain;
}

}  // namespace

void dalsegno_conversations_options_init(dalsegno_conversations_options* options, std::size_t size) {
  dalsegno::c::initialise(options, size, default_options());
}

std::int32_t dalsegno_conversations_open(dalsegno_engine* engine, const dalsegno_conversations_options* options,
                                         dalsegno_conversations** out, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(engine);
    DALSEGNO_ASSIGN(all, dalsegno::c::sized(options, default_options(), "dalsegno_conversations_options"));
    DALSEGNO_ASSIGN(opened, dalsegno::Conversations::open(*engine->engine, {.folder = dalsegno::c::text_of(all.folder),
                                                                            .salt = dalsegno::c::text_of(all.salt),
                                                                            .most_in_memory = all.most_in_memory,
                                                                            .most_on_disk = all.most_on_disk}));
    *out = new dalsegno_conversations{engine->engine, std::move(opened)};
    return {};
  });
}

void dalsegno_conversations_free(dalsegno_conversations* conversations) {
  delete conversations;
}

std::int32_t dalsegno_conversations_use(dalsegno_conversations* conversations, const char* id,
                                        const dalsegno_session_options* options, dalsegno_conversation** out,
                                        dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(conversations);
    DALSEGNO_NEED(id);
    DALSEGNO_ASSIGN(all, dalsegno::c::session_options(options));
    DALSEGNO_ASSIGN(lease, conversations->conversations->use(id, all));
    auto made = std::make_unique<dalsegno_conversation>(
        dalsegno_conversation{conversations->engine, conversations->conversations, std::move(lease), {}});
    made->session.engine = made->engine;
    made->session.session = &made->lease.session();
    *out = made.release();
    return {};
  });
}

std::int32_t dalsegno_conversations_invalidate(dalsegno_conversations* conversations, const char* id,
                                               dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(conversations);
    DALSEGNO_NEED(id);
    return conversations->conversations->invalidate(id);
  });
}

dalsegno_session* dalsegno_conversation_session(dalsegno_conversation* conversation) {
  return conversation == nullptr || conversation->session.session == nullptr ? nullptr : &conversation->session;
}

std::int32_t dalsegno_conversation_from(const dalsegno_conversation* conversation) {
  return conversation == nullptr ? DALSEGNO_FROM_CREATED : static_cast<std::int32_t>(conversation->lease.from());
}

std::int32_t dalsegno_conversation_refusal(const dalsegno_conversation* conversation, dalsegno_text** out,
                                           dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_OUT(out);
    DALSEGNO_NEED(conversation);
    *out = dalsegno::c::new_text(conversation->lease.refusal());
    return {};
  });
}

std::int32_t dalsegno_conversation_close(dalsegno_conversation* conversation, dalsegno_error* error) {
  return guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(conversation);
    conversation->session.session = nullptr;
    return conversation->lease.close();
  });
}

void dalsegno_conversation_free(dalsegno_conversation* conversation) {
  delete conversation;
}
