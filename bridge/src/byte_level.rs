//! Byte-level BPE (`tokenizer.ggml.model` = gpt2): rule-based pieces, whose bytes are then merged.

use crate::failure::{Code, Failure};
use crate::pair_merges::PairMerges;
use crate::specials::{Section, Specials};
use crate::split::Rule;
use crate::token_table::TokenTable;
use crate::vocabulary::{kind, Spec, WordCache};
use std::borrow::Cow;
use unicode_normalization::{is_nfc, UnicodeNormalization};

pub struct ByteLevel {
    rule: Rule,
    merges: PairMerges,
    user_defined: Specials,
    /// Control and user-defined tokens.
    all_specials: Specials,
}

impl ByteLevel {
    pub fn new(spec: &Spec) -> Result<Self, Failure> {
        let name = if spec.pre.is_empty() { "default" } else { spec.pre };
        let rule = Rule::named(name).ok_or_else(|| {
            Failure::new(
                Code::Unsupported,
                format!(
                    "the pre-tokenizer rule \"{name}\" (tokenizer.ggml.pre) is not known, so its ids would be guesses"
                ),
            )
        })?;
        let merged = [kind::NORMAL, kind::USER_DEFINED, kind::UNUSED, kind::BYTE];
        let typed = spec.tokens.iter().zip(spec.types);
        let table = TokenTable::new(typed.map(|(&text, kind)| merged.contains(kind).then_some(text)));
        let merges = PairMerges::new(table, &spec.merges, rule.ignore_merges)?;
        let specials = [kind::UNKNOWN, kind::CONTROL, kind::USER_DEFINED];
        Ok(ByteLevel {
            rule,
            merges,
            user_defined: Specials::new(spec.of_kind(&[kind::USER_DEFINED]))?,
            all_specials: Specials::new(spec.of_kind(&specials))?,
        })
    }

    pub fn adds_bos(&self) -> bool {
        self.rule.adds_bos
    }

    pub fn encode(&self, text: &str, special: bool, ids: &mut Vec<u32>) {
        let specials = if special { &self.all_specials } else { &self.user_defined };
        specials.cut(text, &mut |section| match section {
            Section::Token(id) => ids.push(id),
            Section::Text(text) => self.section(text, ids),
        });
    }

    fn section(&self, text: &str, ids: &mut Vec<u32>) {
        let text: Cow<str> =
            if self.rule.nfc && !is_nfc(text) { Cow::Owned(text.nfc().collect()) } else { Cow::Borrowed(text) };
        let mut cache = WordCache::default();
        let mut merger = self.merges.merger();
        self.rule.split(&text, &mut |piece| cache.encode(piece, ids, |ids| merger.encode(piece, ids)));
    }
}
