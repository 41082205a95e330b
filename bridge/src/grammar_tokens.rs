//! A vocabulary as llguidance sees it: a trie of the tokens' bytes, and how forced text is written in tokens.

use crate::vocabulary::Vocabulary;
use std::sync::Arc;
use toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

/// A node of the trie counts its ancestors in 10 bits. Longer tokens are never allowed.
const LONGEST_TOKEN: usize = 512;

pub struct GrammarTokens {
    trie: TokTrie,
    vocabulary: Arc<Vocabulary>,
}

impl GrammarTokens {
    /// bytes: by id, of a control token its name. Requires: as many `special`; `ends` not empty, all of them ids.
    pub fn new(vocabulary: Arc<Vocabulary>, bytes: &[&[u8]], special: &[bool], ends: &[TokenId]) -> Self {
        let words: Vec<Vec<u8>> = bytes.iter().zip(special).map(|(bytes, &special)| word(bytes, special)).collect();
        let info = TokRxInfo::new(words.len() as u32, ends[0]);
        GrammarTokens { trie: TokTrie::from(&info, &words).with_eos_tokens(ends), vocabulary }
    }

    fn encode(&self, text: &str) -> Vec<TokenId> {
        let ids = self.vocabulary.encode_rest(text);
        // Unknown characters and missing bytes would be lost.
        if self.trie.decode_raw(&ids) == text.as_bytes() {
            return ids;
        }
        self.trie.greedy_tokenize(text.as_bytes())
    }
}

/// Control tokens are reached by their name alone, never by the bytes of a text.
fn word(bytes: &[u8], special: bool) -> Vec<u8> {
    if bytes.is_empty() || bytes.len() > LONGEST_TOKEN {
        return Vec::new();
    }
    let mut word = Vec::with_capacity(bytes.len() + usize::from(special));
    if special {
        word.push(TokTrie::SPECIAL_TOKEN_MARKER);
    }
    word.extend_from_slice(bytes);
    word
}

impl TokenizerEnv for GrammarTokens {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.encode(text))
    }
}
