//! Byte-level BPE (`tokenizer.ggml.model` = gpt2): rule-based pieces, then the crate's BPE.

use crate::failure::{Code, Failure};
use crate::specials::{Section, Specials};
use crate::split::Rule;
use crate::vocabulary::{kind, Spec, WordCache};
use ahash::AHashMap;
use std::borrow::Cow;
use tokenizers::models::bpe::BPE;
use tokenizers::Model;
use unicode_normalization::{is_nfc, UnicodeNormalization};

pub struct ByteLevel {
    rule: Rule,
    bpe: BPE,
    /// GPT-2's printable stand-in for each byte.
    stand_in: [char; 256],
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
        let vocabulary: AHashMap<String, u32> = spec
            .of_kind(&[kind::NORMAL, kind::USER_DEFINED, kind::UNUSED, kind::BYTE])
            .map(|(id, text)| (text.to_owned(), id))
            .collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges(spec)?)
            .cache_capacity(0)
            .ignore_merges(rule.ignore_merges)
            .build()
            .map_err(|e| Failure::corrupt(format!("the merges (tokenizer.ggml.merges) do not fit the tokens: {e}")))?;
        let specials = [kind::UNKNOWN, kind::CONTROL, kind::USER_DEFINED];
        Ok(ByteLevel {
            rule,
            bpe,
            stand_in: stand_ins(),
            user_defined: Specials::new(spec.of_kind(&[kind::USER_DEFINED]))?,
            all_specials: Specials::new(spec.of_kind(&specials))?,
        })
    }

    pub fn adds_bos(&self) -> bool {
        self.rule.adds_bos
    }

    pub fn encode(&self, text: &str, special: bool, ids: &mut Vec<u32>) -> Result<(), Failure> {
        let specials = if special { &self.all_specials } else { &self.user_defined };
        let mut failure = None;
        specials.cut(text, &mut |section| match section {
            Section::Token(id) => ids.push(id),
            Section::Text(text) => {
                if let Err(e) = self.section(text, ids) {
                    failure.get_or_insert(e);
                }
            }
        });
        failure.map_or(Ok(()), Err)
    }

    fn section(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Failure> {
        let text: Cow<str> =
            if self.rule.nfc && !is_nfc(text) { Cow::Owned(text.nfc().collect()) } else { Cow::Borrowed(text) };
        let mut cache = WordCache::default();
        let mut mapped = String::new();
        let mut failure = None;
        self.rule.split(&text, &mut |piece| {
            cache.encode(piece, ids, |ids| {
                mapped.clear();
                mapped.extend(piece.bytes().map(|b| self.stand_in[usize::from(b)]));
                match self.bpe.tokenize(&mapped) {
                    Ok(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                    Err(e) => {
                        failure = Some(Failure::new(Code::Internal, format!("the text could not be tokenized: {e}")))
                    }
                }
            })
        });
        failure.map_or(Ok(()), Err)
    }
}

fn merges(spec: &Spec) -> Result<Vec<(String, String)>, Failure> {
    let two_parts = |(i, merge): (usize, &&str)| match merge.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
        _ => Err(Failure::corrupt(format!(
            "merge {i} (\"{merge}\", tokenizer.ggml.merges) is not two parts around one space"
        ))),
    };
    spec.merges.iter().enumerate().map(two_parts).collect()
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
