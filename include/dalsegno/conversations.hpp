#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dalsegno/engine.hpp"
#include "dalsegno/session.hpp"

namespace dalsegno {

struct ConversationOptions {
  // affects behaviour
  std::string folder{};  // where conversations are kept as saved sessions; empty: in memory alone
  std::string salt{};    // of all of them, see GenerateOptions::salt; two stores of one folder must have the same
  // affects performance
  int most_in_memory = 8;  // those used last
  int most_on_disk = 64;
};

// Where a conversation was found.
enum class ConversationFrom : std::uint8_t { created, memory, disk };
[[nodiscard]] const char* name(ConversationFrom from);

// The conversations of an application, by its own ids. A conversation is another one where the model, what the
// arithmetic depends on, the instructions or the tools differ. They are found again after a restart, without being
// asked for.
// Threads: any; a conversation is used by one at a time.
class Conversations {
 public:
  // Requires: the engine outlives it. Errors: io (the folder cannot be made), invalid_argument (a negative number).
  static Result<std::unique_ptr<Conversations>> open(Engine& engine, ConversationOptions options = {});
  // Requires: no conversation is in use.
  ~Conversations();
  Conversations(const Conversations&) = delete;
  Conversations& operator=(const Conversations&) = delete;

  // A conversation while it is used. Move-only; destroyed, it is kept in memory alone.
  class Lease {
   public:
    Lease(Lease&&) noexcept;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    // Requires: it is not closed.
    [[nodiscard]] Session& session();
    [[nodiscard]] ConversationFrom from() const;
    // Why what is on disk was not used, if there is something: then a new conversation takes its place.
    [[nodiscard]] const std::string& refusal() const;
    // Keeps it, on disk too. Errors: as Session::save, and it is kept in memory then; invalid_argument (closed
    // already).
    Result<void> close();

   private:
    friend class Conversations;
    struct State;
    explicit Lease(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };
  // The conversation of this id, instructions and tools, or a new one with these options.
  // Errors: as Session::create, invalid_argument (it is in use already, or the id is empty).
  Result<Lease> use(const std::string& id, const SessionOptions& options = {});

  // Forgets all conversations of this id, in memory and on disk. One in use is forgotten when its use ends.
  // Errors: io.
  Result<void> invalidate(const std::string& id);

 private:
  struct Impl;
  explicit Conversations(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace dalsegno
