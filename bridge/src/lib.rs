//! Tokenizers and chat templates behind a C interface; see include/dalsegno_bridge.h.
//! Everything here is plain Rust except `abi`, which owns all unsafe code but one libc call.

mod abi;
mod byte_level;
mod failure;
mod sentence_piece;
mod specials;
mod split;
mod template;
mod token_table;
mod vocabulary;
