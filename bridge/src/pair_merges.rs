//! Byte-level BPE's merge loop: of all neighbours that a merge joins, the one of the least rank, ties to the left.
//! Our own, because building the crate `tokenizers`' tables, strings for each token and merge, took a quarter of the
//! time in which a small model is loaded; a test below compares the two.

use crate::failure::Failure;
use crate::token_table::TokenTable;
use ahash::AHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    token: u32,
}

pub struct PairMerges {
    tokens: TokenTable,
    /// The token of each byte's stand-in. A byte without one is left out, as the crate does.
    bytes: [Option<u32>; 256],
    merges: AHashMap<(u32, u32), Merge>,
    /// Words that are tokens are not taken apart.
    whole_words: bool,
    stand_in: [char; 256],
}

impl PairMerges {
    /// merges: two tokens around a space each, the most urgent first.
    pub fn new(tokens: TokenTable, merges: &[&str], whole_words: bool) -> Result<Self, Failure> {
        let mut built = PairMerges {
            tokens,
            bytes: [None; 256],
            merges: AHashMap::with_capacity(merges.len()),
            whole_words,
            stand_in: stand_ins(),
        };
        let mut joined = String::new();
        for byte in 0..256 {
            built.bytes[byte] = built.tokens.find(built.stand_in[byte].encode_utf8(&mut [0; 4]));
        }
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = two_parts(rank, merge)?;
            joined.clear();
            joined.extend([left, right]);
            let id = |text: &str| built.tokens.find(text).ok_or_else(|| not_a_token(rank, merge, text));
            let (pair, token) = ((id(left)?, id(right)?), id(&joined)?);
            built.merges.insert(pair, Merge { rank: rank as u32, token });
        }
        Ok(built)
    }

    pub fn merger(&self) -> Merger<'_> {
        Merger { of: self, symbols: Vec::new(), queue: BinaryHeap::new(), text: String::new() }
    }
}

fn two_parts<'t>(rank: usize, merge: &'t str) -> Result<(&'t str, &'t str), Failure> {
    match merge.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => Ok((a, b)),
        _ => Err(Failure::corrupt(format!(
            "merge {rank} (\"{merge}\", tokenizer.ggml.merges) is not two parts around one space"
        ))),
    }
}

fn not_a_token(rank: usize, merge: &str, text: &str) -> Failure {
    Failure::corrupt(format!(
        "the merges (tokenizer.ggml.merges) do not fit the tokens: merge {rank} (\"{merge}\") needs \"{text}\", which is none"
    ))
}

/// Printable Latin-1 stands for itself; the other bytes, in order, are U+0100 and up.
fn stand_ins() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let own = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if own { byte as u32 } else { next };
        next += u32::from(!own);
        char::from_u32(code).expect("below the surrogates")
    })
}

/// A part of the word; merged away when token is NONE.
struct Symbol {
    token: u32,
    prev: u32,
    next: u32,
}

/// Ordered by rank, then leftmost; `token` is what the merge gives, and tells whether either side has changed since.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    token: u32,
}

/// Its memory is used again from word to word.
pub struct Merger<'v> {
    of: &'v PairMerges,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
    text: String,
}

impl Merger<'_> {
    pub fn encode(&mut self, word: &str, ids: &mut Vec<u32>) {
        if self.of.whole_words {
            self.text.clear();
            self.text.extend(word.bytes().map(|b| self.of.stand_in[usize::from(b)]));
            if let Some(token) = self.of.tokens.find(&self.text) {
                return ids.push(token);
            }
        }
        self.symbols.clear();
        for token in word.bytes().filter_map(|b| self.of.bytes[usize::from(b)]) {
            let at = self.symbols.len() as u32;
            self.symbols.push(Symbol { token, prev: at.wrapping_sub(1), next: at + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for left in 0..self.symbols.len() as u32 {
            self.consider(left);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            self.merge(&best);
        }
        ids.extend(self.symbols.iter().map(|symbol| symbol.token).filter(|&token| token != NONE));
    }

    fn merge_at(&self, left: u32) -> Option<Merge> {
        let Symbol { token, next, .. } = self.symbols[left as usize];
        if token == NONE || next == NONE {
            return None;
        }
        self.of.merges.get(&(token, self.symbols[next as usize].token)).copied()
    }

    /// Queues `left` and its neighbour if a merge joins them.
    fn consider(&mut self, left: u32) {
        if let Some(Merge { rank, token }) = self.merge_at(left) {
            self.queue.push(Reverse(Candidate { rank, left, token }));
        }
    }

    fn merge(&mut self, best: &Candidate) {
        if self.merge_at(best.left).is_none_or(|merge| merge.token != best.token) {
            return;
        }
        let Symbol { next: right, prev, .. } = self.symbols[best.left as usize];
        let after = self.symbols[right as usize].next;
        self.symbols[right as usize].token = NONE;
        if after != NONE {
            self.symbols[after as usize].prev = best.left;
        }
        let merged = &mut self.symbols[best.left as usize];
        (merged.token, merged.next) = (best.token, after);
        if prev != NONE {
            self.consider(prev);
        }
        self.consider(best.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::BPE;
    use tokenizers::Model;

    /// A small generator of numbers: the same at every run.
    struct Draws(u64);
    impl Draws {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % end
        }
    }

    /// Bytes a to f, some of them missing, and random merges of tokens that are there; some tokens come twice, some
    /// merges too.
    fn random_vocabulary(draws: &mut Draws) -> (Vec<String>, Vec<String>) {
        let mut tokens: Vec<String> = "abcdef".chars().filter(|_| draws.below(8) > 0).map(String::from).collect();
        tokens.push("g".to_owned());
        let mut merges = Vec::new();
        for _ in 0..draws.below(60) {
            let (a, b) = (tokens[draws.below(tokens.len())].clone(), tokens[draws.below(tokens.len())].clone());
            if a.len() + b.len() <= 12 {
                merges.push(format!("{a} {b}"));
                if draws.below(4) == 0 || !tokens.contains(&format!("{a}{b}")) {
                    tokens.push(a + &b);
                }
            }
        }
        (tokens, merges)
    }

    #[test]
    fn gives_the_ids_of_the_crate() {
        let mut draws = Draws(7);
        for round in 0..3000 {
            let (tokens, merges) = random_vocabulary(&mut draws);
            let whole_words = round % 2 == 1;
            let pairs = merges.iter().map(|m| m.split_once(' ').expect("two parts"));
            let reference = BPE::builder()
                .vocab_and_merges(
                    tokens.iter().enumerate().map(|(id, t)| (t.clone(), id as u32)).collect::<AHashMap<_, _>>(),
                    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
                )
                .cache_capacity(0)
                .ignore_merges(whole_words)
                .build()
                .expect("merges fit");
            let table = TokenTable::new(tokens.iter().map(|t| Some(t.as_str())));
            let texts: Vec<&str> = merges.iter().map(String::as_str).collect();
            let ours = PairMerges::new(table, &texts, whole_words).map_err(|_| ()).expect("merges fit");
            let mut merger = ours.merger();
            for _ in 0..40 {
                let length = if draws.below(10) == 0 { 200 } else { 1 + draws.below(14) };
                let letters = 1 + draws.below(7);
                let word: String = (0..length).map(|_| char::from(b"abcdefg"[draws.below(letters)])).collect();
                let mut ids = Vec::new();
                merger.encode(&word, &mut ids);
                let expected: Vec<u32> =
                    reference.tokenize(&word).expect("tokenizes").iter().map(|token| token.id).collect();
                assert_eq!(ids, expected, "{word:?} of {tokens:?} by {merges:?}");
            }
        }
    }
}
