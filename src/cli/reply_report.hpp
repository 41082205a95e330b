#pragma once

#include <boost/json.hpp>
#include <string>

#include "dalsegno/engine.hpp"

namespace dalsegno::cli {

[[nodiscard]] boost::json::object usage_json(const Usage& usage);
[[nodiscard]] boost::json::object reuse_json(const Reuse& reuse);

// The JSON of one reply of `run` or `chat`; turns count from 1.
[[nodiscard]] boost::json::object reply_json(const Reply& reply, int turn, bool show_ids);

// "42 tokens in: 30 reused (ram), 12 prefilled, stopped: cold at 30"
[[nodiscard]] std::string reuse_words(const Usage& usage, const Reuse& reuse);

// "[42 tokens in: 30 reused (ram), 12 prefilled, stopped: cold at 30 | first token 18 ms | 25 tokens, 180 tok/s]"
[[nodiscard]] std::string reply_line(const Reply& reply);

// Says on standard error, once, if an audit found cached K/V damaged.
class DamageWarning {
 public:
  void check(Engine& engine);

 private:
  bool given_ = false;
};

}  // namespace dalsegno::cli
