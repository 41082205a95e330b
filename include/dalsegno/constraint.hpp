#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dalsegno {

// What a reply's text must look like. Tokens that would break it cannot be drawn.
struct Constraint {
  enum class Kind : std::uint8_t {
    json_schema,  // draft 2020-12 or what "$schema" says; a keyword that cannot be enforced is refused
    regex,        // matches the whole reply; Rust's syntax, without look-around and back-references
    lark,         // a context-free grammar in Lark's syntax, from the rule `start` on, or in GBNF, from `root` on
    choices,      // one of some texts
    tool_calls,   // the calls in a text, as tool_calls() in tools.hpp defines them; other text is free
  };
  Kind kind = Kind::json_schema;
  std::string text{};                  // of all kinds but choices
  std::vector<std::string> choices{};  // of kind choices
  // How many tokens at the prompt's end are text of the grammar already, in a fork of a reply or in one that was cut
  // off. They must be what the grammar allows.
  int continues = 0;

  static Constraint json_schema(std::string schema) { return {Kind::json_schema, std::move(schema)}; }
  static Constraint regex(std::string pattern) { return {Kind::regex, std::move(pattern)}; }
  static Constraint lark(std::string grammar) { return {Kind::lark, std::move(grammar)}; }
  static Constraint one_of(std::vector<std::string> texts) { return {Kind::choices, {}, std::move(texts)}; }
};

// Which tools a reply calls, where calls are enforced.
struct ToolChoice {
  enum class Kind : std::uint8_t {
    automatic,  // it may answer, or call; a call that is begun is well-formed
    required,   // it is nothing but calls, at least one
    none,       // no call can be written
    named,      // as required, all of the tool `name`
  };
  Kind kind = Kind::automatic;
  std::string name{};

  static ToolChoice required() { return {Kind::required}; }
  static ToolChoice none() { return {Kind::none}; }
  static ToolChoice named(std::string tool) { return {Kind::named, std::move(tool)}; }
  bool operator==(const ToolChoice&) const = default;
};

}  // namespace dalsegno
