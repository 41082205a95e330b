//! Sets of texts, as a JSON schema speaks of them: tests of single ones, examples, and what llguidance can be told of a
//! set. A set that cannot be told is told too narrowly.

use crate::schema_forms::{Form, Text};
use llguidance::derivre::{Regex, RegexAst, RegexBuilder};
use llguidance::regex_to_lark;
use std::collections::{BTreeMap, HashMap, VecDeque};

const FUEL: u64 = 10_000;
const MOST_STATES: usize = 1_000;
/// Longer texts are left out by their length: each character nests a regular expression.
const LONGEST_LEFT_OUT: usize = 60;

/// What llguidance knows, and those that another one is a part of. Others say nothing, as the specification has it.
pub fn format(name: &str) -> Option<Text> {
    let known = |name: &str| Some(Text { formats: vec![name.to_string()], ..Text::default() });
    let pattern = |pattern: &str| Some(Text { patterns: vec![pattern.to_string()], ..Text::default() });
    match name {
        "date-time" | "time" | "date" | "duration" | "email" | "hostname" | "ipv4" | "ipv6" | "uuid" | "uri" => {
            known(name)
        }
        "idn-email" => known("email"),
        "idn-hostname" => known("hostname"),
        "iri" | "uri-reference" | "iri-reference" | "uri-template" => known("uri"),
        "json-pointer" => pattern("^(?:/(?:[a-zA-Z0-9_.-]|~[01])*)*$"),
        "relative-json-pointer" => pattern("^(?:0|[1-9][0-9]*)(?:#|(?:/(?:[a-zA-Z0-9_.-]|~[01])*)*)$"),
        "regex" => pattern("^[a-zA-Z0-9 _-]*$"),
        _ => None,
    }
}

fn search(pattern: &str) -> RegexAst {
    RegexAst::SearchRegex(regex_to_lark(pattern, "dw"))
}

fn compiled(all: Vec<RegexAst>) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new();
    let expression = builder.mk(&RegexAst::And(all)).map_err(|e| not_used(&e))?;
    builder.to_regex_limited(expression, FUEL).map_err(|_| {
        "a pattern in it is too complex to be combined with what else is said of a text; make it simpler".into()
    })
}

fn not_used(error: &anyhow::Error) -> String {
    let lines: Vec<_> = error.to_string().lines().map(|line| line.trim().to_string()).collect();
    format!("a pattern in it cannot be used: {}", lines.join(" "))
}

fn is_empty(all: Vec<RegexAst>) -> Result<bool, String> {
    Ok(compiled(all)?.always_empty())
}

fn length(least: u64, most: Option<u64>) -> RegexAst {
    let most = most.map_or(String::new(), |most| most.to_string());
    RegexAst::Regex(format!("(?s:.{{{least},{most}}})"))
}

fn parts(text: &Text) -> Vec<RegexAst> {
    let mut all: Vec<_> = text.patterns.iter().map(|pattern| search(pattern)).collect();
    all.extend(text.not_patterns.iter().map(|pattern| RegexAst::Not(Box::new(search(pattern)))));
    all.extend(text.but.iter().map(|word| RegexAst::Not(Box::new(RegexAst::Literal(word.clone())))));
    all.push(length(text.least, text.most));
    all
}

/// Regular expressions once compiled are kept.
#[derive(Default)]
pub struct Patterns {
    compiled: HashMap<String, Regex>,
    apart: HashMap<(String, String), bool>,
}

impl Patterns {
    pub fn matches(&mut self, pattern: &str, text: &str) -> Result<bool, String> {
        if !self.compiled.contains_key(pattern) {
            self.compiled.insert(pattern.to_string(), compiled(vec![search(pattern)])?);
        }
        Ok(self.compiled.get_mut(pattern).is_some_and(|regex| regex.is_match(text)))
    }

    /// Whether no text matches both.
    pub fn are_apart(&mut self, a: &str, b: &str) -> Result<bool, String> {
        let key = (a.to_string(), b.to_string());
        if let Some(apart) = self.apart.get(&key) {
            return Ok(*apart);
        }
        let apart = is_empty(vec![search(a), search(b)]).unwrap_or(false);
        self.apart.insert(key, apart);
        Ok(apart)
    }

    /// Whether the text is in the set. Of a format nothing is known.
    pub fn has(&mut self, set: &Text, text: &str) -> Result<bool, String> {
        let size = text.chars().count() as u64;
        if size < set.least || set.most.is_some_and(|most| size > most) || !set.formats.is_empty() {
            return Ok(false);
        }
        let listed = set.only.as_ref().is_none_or(|only| only.iter().any(|each| each == text));
        if !listed || set.but.iter().any(|each| each == text) {
            return Ok(false);
        }
        for pattern in &set.patterns {
            if !self.matches(pattern, text)? {
                return Ok(false);
            }
        }
        for pattern in &set.not_patterns {
            if self.matches(pattern, text)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Those of a list.
    pub fn listed(&mut self, set: &Text) -> Result<Option<Vec<String>>, String> {
        let Some(only) = &set.only else { return Ok(None) };
        let set = Text { formats: Vec::new(), ..set.clone() };
        let mut all = Vec::new();
        for text in only {
            if !all.contains(text) && self.has(&set, text)? {
                all.push(text.clone());
            }
        }
        Ok(Some(all))
    }
}

/// A shortest text of printable ASCII that is of all, if a search finds one.
fn shortest(all: Vec<RegexAst>) -> Option<String> {
    let mut regex = compiled(all).ok()?;
    let start = regex.initial_state();
    let mut from = HashMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(state) = queue.pop_front() {
        if regex.is_accepting(state) {
            let mut bytes = Vec::new();
            let mut at = state;
            while let Some(Some((before, byte))) = from.get(&at) {
                bytes.push(*byte);
                at = *before;
            }
            bytes.reverse();
            return String::from_utf8(bytes).ok();
        }
        if from.len() > MOST_STATES || regex.cost() > 50 * FUEL {
            return None;
        }
        let letters = (b'a'..=b'z').chain(b'0'..=b'9').chain(b'A'..=b'Z').chain(b' '..=b'~');
        for byte in letters {
            let next = regex.transition(state, byte);
            if !next.is_dead() && !from.contains_key(&next) {
                from.insert(next, Some((state, byte)));
                queue.push_back(next);
            }
        }
    }
    None
}

pub fn matching(pattern: &str) -> Option<String> {
    shortest(vec![search(pattern)])
}

/// Some text that is none of the names and matches none of the patterns.
pub fn name_beyond(names: &[String], patterns: &[String]) -> Option<String> {
    let set = Text { not_patterns: patterns.to_vec(), but: names.to_vec(), least: 1, ..Text::default() };
    shortest(parts(&set))
}

/// Some text of the union.
pub fn sample(union: &[Form]) -> Option<String> {
    union.iter().find_map(|form| match form {
        Form::Text(set) => match Patterns::default().listed(set).ok()? {
            Some(listed) => listed.first().cloned(),
            None if set.formats.is_empty() => shortest(parts(set)),
            None => None,
        },
        _ => None,
    })
}

/// A pattern of all texts but these.
pub fn all_but(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.chars().collect::<Vec<_>>()).collect();
    format!("^{}$", beyond(&words.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

fn beyond(words: &[&[char]]) -> String {
    if words.is_empty() {
        return "(?s:.*)".into();
    }
    let mut children: BTreeMap<char, Vec<&[char]>> = BTreeMap::new();
    for word in words {
        if let Some((first, rest)) = word.split_first() {
            children.entry(*first).or_default().push(rest);
        }
    }
    let ends = words.iter().any(|word| word.is_empty());
    let letter = |c: &char| format!("\\u{{{:x}}}", u32::from(*c));
    let mut ways = vec![if children.is_empty() {
        "(?s:.+)".to_string()
    } else {
        format!("(?:[^{}](?s:.*))", children.keys().map(letter).collect::<String>())
    }];
    ways.extend(children.iter().map(|(c, rest)| format!("{}{}", letter(c), beyond(rest))));
    format!("(?:{}){}", ways.join("|"), if ends { "" } else { "?" })
}

fn is_short(word: &str) -> bool {
    word.chars().count() <= LONGEST_LEFT_OUT
}

/// Whether texts that are left out are told by their length.
pub fn leaves_out_long(set: &Text) -> bool {
    !set.but.iter().all(|word| is_short(word))
}

/// Patterns of which all match, of only these texts; None: of none. Lengths apart.
pub fn told(set: &Text) -> Result<Option<(Vec<String>, Option<u64>)>, String> {
    let mut patterns = set.patterns.clone();
    let mut most = set.most;
    let short: Vec<_> = set.but.iter().filter(|word| is_short(word)).cloned().collect();
    if leaves_out_long(set) {
        most = Some(most.map_or(LONGEST_LEFT_OUT as u64, |most| most.min(LONGEST_LEFT_OUT as u64)));
    }
    if !short.is_empty() {
        patterns.push(all_but(&short));
    }
    if !set.not_patterns.is_empty() {
        let Some(apart) = apart_from(set)? else { return Ok(None) };
        patterns.push(apart);
    }
    Ok(Some((patterns, most)))
}

/// Of some simple patterns the widest that meets the set, and none of its not_patterns.
fn apart_from(set: &Text) -> Result<Option<String>, String> {
    const CLASSES: [&str; 9] =
        ["[ -~]", "[a-zA-Z0-9 _-]", "[a-zA-Z0-9]", "[a-zA-Z]", "[a-z]", "[A-Z]", "[0-9]", "[ ]", "[!-/:-@]"];
    let mut tried: Vec<String> = CLASSES.iter().map(|class| format!("^{class}*$")).collect();
    let chars = |pattern: &String| pattern.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>();
    let mentioned: String = set.not_patterns.iter().map(chars).collect();
    if !mentioned.is_empty() {
        tried.insert(3, format!("^[^{mentioned}\\u{{7f}}-\\u{{10ffff}}]*$"));
    }
    tried.extend(shortest(parts(set)).map(|text| format!("^{}$", regex::escape(&text))));
    for candidate in tried {
        let mut all: Vec<_> = set.patterns.iter().map(|pattern| search(pattern)).collect();
        all.push(length(set.least, set.most));
        all.push(search(&candidate));
        if is_empty(all)? {
            continue;
        }
        let mut apart = true;
        for pattern in &set.not_patterns {
            apart = apart && is_empty(vec![search(&candidate), search(pattern)])?;
        }
        if apart {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The set as one pattern; None where it is empty, or cannot be told as one.
pub fn one_pattern(set: &Text) -> Result<Option<String>, String> {
    if let Some(only) = Patterns::default().listed(set)? {
        let any: Vec<_> = only.iter().map(|text| regex::escape(text)).collect();
        return Ok((!any.is_empty()).then(|| format!("^(?:{})$", any.join("|"))));
    }
    let Some((patterns, most)) = told(set)? else { return Ok(None) };
    let bounded = set.least > 0 || most.is_some();
    match patterns.as_slice() {
        _ if !set.formats.is_empty() => Ok(None),
        [] => {
            let most = most.map_or(String::new(), |most| most.to_string());
            Ok(Some(format!("^(?s:.{{{},{most}}})$", set.least)))
        }
        [pattern] if !bounded => Ok(Some(pattern.clone())),
        _ => {
            // One that all the others contain, or an example.
            let exact = length(set.least, most);
            for pattern in &patterns {
                let inside = |other: RegexAst| is_empty(vec![search(pattern), RegexAst::Not(Box::new(other))]);
                let mut contained = inside(exact.clone()).unwrap_or(false);
                for other in &patterns {
                    contained = contained && inside(search(other)).unwrap_or(false);
                }
                if contained {
                    return Ok(Some(pattern.clone()));
                }
            }
            let set = Text { most, ..set.clone() };
            Ok(shortest(parts(&set)).map(|text| format!("^{}$", regex::escape(&text))))
        }
    }
}
