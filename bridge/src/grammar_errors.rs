//! What llguidance says is wrong, in sentences for who wrote the schema, expression or grammar, or follows it.

use crate::grammar_gbnf::Rewritten;

pub const TOO_LARGE: &str = "(too large); make it smaller";
pub const EMPTY: &str = "no text matches it";
pub const IMPOSSIBLE: &str = "no value is valid by it";

/// Of a grammar in Lark's syntax: a part of what is said of it, and what is wrong. {}: the name that is said first.
const OF_LARK: [(&str, &str); 36] = [
    ("unknown name", "there is no rule or terminal {}; define it"),
    ("not found", "there is no rule or terminal {}; define it"),
    ("duplicate", "{} is defined twice; keep one definition"),
    ("circular reference in token", "the terminal {} is defined by itself; write it in small letters, as a rule"),
    ("no start rule", "it has no rule named start; name the first one so"),
    ("invalid regex", "the regular expression is not valid; it is in Rust's syntax, without look-around and word boundaries"),
    ("lookarounds", "the regular expression asks for what is beside the text; write what may stand there instead"),
    ("common regex", "there is no such terminal to import; import DIGIT, INT, NUMBER, ESCAPED_STRING, LETTER, WORD, CNAME or WS from common"),
    ("failed to compile JSON schema", "the JSON schema cannot be used; give it as a constraint of its own to hear why"),
    ("special token", "the vocabulary has no control token {}; write a text in quotes, or the name of one that it has"),
    ("token range", "the range of tokens is empty, or has ids beyond the vocabulary; write <[first-last]>"),
    ("negated wildcard", "nothing is left of what is taken away from all tokens; leave it out"),
    ("single character", "a range is of single characters; write \"a\"..\"z\""),
    ("range", "a range must begin at 0 or later, and not end before it begins; turn it round"),
    ("in terminals", "a terminal is made of texts, regular expressions and terminals alone; write it in small letters, as a rule"),
    ("nested %lark", "a terminal is made of texts, regular expressions and terminals alone; write it in small letters, as a rule"),
    ("%regex", "%regex takes one of the members \"substring_words\", \"substring_chars\" and \"substring_chunks\"; give one"),
    ("%llguidance", "%llguidance takes an object of switches; leave it out"),
    ("unknown grammar", "it refers to another grammar, and there is none; write its rules here"),
    ("grammar reference", "it refers to another grammar, and there is none; write its rules here"),
    ("nknown attribute", "a rule has an attribute that is not known; leave it out"),
    ("cannot be used together", "stop= and suffix= cannot be used together; leave one out"),
    ("l-flag", "the flag l of a regular expression is not supported; leave it out"),
    ("flags", "flags cannot stand there; leave them out"),
    ("declare", "%declare is not supported; define the terminal"),
    ("override", "%override is not supported; leave it out"),
    ("template", "templates are not supported; write the rules out"),
    ("riority", "priorities are not supported; leave them out"),
    ("params", "parameters cannot stand there; leave them out"),
    ("parametric", "a rule with parameters cannot have these attributes; leave them out"),
    ("temperature", "a temperature cannot stand there; give it as an option of the call"),
    ("nested", "it is nested too deeply; make it flatter"),
    ("%lark", "%lark opens a grammar that is never closed; close it"),
    ("JSON", "what stands there is not JSON; mend it"),
    ("lexer error", "no word of a grammar begins like that; put texts in quotes"),
    ("xpect", "something else is expected there; mend it"),
];

/// Of a JSON schema: what is left to llguidance to notice.
const OF_SCHEMAS: [(&str, &str); 7] = [
    (
        "Unable to determine",
        "a pattern in it is too complex to be combined with a length, format or pattern; make it simpler",
    ),
    ("Unsatisfiable", IMPOSSIBLE),
    ("multipleOf", "the \"multipleOf\" in it has too many digits; give it fewer"),
    ("multiple of", "the \"multipleOf\" in it has too many digits; give it fewer"),
    ("integer range", "bounds of a number in it are too large or have too many digits; give them fewer"),
    ("float range", "bounds of a number in it are too large or have too many digits; give them fewer"),
    ("exceeds the supported range", "a length of texts in it is too large; make it smaller"),
];

/// Errors that say nothing but that a limit came.
pub fn is_limit(said: &str) -> bool {
    let limits =
        [" too big", " too large", "fuel exhausted", "panic: ", "too many", "Too many", "stack level exceeded"];
    limits.iter().any(|limit| said.contains(limit))
}

fn first(error: &anyhow::Error) -> String {
    // What follows is llguidance's state and a backtrace.
    let all = error.to_string();
    all.split("\n<").next().unwrap_or("").to_string()
}

/// The name of a definition that no value is valid by, where that is what is wrong.
pub fn impossible_definition(error: &anyhow::Error) -> Option<String> {
    let said = first(error);
    let (what, place) = said.rsplit_once("while processing ")?;
    let impossible = what.starts_with("Unsatisfiable");
    Some(place.rsplit_once("#/$defs/")?.1.to_string()).filter(|_| impossible)
}

pub fn of_schema(error: &anyhow::Error) -> String {
    let said = first(error);
    if is_limit(&said) && !said.contains("multipleOf") {
        return format!("it takes more than the limits allow to compile {TOO_LARGE}");
    }
    let known = OF_SCHEMAS.iter().find(|(part, _)| said.contains(part));
    known.map_or("keywords in it cannot be put together in a grammar; make it simpler", |(_, sentence)| sentence).into()
}

pub fn of_lark(error: &anyhow::Error) -> String {
    let told = |(line, column)| format!("in line {line}, column {column}, ");
    of_rules(error, told, |name| name.to_string())
}

/// In the words and lines that it was rewritten from.
pub fn of_gbnf(error: &anyhow::Error, gbnf: &Rewritten) -> String {
    let told = |(line, column)| format!("in line {}, ", gbnf.line(line, column));
    of_rules(error, told, |name| gbnf.name(name).to_string())
}

fn of_rules(error: &anyhow::Error, told: impl Fn((usize, usize)) -> String, named: impl Fn(&str) -> String) -> String {
    let said = first(error);
    if is_limit(&said) {
        return format!("it takes more than the limits allow to compile {TOO_LARGE}");
    }
    let (place, what) = placed(&said);
    let known = OF_LARK.iter().find(|(part, _)| what.contains(part));
    let sentence = known.map_or("it is not understood; mend it", |(_, sentence)| sentence);
    format!("{}{}", place.map_or(String::new(), told), sentence.replace("{}", &name(what, named)))
}

/// "at 2(5): what", or without "at".
fn placed(said: &str) -> (Option<(usize, usize)>, &str) {
    let rest = said.strip_prefix("at ").unwrap_or(said);
    let parts = rest.split_once(": ").and_then(|(place, what)| {
        let (line, column) = place.strip_suffix(')')?.split_once('(')?;
        Some((Some((line.parse().ok()?, column.parse().ok()?)), what))
    });
    parts.unwrap_or((None, said))
}

fn name(what: &str, named: impl Fn(&str) -> String) -> String {
    let quoted = what.split('"').nth(1).filter(|name| !name.is_empty());
    quoted.map_or("so named".into(), |name| format!("\"{}\"", named(name).chars().take(60).collect::<String>()))
}

/// Of a text that follows a grammar.
pub fn of_text(said: &str) -> &'static str {
    if said.contains("too many states") || said.contains("too many expressions") {
        return "its repetitions and alternatives come to more than can be followed; repeat less in it, or make it simpler";
    }
    if said.contains("Too many") || said.contains("too many") || said.contains("fuel") {
        return "its rules can be followed in too many ways; make them simpler, of longer texts and regular expressions";
    }
    "what was to follow is not what it allows"
}
