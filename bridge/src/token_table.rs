//! Text -> id for a whole vocabulary, without an allocation per token.

use ahash::RandomState;
use hashbrown::HashTable;

pub struct TokenTable {
    arena: String,
    /// (start, end) in the arena by id; start = end for a token that is not in the table.
    spans: Vec<(u32, u32)>,
    table: HashTable<u32>,
    hasher: RandomState,
    pub longest: usize,
}

impl TokenTable {
    /// None leaves an id out. Of equal texts the last id wins. Requires: at most 4 GiB of text.
    pub fn new<'t>(tokens: impl ExactSizeIterator<Item = Option<&'t str>>) -> Self {
        let mut built = TokenTable {
            arena: String::new(),
            spans: Vec::with_capacity(tokens.len()),
            table: HashTable::with_capacity(tokens.len()),
            hasher: RandomState::new(),
            longest: 0,
        };
        for text in tokens {
            let start = built.arena.len() as u32;
            built.arena.push_str(text.unwrap_or(""));
            built.spans.push((start, built.arena.len() as u32));
            if text.is_some_and(|t| !t.is_empty()) {
                built.insert(built.spans.len() as u32 - 1);
            }
        }
        built
    }

    fn insert(&mut self, id: u32) {
        let (spans, arena, hasher) = (&self.spans, &self.arena, &self.hasher);
        let of = |id: u32| &arena[spans[id as usize].0 as usize..spans[id as usize].1 as usize];
        let text = of(id);
        let hash = hasher.hash_one(text);
        self.longest = self.longest.max(text.len());
        match self.table.find_mut(hash, |&other| of(other) == text) {
            Some(other) => *other = id,
            None => {
                self.table.insert_unique(hash, id, |&other| hasher.hash_one(of(other)));
            }
        }
    }

    pub fn find(&self, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |&id| self.text(id) == text).copied()
    }

    fn text(&self, id: u32) -> &str {
        let (start, end) = self.spans[id as usize];
        &self.arena[start as usize..end as usize]
    }
}
