//! Tokenizers, chat templates and grammars behind a C interface; see include/dalsegno_bridge.h.
//! Everything here is plain Rust except `abi` and `abi_grammar`, which own all unsafe code but one libc call.

mod abi;
mod abi_grammar;
mod byte_level;
mod choices;
mod ecma_pattern;
mod failure;
mod grammar;
mod grammar_errors;
mod grammar_gbnf;
#[cfg(test)]
mod grammar_test;
mod grammar_texts;
mod grammar_tokens;
mod pair_merges;
mod pattern_check;
mod schema_check;
mod schema_compound;
mod schema_expand;
mod schema_forms;
mod schema_ids;
mod schema_json;
mod schema_keywords;
mod schema_mended;
mod schema_numbers;
mod schema_places;
mod schema_rewrite;
mod schema_text;
mod sentence_piece;
mod specials;
mod split;
mod template;
mod token_table;
mod tool_calls;
mod tool_places;
mod tool_text;
mod vocabulary;
