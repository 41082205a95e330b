//! SentencePiece's BPE: neighbours merge into the token with the best score, ties to the left.

use crate::failure::Failure;
use crate::specials::{Section, Specials};
use crate::token_table::TokenTable;
use crate::vocabulary::{kind, Spec, WordCache};
use ahash::{AHashMap, AHashSet};
use std::collections::BinaryHeap;

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

pub struct SentencePiece {
    table: TokenTable,
    scores: Vec<f32>,
    /// Unused tokens take part in merging but are split again before they are given out.
    unused: AHashSet<u32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    control: Specials,
    /// Texts escaped, as they are looked for in escaped text.
    user_defined: Specials,
    space_prefix: bool,
    /// Characters that stand before a space inside some token: no cut after them.
    joins_space: AHashSet<char>,
}

impl SentencePiece {
    pub fn new(spec: &Spec) -> Result<Self, Failure> {
        let merges = |t: u8| t == kind::NORMAL || t == kind::UNUSED;
        let table = TokenTable::new(spec.tokens.iter().zip(spec.types).map(|(&text, &t)| merges(t).then_some(text)));
        let mut bytes = [None; 256];
        for (id, text) in spec.of_kind(&[kind::BYTE]) {
            let byte = byte_token(text).ok_or_else(|| {
                Failure::corrupt(format!("token {id} (\"{text}\") is a byte token but not <0x00> to <0xFF>"))
            })?;
            bytes[usize::from(byte)] = Some(id);
        }
        let mut joins_space = AHashSet::new();
        for (_, text) in spec.of_kind(&[kind::NORMAL, kind::UNUSED]) {
            joins_space.extend(text.match_indices(SPACE).filter_map(|(at, _)| text[..at].chars().next_back()));
        }
        Ok(SentencePiece {
            table,
            scores: spec.scores.to_vec(),
            unused: spec.of_kind(&[kind::UNUSED]).map(|(id, _)| id).collect(),
            bytes,
            unknown: spec.unknown,
            control: Specials::new(spec.of_kind(&[kind::UNKNOWN, kind::CONTROL]))?,
            user_defined: Specials::new(
                spec.of_kind(&[kind::USER_DEFINED]).map(|(id, text)| (id, escape(text, false))),
            )?,
            space_prefix: spec.add_space_prefix.unwrap_or(true),
            joins_space,
        })
    }

    pub fn encode(&self, text: &str, special: bool, ids: &mut Vec<u32>) {
        if !special {
            return self.section(text, self.space_prefix, ids);
        }
        self.control.cut(text, &mut |section| match section {
            Section::Token(id) => ids.push(id),
            Section::Text(text) => self.section(text, self.space_prefix, ids),
        });
    }

    /// Of a text that goes on: no space is put before it.
    pub fn encode_rest(&self, text: &str, ids: &mut Vec<u32>) {
        self.section(text, false, ids);
    }

    fn section(&self, text: &str, space_prefix: bool, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let escaped = escape(text, space_prefix);
        let mut merger = Merger::new(self);
        let mut cache = WordCache::default();
        self.user_defined.cut(&escaped, &mut |section| match section {
            Section::Token(id) => ids.push(id),
            Section::Text(text) => {
                let start = ids.len();
                self.words(text, &mut |word| cache.encode(word, ids, |ids| merger.encode(word, ids)));
                self.fuse_unknown(ids, start);
            }
        });
    }

    /// Cuts before every space no token reaches across.
    fn words<'t>(&self, text: &'t str, word: &mut impl FnMut(&'t str)) {
        let mut start = 0;
        for (at, _) in text.match_indices(SPACE) {
            let before = text[..at].chars().next_back();
            if at > start && before.is_some_and(|c| !self.joins_space.contains(&c)) {
                word(&text[start..at]);
                start = at;
            }
        }
        word(&text[start..]);
    }

    /// SentencePiece gives one unknown token for a run of unknown characters.
    fn fuse_unknown(&self, ids: &mut Vec<u32>, start: usize) {
        let Some(unknown) = self.unknown else { return };
        let mut kept = start;
        for at in start..ids.len() {
            if at == start || ids[at] != unknown || ids[kept - 1] != unknown {
                ids[kept] = ids[at];
                kept += 1;
            }
        }
        ids.truncate(kept);
    }

    fn spell(&self, text: &str, ids: &mut Vec<u32>) {
        ids.extend(text.bytes().filter_map(|b| self.bytes[usize::from(b)].or(self.unknown)));
    }
}

fn escape(text: &str, prefix: bool) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2 + SPACE.len_utf8());
    if prefix {
        out.push(SPACE);
    }
    for (i, part) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(SPACE);
        }
        out.push_str(part);
    }
    out
}

fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok())?
}

const NONE: u32 = u32::MAX;

/// A stretch of the word; merged away when len is 0.
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
    token: u32,
}

/// Ordered by score, then leftmost; `len` tells whether either side has changed since.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    not_left: u32,
    len: u32,
    token: u32,
}

/// The merge loop with its scratch memory, reused from word to word.
struct Merger<'v> {
    vocabulary: &'v SentencePiece,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
    /// Unused token -> length of its left part when it was last a candidate.
    parts: AHashMap<u32, u32>,
}

impl<'v> Merger<'v> {
    fn new(vocabulary: &'v SentencePiece) -> Self {
        Merger { vocabulary, symbols: Vec::new(), queue: BinaryHeap::new(), parts: AHashMap::new() }
    }

    fn encode(&mut self, word: &str, ids: &mut Vec<u32>) {
        self.symbols.clear();
        self.parts.clear();
        for (at, c) in word.char_indices() {
            let i = self.symbols.len() as u32;
            let prev = if i == 0 { NONE } else { i - 1 };
            self.symbols.push(Symbol { start: at as u32, len: c.len_utf8() as u32, prev, next: i + 1, token: NONE });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for left in 0..self.symbols.len() as u32 {
            self.consider(word, left);
        }
        while let Some(best) = self.queue.pop() {
            self.merge(word, &best);
        }
        for symbol in &self.symbols {
            if symbol.len > 0 {
                let (start, end) = (symbol.start as usize, (symbol.start + symbol.len) as usize);
                self.emit(&word[start..end], symbol.token, ids);
            }
        }
    }

    /// Queues `left` and its neighbour if together they are a token.
    fn consider(&mut self, word: &str, left: u32) {
        if left == NONE || self.symbols[left as usize].next == NONE {
            return;
        }
        let first = &self.symbols[left as usize];
        let len = first.len + self.symbols[first.next as usize].len;
        let table = &self.vocabulary.table;
        if len as usize > table.longest {
            return;
        }
        let Some(token) = table.find(&word[first.start as usize..(first.start + len) as usize]) else { return };
        if self.vocabulary.unused.contains(&token) {
            self.parts.insert(token, first.len);
        }
        let rank = rank(self.vocabulary.scores[token as usize]);
        self.queue.push(Candidate { rank, not_left: !left, len, token });
    }

    fn merge(&mut self, word: &str, best: &Candidate) {
        let left = !best.not_left;
        let Symbol { len, next: right, prev, .. } = self.symbols[left as usize];
        if len == 0 || right == NONE || len + self.symbols[right as usize].len != best.len {
            return;
        }
        let after = self.symbols[right as usize].next;
        self.symbols[right as usize].len = 0;
        if after != NONE {
            self.symbols[after as usize].prev = left;
        }
        let merged = &mut self.symbols[left as usize];
        (merged.len, merged.next, merged.token) = (best.len, after, best.token);
        self.consider(word, prev);
        self.consider(word, left);
    }

    fn emit(&self, text: &str, token: u32, ids: &mut Vec<u32>) {
        let vocabulary = self.vocabulary;
        let token = if token == NONE { vocabulary.table.find(text) } else { Some(token) };
        match token {
            None => vocabulary.spell(text, ids),
            Some(token) => match self.parts.get(&token) {
                None => ids.push(token),
                Some(&left) => {
                    let (left, right) = text.split_at(left as usize);
                    self.emit(left, NONE, ids);
                    self.emit(right, NONE, ids);
                }
            },
        }
    }
}

/// Orders as the scores do; both zeros are equal. Requires: not NaN.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_as_scores_do() {
        let scores = [f32::NEG_INFINITY, -3.5, -0.5, 0.0, 0.25, f32::INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn byte_tokens_are_exactly_two_hex_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        for bad in ["<0xA>", "<0x00A>", "<0x+A>", "0x0A"] {
            assert_eq!(byte_token(bad), None);
        }
    }
}
