//! What a text must look like, as which tokens may come next: JSON schemas, regular expressions, Lark grammars and
//! lists of choices, through llguidance.
//!
//! Compiling runs on a thread of its own with a large stack, since llguidance recurses over what it is given, and within
//! limits on size, work and lexer states, so that a hostile grammar costs milliseconds and a sentence.

use crate::failure::{Code, Failure};
use crate::grammar_gbnf::{is_gbnf, to_lark};
use crate::grammar_tokens::GrammarTokens;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;
use std::sync::Arc;
use toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokenId};

const LONGEST_TEXT: usize = 1 << 20;
/// llguidance takes time that grows with the square of these: a quarter of a second each at most.
const LONGEST_REGEX: usize = 1 << 14;
const LONGEST_LARK: usize = 1 << 16;
const MOST_MEMBERS: usize = 2_000;
/// Address space; what compiling does not reach is never touched.
const STACK: usize = 256 << 20;
const LONGEST_REASON: usize = 400;

pub enum Source<'a> {
    JsonSchema(&'a str),
    Regex(&'a str),
    Lark(&'a str),
    Choices(Vec<&'a str>),
}

impl Source<'_> {
    fn name(&self) -> &'static str {
        match self {
            Source::JsonSchema(_) => "JSON schema",
            Source::Regex(_) => "regular expression",
            Source::Lark(_) => "grammar",
            Source::Choices(_) => "list of choices",
        }
    }

    fn check_size(&self) -> Result<(), Failure> {
        let (size, limit) = match self {
            Source::JsonSchema(text) => (text.len(), LONGEST_TEXT),
            Source::Lark(text) => (text.len(), LONGEST_LARK),
            Source::Regex(text) => (text.len(), LONGEST_REGEX),
            Source::Choices(texts) => (texts.iter().map(|text| text.len()).sum(), LONGEST_TEXT),
        };
        if size <= limit {
            return Ok(());
        }
        Err(self.refused(format!("it has {size} bytes, and {limit} are the limit; make it smaller")))
    }

    fn grammar(&self) -> Result<TopLevelGrammar, Failure> {
        self.check_size()?;
        match self {
            Source::JsonSchema(text) => {
                let schema = serde_json::from_str(text).map_err(|e| self.refused(not_json(&e)))?;
                check_schema(&schema).map_err(|reason| self.refused(reason))?;
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
            Source::Regex(text) => Ok(TopLevelGrammar::from_regex(text)),
            Source::Lark(text) if is_gbnf(text) => {
                Ok(TopLevelGrammar::from_lark(to_lark(text).map_err(|wrong| self.refused(wrong))?))
            }
            Source::Lark(text) => Ok(TopLevelGrammar::from_lark(text.to_string())),
            Source::Choices(texts) if texts.is_empty() => Err(self.refused("it is empty; give at least one".into())),
            Source::Choices(texts) => {
                let any: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
                Ok(TopLevelGrammar::from_regex(&format!("(?:{})", any.join("|"))))
            }
        }
    }

    fn refused(&self, reason: String) -> Failure {
        Failure::new(Code::InvalidArgument, format!("the {} cannot be used: {reason}", self.name()))
    }
}

/// Requires: at most 127 levels.
fn check_schema(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Object(members) if members.len() > MOST_MEMBERS => {
            Err(format!("an object in it has {} members, and {MOST_MEMBERS} are the limit", members.len()))
        }
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            let longest = key.len().max(value.as_str().filter(|_| key == "pattern").map_or(0, str::len));
            if longest > LONGEST_REGEX {
                return Err(format!("a pattern or name in it has {longest} bytes, and {LONGEST_REGEX} are the limit"));
            }
            check_schema(value)
        }),
        Value::Array(values) => values.iter().try_for_each(check_schema),
        _ => Ok(()),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    let said = error.to_string();
    if said.starts_with("recursion limit") {
        return format!("it is nested deeper than 127 levels (line {}); make it flatter", error.line());
    }
    format!("it is not JSON: {said}")
}

/// What grammars of one vocabulary have in common. Shared by threads.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    pub fn new(tokens: GrammarTokens) -> Result<Self, Failure> {
        let tokens: TokEnv = Arc::new(tokens);
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices)
            .map_err(|e| Failure::new(Code::Unsupported, format!("the vocabulary has no trie: {}", reason(&e))))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // Of which one takes 1 to 2 KB, kept by whoever shares the compiled grammar.
            max_lexer_states: 30_000,
            max_grammar_size: 200_000,
            initial_lexer_fuel: 500_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Grammars { factory })
    }

    /// At the beginning of a text; clones follow texts.
    pub fn compile(&self, source: &Source) -> Result<Follower, Failure> {
        let grammar = source.grammar()?;
        let compile = || self.factory.create_parser(grammar);
        let parser = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, compile);
            let thread = thread.map_err(|e| {
                Failure::new(Code::Exhausted, format!("there is no thread to compile the {} on: {e}", source.name()))
            })?;
            thread.join().map_err(|_| Failure::new(Code::Internal, format!("compiling the {} failed", source.name())))
        })?;
        let parser = parser.map_err(|e| source.refused(reason(&e)))?;
        Ok(Follower { matcher: Matcher::new(Ok(parser)) })
    }
}

/// The first lines of an error: what follows is llguidance's state and a backtrace.
fn reason(error: &anyhow::Error) -> String {
    let all = error.to_string();
    let said = all.split("\n<").next().unwrap_or("");
    if said.starts_with("panic: ") {
        return "it is larger or deeper than can be compiled; make it smaller".into();
    }
    let mut text = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() > LONGEST_REASON {
        let end = (0..=LONGEST_REASON).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum State {
    /// Some token may follow.
    Open = 0,
    /// The text is whole, and nothing but its end may follow.
    Complete = 1,
    /// No token may follow, and the text is not whole.
    Dead = 2,
}

/// How far a text has come in its grammar. Clones share what was computed about the grammar, not the place in it.
#[derive(Clone)]
pub struct Follower {
    matcher: Matcher,
}

impl Follower {
    /// Sets the bits of tokens that may come next. Requires: room for the vocabulary.
    pub fn mask(&mut self, words: &mut [u32]) -> Result<State, Failure> {
        words.fill(0);
        match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => {
                copy(&allowed, words);
                Ok(self.state())
            }
            Err(e) if e.to_string().starts_with("NoExtensionBias") => Ok(State::Dead),
            Err(e) => Err(cannot_go_on(&e)),
        }
    }

    pub fn consume(&mut self, ids: &[TokenId]) -> Result<State, Failure> {
        self.matcher.consume_tokens(ids).map_err(|e| cannot_go_on(&e))?;
        Ok(self.state())
    }

    /// Tokens that must come next: as long as some do, mask() allows the first of them alone.
    pub fn forced(&mut self) -> Vec<TokenId> {
        if self.matcher.is_stopped() {
            return Vec::new();
        }
        self.matcher.compute_ff_tokens()
    }

    pub fn accepts(&mut self) -> Result<bool, Failure> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|e| cannot_go_on(&e))
    }

    fn state(&self) -> State {
        if self.matcher.is_stopped() {
            State::Complete
        } else {
            State::Open
        }
    }
}

fn cannot_go_on(error: &anyhow::Error) -> Failure {
    Failure::new(Code::InvalidArgument, format!("the text cannot go on by its grammar: {}", reason(error)))
}

fn copy(allowed: &SimpleVob, words: &mut [u32]) {
    let size = words.len().min(allowed.as_slice().len());
    words[..size].copy_from_slice(&allowed.as_slice()[..size]);
}
