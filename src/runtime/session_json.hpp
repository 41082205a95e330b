#pragma once

#include <string>

#include "runtime/session_impl.hpp"

namespace dalsegno {

// What a saved session holds beside its K/V, as JSON (docs/saved_caches.md). Floats are written as their bits.
std::string session_to_json(const Session::Impl::State& state, std::uint64_t forks);

struct SessionFromJson {
  Session::Impl::State state;  // its tools without handlers
  std::uint64_t forks = 0;
};
// Errors: corrupt (the sentence has no file's name).
Result<SessionFromJson> session_from_json(const std::string& text, int vocabulary);

}  // namespace dalsegno
