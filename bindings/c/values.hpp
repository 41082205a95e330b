#pragma once

// The values of dalsegno.h from and to those of the C++ interface.

#include <span>
#include <string>
#include <vector>

#include "bindings/c/handles.hpp"

namespace dalsegno::c {

Result<EngineOptions> engine_options(const dalsegno_engine_options* options);
Result<SessionOptions> session_options(const dalsegno_session_options* options);
Result<std::vector<Tool>> tools_of(const dalsegno_tool* tools, std::size_t count);
Result<std::vector<Message>> messages_of(const dalsegno_message* messages, std::size_t count);

// How a reply is made, and who hears of it.
struct Asked {
  GenerateOptions options{};
  GenerateCallbacks callbacks{};
};
Result<Asked> asked(const dalsegno_generate_options* options);
// The other way, with pointers into the given options and `strings`.
dalsegno_generate_options plain_options(const GenerateOptions& options, std::vector<const char*>& strings,
                                        std::vector<dalsegno_bias>& bias);

dalsegno_kv plain(const KvOptions& kv);
dalsegno_usage plain(const Usage& usage);
dalsegno_reuse plain(const Reuse& reuse);
dalsegno_explanation plain(const Explanation& explanation);

// Each for the matching _free.
dalsegno_text* new_text(std::string text);
dalsegno_tokens* new_tokens(std::vector<TokenId> ids);
dalsegno_reply* new_reply(Reply reply);

// A result struct that owns what it points to.
template <class Plain, class Owned>
struct Holding : Plain {
  Owned owned;
};

}  // namespace dalsegno::c

struct dalsegno_session {
  std::shared_ptr<dalsegno::Engine> engine{};
  std::optional<dalsegno::Session> own{};
  dalsegno::Session* session = nullptr;  // `own`, or a conversation's
  // What last_options() pointed to.
  dalsegno::GenerateOptions last{};
  std::vector<const char*> last_strings{};
  std::vector<dalsegno_bias> last_bias{};
};

namespace dalsegno::c {

dalsegno_session* new_session(std::shared_ptr<Engine> engine, Session session);

}  // namespace dalsegno::c
