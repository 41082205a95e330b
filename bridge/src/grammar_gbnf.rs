//! GBNF, the grammars of llama.cpp, written as Lark. Both nest alike, so this goes from token to token.
//! Source: the README of llama.cpp's grammars folder.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::iter::Peekable;
use std::str::CharIndices;

/// Whether some line begins a rule as GBNF does.
pub fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        line.split_once("::=").is_some_and(|(name, _)| !name.trim().is_empty() && name.trim().chars().all(names))
    })
}

fn names(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

enum Token<'t> {
    Name(&'t str),
    Defines,
    /// In Lark's words already.
    Other(String),
}

/// A grammar as Lark, and what its words were.
pub struct Rewritten {
    pub lark: String,
    /// Of each rule's name, what it was.
    names: HashMap<String, String>,
    /// Where in Lark words begin, by line and column, and in which line they were. Ascending.
    places: Vec<((usize, usize), usize)>,
}

impl Rewritten {
    pub fn name<'a>(&'a self, lark: &'a str) -> &'a str {
        self.names.get(lark).map_or(lark, String::as_str)
    }

    /// The line of the word that stands at a line and column of Lark, counted from 1, or last before it.
    pub fn line(&self, line: usize, column: usize) -> usize {
        let after = self.places.partition_point(|(at, _)| *at <= (line, column));
        self.places[..after].last().map_or(1, |(_, line)| *line)
    }
}

/// What is wrong, and where, as a sentence's end.
pub fn to_lark(text: &str) -> Result<Rewritten, String> {
    let tokens = tokens(text)?;
    check_names(&tokens)?;
    let mut rules = HashMap::from([("root", "start".to_string())]);
    let mut lark = String::new();
    let mut places = Vec::new();
    let (mut line, mut column) = (1, 1);
    for (i, (was_in, token)) in tokens.iter().enumerate() {
        if matches!(tokens.get(i + 1), Some((_, Token::Defines))) {
            lark.push('\n');
            (line, column) = (line + 1, 1);
        } else if !matches!(token, Token::Defines) {
            lark.push(' ');
            column += 1;
        }
        places.push(((line, column), *was_in));
        let next = rules.len();
        let word = match token {
            Token::Name(name) => rules.entry(name).or_insert_with(|| format!("rule{next}")),
            Token::Defines => ":",
            Token::Other(word) => word,
        };
        lark.push_str(word);
        column += word.chars().count();
    }
    lark.push('\n');
    let names = rules.into_iter().map(|(name, rule)| (rule, name.to_string())).collect();
    Ok(Rewritten { lark, names, places })
}

/// That each rule that is spoken of is defined, once.
fn check_names(tokens: &[(usize, Token)]) -> Result<(), String> {
    let mut defined = HashSet::new();
    let mut used = Vec::new();
    for (i, (line, token)) in tokens.iter().enumerate() {
        let Token::Name(name) = token else { continue };
        if !matches!(tokens.get(i + 1), Some((_, Token::Defines))) {
            used.push((line, *name));
        } else if !defined.insert(*name) {
            return Err(format!("in line {line}, \"{}\" is defined twice; keep one definition", shortened(name)));
        }
    }
    if !defined.contains("root") {
        return Err("it has no rule named root; name the first one so".into());
    }
    match used.into_iter().find(|(_, name)| !defined.contains(name)) {
        Some((line, name)) => Err(format!("in line {line}, there is no rule \"{}\"; define it", shortened(name))),
        None => Ok(()),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(60).collect()
}

/// With the line of each.
fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    let (mut line, mut counted) = (1, 0);
    while let Some((at, c)) = chars.next() {
        line += text[counted..at].matches('\n').count();
        counted = at;
        let token = match c {
            c if c.is_whitespace() => continue,
            '#' => {
                while chars.next_if(|(_, c)| *c != '\n').is_some() {}
                continue;
            }
            '"' => Token::Other(literal(&mut chars).ok_or_else(|| wrong(text, at, "a literal"))?),
            '[' => Token::Other(class(&mut chars).ok_or_else(|| wrong(text, at, "a class"))?),
            '.' => Token::Other("/(?s:.)/".into()),
            '|' | '(' | ')' | '*' | '+' | '?' => Token::Other(c.to_string()),
            '{' => {
                let mut count = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit() || *c == ',' || *c == '}') {
                    count.push(c);
                }
                Token::Other(count)
            }
            ':' if text[at..].starts_with("::=") => {
                chars.next();
                chars.next();
                Token::Defines
            }
            c if names(c) => {
                let mut end = at + 1;
                while let Some((at, _)) = chars.next_if(|(_, c)| names(*c)) {
                    end = at + 1;
                }
                Token::Name(&text[at..end])
            }
            _ => return Err(wrong(text, at, "this")),
        };
        tokens.push((line, token));
    }
    Ok(tokens)
}

fn wrong(text: &str, at: usize, what: &str) -> String {
    let line = text[..at].matches('\n').count() + 1;
    let shown: String = text[at..].chars().take(20).collect();
    format!("{what} in line {line} is not GBNF: {shown:?}")
}

type Chars<'t> = Peekable<CharIndices<'t>>;

/// One character of a literal or class, which an escape may stand for.
fn character(chars: &mut Chars) -> Option<char> {
    let (_, c) = chars.next()?;
    if c != '\\' {
        return Some(c);
    }
    let digits = match chars.next()?.1 {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        c => return Some(c),
    };
    let mut code = 0;
    for _ in 0..digits {
        code = code * 16 + chars.next()?.1.to_digit(16)?;
    }
    char::from_u32(code)
}

fn literal(chars: &mut Chars) -> Option<String> {
    let mut text = String::new();
    while chars.peek()?.1 != '"' {
        text.push(character(chars)?);
    }
    chars.next();
    serde_json::to_string(&text).ok()
}

fn class(chars: &mut Chars) -> Option<String> {
    let negated = chars.next_if(|(_, c)| *c == '^').is_some();
    let mut class = String::from(if negated { "/[^" } else { "/[" });
    while chars.peek()?.1 != ']' {
        let first = character(chars)?;
        let mut rest = chars.clone();
        let is_range = rest.next()?.1 == '-' && rest.peek()?.1 != ']';
        let last = if is_range {
            chars.next();
            character(chars)?
        } else {
            first
        };
        if last < first {
            return None;
        }
        write!(class, "\\u{{{:x}}}-\\u{{{:x}}}", first as u32, last as u32).ok()?;
    }
    chars.next();
    if class.ends_with(['[', '^']) {
        return None;
    }
    class.push_str("]/");
    Some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_literals_and_classes_are_rewritten() {
        let text = "# a list\nroot ::= \"[\" item (\",\" item)* \"]\"\nitem ::= [a-c^-] | (\n  \"\\n\\x41\" | sub-item{2,3})\nsub-item ::= [^\"\\]] .\n";
        assert!(is_gbnf(text));
        let lark = to_lark(text).unwrap();
        assert_eq!(
            lark.lark,
            "\nstart: \"[\" rule1 ( \",\" rule1 ) * \"]\"\nrule1: /[\\u{61}-\\u{63}\\u{5e}-\\u{5e}\\u{2d}-\\u{2d}]/ | ( \"\\nA\" | rule2 {2,3} )\nrule2: /[^\\u{22}-\\u{22}\\u{5d}-\\u{5d}]/ /(?s:.)/\n"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(to_lark("root ::= \"a\"\nx ::= $y").err().unwrap(), "this in line 2 is not GBNF: \"$y\"");
        assert!(to_lark("root ::= \"a").is_err());
        for class in ["[a", "[]", "[^]", "[b-a]"] {
            let said = to_lark(&format!("\nroot ::= {class}")).err().unwrap();
            assert_eq!(said, format!("a class in line 2 is not GBNF: {class:?}"));
        }
        assert!(!is_gbnf("start: \"::=\"\n"));
    }
}
