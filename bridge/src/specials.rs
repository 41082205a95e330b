//! Tokens that are found in text as they are, before any merging: control and user-defined ones.

use crate::failure::{Code, Failure};
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};

/// Finds the leftmost, then longest, token of a set.
pub struct Specials {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

pub enum Section<'t> {
    Text(&'t str),
    Token(u32),
}

impl Specials {
    /// An empty text is never found.
    pub fn new<T: AsRef<str>>(tokens: impl Iterator<Item = (u32, T)>) -> Result<Self, Failure> {
        let (ids, texts): (Vec<u32>, Vec<T>) = tokens.filter(|(_, text)| !text.as_ref().is_empty()).unzip();
        if ids.is_empty() {
            return Ok(Specials { automaton: None, ids });
        }
        let automaton = AhoCorasickBuilder::new()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts.iter().map(AsRef::as_ref))
            .map_err(|e| {
                Failure::new(Code::Unsupported, format!("the vocabulary's special tokens are too many: {e}"))
            })?;
        Ok(Specials { automaton: Some(automaton), ids })
    }

    /// Calls `each` for the tokens found and the non-empty texts between them, in order.
    pub fn cut<'t>(&self, text: &'t str, each: &mut impl FnMut(Section<'t>)) {
        let mut at = 0;
        if let Some(automaton) = &self.automaton {
            for found in automaton.find_iter(text) {
                if found.start() > at {
                    each(Section::Text(&text[at..found.start()]));
                }
                each(Section::Token(self.ids[found.pattern().as_usize()]));
                at = found.end();
            }
        }
        if at < text.len() {
            each(Section::Text(&text[at..]));
        }
    }
}
