#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/engine.hpp"
#include "dalsegno/prompt_cache.hpp"

namespace dalsegno {

struct BatchRequest {
  std::vector<TokenId> prompt;
  GenerateOptions options{};
  std::optional<std::uint64_t> uid{};  // by which responses name it; otherwise the next free one
  // Continued as far as the prompt begins with its tokens; the response's reuse says how far that was. Requires: of the
  // same engine and salt.
  PromptCache cache{};
  bool keep_cache = true;  // its end comes with its cache
};

// One token of a request, or its end.
struct BatchResponse {
  std::uint64_t uid = 0;
  std::optional<TokenId> token{};  // an end-of-turn token too; none where a request ended without one
  double logprob = 0;              // of the token, if the request asks for them
  std::string text{};              // new text, always whole UTF-8 characters
  std::optional<FinishReason> finish_reason{};
  std::optional<Error> error{};  // with finish_reason error
  Usage usage{};                 // so far
  Reuse reuse{};
  // With the end, unless that is an error, if the request keeps its cache: prompt and reply, but for the last token,
  // which has no K/V yet. Where there is no room to keep it: none, and why.
  std::optional<PromptCache> cache{};
  std::string cache_refusal{};
};

// Requests that run together, a token of each at a time. They come and go while others run; what a request yields
// depends neither on the others nor on the order in which they came. The engine works ahead of next() by at most 16
// tokens of a request, and those that a constraint then forces.
// Threads: any; next() from one at a time.
class BatchGenerator {
 public:
  // Requires: the engine outlives it.
  explicit BatchGenerator(Engine& engine);
  ~BatchGenerator();  // drops what is left
  BatchGenerator(const BatchGenerator&) = delete;
  BatchGenerator& operator=(const BatchGenerator&) = delete;

  // All of them enter the queue together, or none: the uids in the order of the requests.
  // Errors: invalid_argument (as Engine::generate, a uid that is in use, a cache of another engine or salt, or one with
  // GenerateOptions::reuse off).
  Result<std::vector<std::uint64_t>> insert(std::vector<BatchRequest> requests);
  // Waits until a request has something new and gives the next response of every one that has, by ascending uid.
  // Empty once no request is left.
  std::vector<BatchResponse> next();
  // What a request has computed so far, wherever it stands; it goes on. Of one that still waits, what is cached of its
  // prompt. Errors: not_found (it may have ended: its last response has the cache), exhausted (no room to keep it).
  Result<PromptCache> extract_cache(std::uint64_t uid);
  // Drops a request, wherever it stands; its K/V stay cached as long as there is room. Errors: not_found.
  Result<void> remove(std::uint64_t uid);
  // Both. On an error it goes on.
  Result<PromptCache> remove_with_cache(std::uint64_t uid);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
