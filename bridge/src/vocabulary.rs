//! Text -> ids by the rules of one GGUF file.

use crate::byte_level::ByteLevel;
use crate::failure::{Code, Failure};
use crate::sentence_piece::SentencePiece;
use ahash::AHashMap;

/// tokenizer.ggml.token_type
pub mod kind {
    pub const NORMAL: u8 = 1;
    pub const UNKNOWN: u8 = 2;
    pub const CONTROL: u8 = 3;
    pub const USER_DEFINED: u8 = 4;
    pub const UNUSED: u8 = 5;
    pub const BYTE: u8 = 6;
}

/// What the file says. Requires: types as long as tokens, and scores too unless the model is gpt2.
pub struct Spec<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub types: &'a [u8],
    pub scores: &'a [f32],
    pub merges: Vec<&'a str>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

impl<'a> Spec<'a> {
    /// (id, text) of the tokens of some kinds.
    pub fn of_kind<'s>(&'s self, kinds: &'s [u8]) -> impl Iterator<Item = (u32, &'a str)> + 's {
        let typed = self.tokens.iter().zip(self.types).enumerate();
        typed.filter(|(_, (_, kind))| kinds.contains(kind)).map(|(id, (text, _))| (id as u32, *text))
    }
}

enum Model {
    ByteLevel(Box<ByteLevel>),
    SentencePiece(Box<SentencePiece>),
}

pub struct Vocabulary {
    model: Model,
    /// What the model adds before and after.
    first: Option<u32>,
    last: Option<u32>,
}

impl Vocabulary {
    pub fn new(spec: &Spec) -> Result<Self, Failure> {
        let (model, adds_bos) = match spec.model {
            "gpt2" => {
                let model = ByteLevel::new(spec)?;
                let adds_bos = model.adds_bos();
                (Model::ByteLevel(Box::new(model)), adds_bos)
            }
            "llama" => (Model::SentencePiece(Box::new(SentencePiece::new(spec)?)), true),
            other => {
                let message = format!(
                    "the tokenizer model \"{other}\" (tokenizer.ggml.model) is not supported; gpt2 and llama are"
                );
                return Err(Failure::new(Code::Unsupported, message));
            }
        };
        Ok(Vocabulary {
            model,
            first: spec.bos.filter(|_| spec.add_bos.unwrap_or(adds_bos)),
            last: spec.eos.filter(|_| spec.add_eos.unwrap_or(false)),
        })
    }

    /// Ill-formed UTF-8 is read as U+FFFD.
    pub fn encode(&self, text: &[u8], special: bool, add: bool) -> Result<Vec<u32>, Failure> {
        let text = String::from_utf8_lossy(text);
        if text.len() > LONGEST_TEXT {
            let message = format!(
                "a text of {} bytes is too long to tokenize in one go; the limit is {LONGEST_TEXT}",
                text.len()
            );
            return Err(Failure::new(Code::InvalidArgument, message));
        }
        let mut ids = Vec::new();
        ids.extend(self.first.filter(|_| add));
        match &self.model {
            Model::ByteLevel(model) => model.encode(&text, special, &mut ids),
            Model::SentencePiece(model) => model.encode(&text, special, &mut ids),
        }
        ids.extend(self.last.filter(|_| add));
        Ok(ids)
    }

    /// A text that goes on from another, without control tokens. Requires: at most LONGEST_TEXT bytes.
    pub fn encode_rest(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        match &self.model {
            Model::ByteLevel(model) => model.encode(text, false, &mut ids),
            Model::SentencePiece(model) => model.encode_rest(text, &mut ids),
        }
        ids
    }
}

/// Escaping triples spaces and positions are 32 bits.
const LONGEST_TEXT: usize = 1 << 29;

/// Words seen in this text, as ranges of the ids already made: most words of a text repeat.
#[derive(Default)]
pub struct WordCache<'t> {
    seen: AHashMap<&'t str, (u32, u32)>,
}

impl<'t> WordCache<'t> {
    const LONGEST: usize = 64;

    pub fn encode(&mut self, word: &'t str, ids: &mut Vec<u32>, compute: impl FnOnce(&mut Vec<u32>)) {
        if let Some(&(start, end)) = self.seen.get(word) {
            return ids.extend_from_within(start as usize..end as usize);
        }
        let start = ids.len();
        compute(ids);
        if word.len() <= Self::LONGEST {
            self.seen.insert(word, (start as u32, ids.len() as u32));
        }
    }
}
