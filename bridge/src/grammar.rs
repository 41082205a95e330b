//! What a text must look like, as which tokens may come next: JSON schemas, regular expressions, Lark grammars and
//! lists of choices, through llguidance.
//!
//! Compiling runs on a thread of its own with a large stack, since llguidance recurses over what it is given, and within
//! limits on size, work and lexer states, so that a hostile grammar costs milliseconds and a sentence.

use crate::choices::one_of;
use crate::failure::{Code, Failure};
use crate::grammar_errors::{
    impossible_definition, of_gbnf, of_lark, of_schema, of_text, EMPTY, IMPOSSIBLE, TOO_LARGE,
};
use crate::grammar_gbnf::{is_gbnf, to_lark};
use crate::grammar_texts::has_a_text;
use crate::pattern_check::check;
use crate::schema_check::checked;
use crate::schema_ids::{has_addresses_inside, settle};
use crate::schema_json::read;
use crate::schema_mended::{meets_bounds, mended};
use crate::schema_numbers::check_all;
use crate::schema_rewrite::{leave_out, none_found, rewritten, Rewritten};
use crate::tool_calls::{of_an_object, ToolCalls, PYTHON_TAG};
use crate::tool_text::ToolText;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::panic_utils::catch_unwind;
use llguidance::{Matcher, ParserFactory, TokenParser};
use referencing::Draft;
use serde_json::{json, Value};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokenId};

const LONGEST_TEXT: usize = 1 << 20;
const LONGEST_CHOICES: usize = 1 << 18;
const MOST_CHOICES: usize = 10_000;
/// llguidance takes time that grows with the square of these: a quarter of a second each at most.
const LONGEST_REGEX: usize = 1 << 14;
const LONGEST_LARK: usize = 1 << 16;
/// Optional members and alternatives make a row of the parser, of which 2,000 places are the limit, each several.
const MOST_MEMBERS: usize = 500;
const MOST_ELEMENTS: usize = 5_000;
/// Of a schema, but for the strings of lists: 30 us to compile, and 600 bytes, each.
const MOST_VALUES: usize = 10_000;
/// A schema that is taken apart must not grow by more: what is reserved beside its text, 24 MiB, has room for that and a lexer.
const LONGEST_REWRITTEN: usize = 1 << 16;
/// Measured of compiled grammars beside their lexers: at most 130 bytes for each byte of text.
const BYTES_PER_BYTE: usize = 192;
/// Definitions of a rewritten schema that may turn out to allow nothing, and bytes that are compiled for that: about 0.3 s.
const MOST_LEFT_OUT: usize = 8;
const MOST_COMPILED: usize = 4 * LONGEST_REWRITTEN;
/// Address space; what compiling does not reach is never touched.
const STACK: usize = 256 << 20;
/// Between the tokens of JSON: a space or two, or a new line and what it is indented by.
pub const WHITE_SPACE: &str = r"(?:[\x20\x09]{1,2}|\x0D?\x0A[\x20\x09]{0,40})";

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

    fn size(&self) -> usize {
        match self {
            Source::JsonSchema(text) | Source::Lark(text) | Source::Regex(text) => text.len(),
            Source::Choices(texts) => texts.iter().map(|text| text.len()).sum(),
        }
    }

    fn check_size(&self) -> Result<(), Failure> {
        let limit = match self {
            Source::JsonSchema(_) => LONGEST_TEXT,
            Source::Lark(_) => LONGEST_LARK,
            Source::Regex(_) => LONGEST_REGEX,
            Source::Choices(_) => LONGEST_CHOICES,
        };
        let size = self.size();
        if let Source::Choices(texts) = self {
            if texts.len() > MOST_CHOICES {
                let count = texts.len();
                return Err(self.refused(format!("it has {count} texts, and {MOST_CHOICES} are the limit; give fewer")));
            }
        }
        if size <= limit {
            return Ok(());
        }
        Err(self.refused(format!("it has {size} bytes, and {limit} are the limit; make it smaller")))
    }

    fn grammar(&self) -> Result<TopLevelGrammar, Failure> {
        self.check_size()?;
        match self {
            Source::JsonSchema(text) => {
                let schema = read(text).and_then(|schema| prepared(schema, &mut 0));
                Ok(TopLevelGrammar::from_json_schema(schema.map_err(|reason| self.refused(reason))?))
            }
            Source::Regex(text) => {
                check(text).map_err(|reason| self.refused(reason))?;
                Ok(TopLevelGrammar::from_regex(text))
            }
            Source::Lark(text) if is_gbnf(text) => {
                Ok(TopLevelGrammar::from_lark(to_lark(text).map_err(|wrong| self.refused(wrong))?.lark))
            }
            Source::Lark(text) => Ok(TopLevelGrammar::from_lark(text.to_string())),
            Source::Choices(texts) if texts.is_empty() => Err(self.refused("it is empty; give at least one".into())),
            Source::Choices(texts) => Ok(TopLevelGrammar::from_regex(&one_of(texts))),
        }
    }

    /// Of an error that came when it was compiled.
    fn reason(&self, error: &anyhow::Error) -> String {
        match self {
            Source::Lark(text) if is_gbnf(text) => {
                to_lark(text).map_or_else(|wrong| wrong, |gbnf| of_gbnf(error, &gbnf))
            }
            _ => of_lark(error),
        }
    }

    fn refused(&self, reason: String) -> Failure {
        Failure::new(Code::InvalidArgument, format!("the {} cannot be used: {reason}", self.name()))
    }
}

/// As it can be compiled. seen: the parts so far.
fn prepared(mut schema: Value, seen: &mut usize) -> Result<Value, String> {
    check_schema(&schema, seen)?;
    check_all(&schema)?;
    settle(&mut schema)?;
    checked(&mut schema, LONGEST_REGEX)?;
    laid_out(schema)
}

/// Requires: at most 127 levels.
fn check_schema(schema: &Value, seen: &mut usize) -> Result<(), String> {
    *seen += 1;
    if *seen > MOST_VALUES {
        return Err(format!("it has more than {MOST_VALUES} parts; make it smaller"));
    }
    match schema {
        Value::Object(members) if members.len() > MOST_MEMBERS => {
            Err(format!("an object in it has {} members, and {MOST_MEMBERS} are the limit", members.len()))
        }
        Value::Object(members) => members.iter().try_for_each(|(key, value)| {
            let longest = key.len().max(value.as_str().filter(|_| key == "pattern").map_or(0, str::len));
            if longest > LONGEST_REGEX {
                return Err(format!("a pattern or name in it has {longest} bytes, and {LONGEST_REGEX} are the limit"));
            }
            check_schema(value, seen)
        }),
        Value::Array(values) if values.len() > MOST_ELEMENTS => {
            Err(format!("a list in it has {} elements, and {MOST_ELEMENTS} are the limit", values.len()))
        }
        Value::Array(values) => {
            values.iter().filter(|value| !value.is_string()).try_for_each(|value| check_schema(value, seen))
        }
        _ => Ok(()),
    }
}

/// With bounded white space, unless the schema has an opinion: small models like to go on with it for ever.
fn laid_out(mut schema: Value) -> Result<Value, String> {
    if let Value::Bool(all) = schema {
        schema = if all { json!({}) } else { json!({"not": {}}) };
    }
    let Value::Object(members) = &mut schema else { return Ok(schema) };
    let options = members.entry("x-guidance").or_insert_with(|| json!({}));
    check_layout(options)?;
    if let Value::Object(options) = options {
        if options.get("whitespace_flexible") != Some(&json!(false)) {
            options.insert("whitespace_pattern".into(), json!(WHITE_SPACE));
        }
    }
    Ok(schema)
}

/// llguidance has more switches, with which what is allowed need not be valid, or JSON.
fn check_layout(options: &Value) -> Result<(), String> {
    let Value::Object(options) = options else { return Err("#/x-guidance must be an object".into()) };
    for (name, value) in options {
        let separates = |c| value.as_str().is_some_and(|text| text.trim_matches(' ') == c);
        let wanted = match name.as_str() {
            "whitespace_flexible" if value.is_boolean() => continue,
            "item_separator" if separates(",") => continue,
            "key_separator" if separates(":") => continue,
            "whitespace_flexible" => "must be true or false",
            "item_separator" => "must be a comma, with spaces beside it or without",
            "key_separator" => "must be a colon, with spaces beside it or without",
            _ => "is none of whitespace_flexible, item_separator and key_separator; leave it out",
        };
        return Err(format!("#/x-guidance/{name} {wanted}"));
    }
    Ok(())
}

/// What grammars of one vocabulary have in common. Shared by threads.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    pub fn new(tokens: TokEnv) -> Result<Self, Failure> {
        // Tokens of a class are allowed at once where a text may go on with any of it. A pattern's dot takes no separators of
        // lines, so the class has none.
        let each = SlicedBiasComputer::general_slices().into_iter();
        let slices: Vec<_> = each.map(|slice| slice.replace("\\x7F]", "\\x7F\\u{2028}\\u{2029}]")).collect();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &slices).map_err(|_| {
            Failure::new(Code::Unsupported, "no trie can be made of the vocabulary, which constraints need")
        })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // Of which one takes 1 to 2 KB, kept by whoever shares the compiled grammar.
            max_lexer_states: 30_000,
            max_grammar_size: 200_000,
            initial_lexer_fuel: 300_000,
            step_lexer_fuel: 100_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Grammars { factory })
    }

    /// At the beginning of a text; clones follow texts.
    pub fn compile(&self, source: &Source) -> Result<Follower, Failure> {
        let (parser, size) = on_large_stack(source.name(), || self.parser(source))??;
        Ok(Follower::new(parser, size))
    }

    /// Of a definition as ToolCalls::read() takes it.
    pub fn compile_tool_calls(&self, definition: &str) -> Result<ToolText, Failure> {
        let refused =
            |why: String| Failure::new(Code::InvalidArgument, format!("the tool calls cannot be used: {why}"));
        if definition.len() > LONGEST_TEXT {
            let size = definition.len();
            return Err(refused(format!("their definition has {size} bytes, and {LONGEST_TEXT} are the limit")));
        }
        let mut calls = ToolCalls::read(definition).map_err(refused)?;
        let (style, choice) = (calls.style, calls.choice);
        let compile = move || self.tool_calls_parser(&mut calls, definition.len());
        let (parser, size) = on_large_stack("tool calls", compile)?.map_err(refused)?;
        Ok(ToolText::new(style, choice, Follower::new(parser, size), self.factory.tok_env().clone()))
    }

    /// Each tool's schema is compiled by itself before: then it is known whose fault it is.
    fn tool_calls_parser(&self, calls: &mut ToolCalls, size: usize) -> Result<(TokenParser, usize), String> {
        let mut seen = 0;
        let mut all = size;
        let mut schemas = Vec::new();
        for tool in &mut calls.tools {
            let (schema, longer) = of_an_object(tool.parameters.take())
                .and_then(|schema| prepared(schema, &mut seen))
                .and_then(|schema| self.compilable(schema))
                .map_err(|why| format!("the parameters of the tool {:?}: {why}", tool.name))?;
            all += longer;
            if all > size + LONGEST_REWRITTEN {
                return Err(format!(
                    "the alternatives of all parameters, each by itself, come to too much {TOO_LARGE}"
                ));
            }
            schemas.push(schema);
        }
        let tag = self.factory.tok_env().tok_trie().get_special_token(PYTHON_TAG).is_some();
        let mut parser = self.factory.create_parser(calls.grammar(schemas, tag)).map_err(|e| of_schema(&e))?;
        self.check_beginning(&mut parser)?;
        Ok((parser, all))
    }

    /// As it was compiled, and by how much longer than it is.
    fn compilable(&self, schema: Value) -> Result<(Value, usize), String> {
        let size = schema.to_string().len();
        let (_, longer, schema) = self.schema_parser(TopLevelGrammar::from_json_schema(schema), size)?;
        Ok((schema, longer.saturating_sub(size)))
    }

    /// With the length of the text that was compiled.
    fn parser(&self, source: &Source) -> Result<(TokenParser, usize), Failure> {
        let grammar = source.grammar()?;
        if let Source::JsonSchema(_) = source {
            let made = self.schema_parser(grammar, source.size());
            return made.map(|(parser, size, _)| (parser, size)).map_err(|reason| source.refused(reason));
        }
        let mut parser = self.factory.create_parser(grammar).map_err(|e| source.refused(source.reason(&e)))?;
        self.check_beginning(&mut parser).map_err(|reason| source.refused(reason))?;
        Ok((parser, source.size()))
    }

    /// That some text is whole by it, and that a text can begin: what the first mask takes too long for is not begun.
    fn check_beginning(&self, parser: &mut TokenParser) -> Result<(), String> {
        if !has_a_text(parser) {
            return Err(EMPTY.into());
        }
        let mut first = parser.clone();
        first.start_without_prompt();
        if first.stopped() {
            return Ok(());
        }
        let mask = catch_unwind(AssertUnwindSafe(|| first.compute_mask()));
        match (mask, first.parser.get_error()) {
            (Ok(_), None) => Ok(()),
            (_, Some(e)) => Err(of_text(&e.message()).into()),
            (Err(e), _) if is_dead_end(&e) => Err("no token of the vocabulary begins a text that matches it".into()),
            (Err(e), _) => Err(of_text(&e.to_string()).into()),
        }
    }

    /// Of a JSON schema that llguidance has no words for, once it is rewritten in its words. So is one with addresses
    /// inside: llguidance takes a reference that it was led to as one from where it was led from. So is one whose bounds meet.
    /// With the length of the text that was compiled, and as what it was.
    fn schema_parser(&self, mut grammar: TopLevelGrammar, size: usize) -> Result<(TokenParser, usize, Value), String> {
        let schema = grammar.grammars[0].json_schema.clone().unwrap_or_default();
        if !has_addresses_inside(&schema) && !meets_bounds(&schema) {
            let mut as_written = grammar.clone();
            as_written.grammars[0].json_schema.iter_mut().for_each(|schema| mended(schema, Draft::default()));
            let written = as_written.grammars[0].json_schema.clone().unwrap_or_default();
            let refused = match self.factory.create_parser(as_written) {
                Ok(mut parser) => return self.check_beginning(&mut parser).map(|()| (parser, size, written)),
                Err(e) => of_schema(&e),
            };
            if refused.contains(TOO_LARGE) {
                return Err(refused);
            }
        }
        let Rewritten { mut schema, untold } = rewritten(&schema)?;
        // Where something was told too narrowly, that nothing is allowed is no proof.
        let unproven = |why: String| match &untold {
            Some(what) if [IMPOSSIBLE, EMPTY].contains(&why.as_str()) => none_found(Some(what)),
            _ => why,
        };
        mended(&mut schema, Draft::default());
        let longer = schema.to_string().len();
        if longer > size + LONGEST_REWRITTEN {
            return Err(format!("its alternatives, each by itself, come to too much {TOO_LARGE}"));
        }
        // Each costs a compilation.
        for _ in 0..(MOST_COMPILED / longer.max(1)).clamp(1, MOST_LEFT_OUT) {
            grammar.grammars[0].json_schema = Some(schema.clone());
            let e = match self.factory.create_parser(grammar.clone()) {
                Ok(mut parser) => {
                    self.check_beginning(&mut parser).map_err(unproven)?;
                    return Ok((parser, longer, schema));
                }
                Err(e) => e,
            };
            let left_out = impossible_definition(&e).is_some_and(|name| leave_out(&mut schema, &name));
            if !left_out {
                return Err(unproven(of_schema(&e)));
            }
        }
        Err("it has more parts that no value is valid by than can be left out of it; leave them out".into())
    }
}

/// llguidance recurses over what it is given.
fn on_large_stack<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread
            .map_err(|e| Failure::new(Code::Exhausted, format!("there is no thread to compile the {what} on: {e}")))?;
        thread.join().map_err(|_| Failure::new(Code::Internal, format!("compiling the {what} failed")))
    })
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
    shared: Arc<Compiled>,
}

struct Compiled {
    /// Shares its lexer with all followers.
    parser: TokenParser,
    /// What there is beside the lexer, in bytes.
    compiled: u64,
}

impl Follower {
    /// size: of the text that was compiled.
    fn new(parser: TokenParser, size: usize) -> Self {
        let compiled = (size * BYTES_PER_BYTE) as u64;
        Follower { matcher: Matcher::new(Ok(parser.clone())), shared: Arc::new(Compiled { parser, compiled }) }
    }

    /// Whether the tokens may follow, however the grammar would spell their text.
    pub fn can_take(&mut self, ids: &[TokenId]) -> bool {
        self.matcher.validate_tokens(ids).is_ok_and(|taken| taken == ids.len())
    }

    /// Sets the bits of tokens that may come next. Requires: room for the vocabulary.
    pub fn mask(&mut self, words: &mut [u32]) -> Result<State, Failure> {
        words.fill(0);
        match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => {
                copy(&allowed, words);
                Ok(self.state())
            }
            Err(e) if is_dead_end(&e) => Ok(State::Dead),
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

    pub fn bytes(&self) -> u64 {
        self.shared.compiled + self.shared.parser.parser.lexer_stats().num_bytes as u64
    }

    fn state(&self) -> State {
        if self.matcher.is_stopped() {
            State::Complete
        } else {
            State::Open
        }
    }
}

/// No token may follow.
fn is_dead_end(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("NoExtensionBias")
}

fn cannot_go_on(error: &anyhow::Error) -> Failure {
    Failure::new(
        Code::InvalidArgument,
        format!("the text cannot go on by its constraint: {}", of_text(&error.to_string())),
    )
}

fn copy(allowed: &SimpleVob, words: &mut [u32]) {
    let size = words.len().min(allowed.as_slice().len());
    words[..size].copy_from_slice(&allowed.as_slice()[..size]);
}
