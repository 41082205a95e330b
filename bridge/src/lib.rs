//! Tokenizers, chat templates and grammars behind a C interface; see include/dalsegno_bridge.h.
//! Everything here is plain Rust except `abi` and `abi_grammar`, which own all unsafe code but one libc call.

mod abi;
mod abi_grammar;
mod byte_level;
mod failure;
mod grammar;
mod grammar_gbnf;
mod grammar_tokens;
mod schema_compound;
mod schema_expand;
mod schema_forms;
mod schema_ids;
mod schema_keywords;
mod schema_numbers;
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
