//! GBNF, the grammars of llama.cpp, written as Lark. Both nest alike, so this goes from token to token.
//! Source: the README of llama.cpp's grammars folder.

use std::collections::HashMap;
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

/// What is wrong, and where, as a sentence's end.
pub fn to_lark(text: &str) -> Result<String, String> {
    let tokens = tokens(text)?;
    let mut rules = HashMap::from([("root", "start".to_string())]);
    let mut lark = String::new();
    for (i, token) in tokens.iter().enumerate() {
        match token {
            Token::Name(name) => {
                let next = rules.len();
                let rule = rules.entry(name).or_insert_with(|| format!("rule{next}"));
                let begins = matches!(tokens.get(i + 1), Some(Token::Defines));
                lark.push(if begins { '\n' } else { ' ' });
                lark.push_str(rule);
            }
            Token::Defines => lark.push(':'),
            Token::Other(token) => {
                lark.push(' ');
                lark.push_str(token);
            }
        }
    }
    lark.push('\n');
    Ok(lark)
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            '"' => tokens.push(Token::Other(literal(&mut chars).ok_or_else(|| wrong(text, at, "a literal"))?)),
            '[' => tokens.push(Token::Other(class(&mut chars).ok_or_else(|| wrong(text, at, "a class"))?)),
            '.' => tokens.push(Token::Other("/(?s:.)/".into())),
            '|' | '(' | ')' | '*' | '+' | '?' => tokens.push(Token::Other(c.to_string())),
            '{' => {
                let mut count = String::from(c);
                while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit() || *c == ',' || *c == '}') {
                    count.push(c);
                }
                tokens.push(Token::Other(count));
            }
            ':' if text[at..].starts_with("::=") => {
                chars.next();
                chars.next();
                tokens.push(Token::Defines);
            }
            c if names(c) => {
                let mut end = at + 1;
                while let Some((at, _)) = chars.next_if(|(_, c)| names(*c)) {
                    end = at + 1;
                }
                tokens.push(Token::Name(&text[at..end]));
            }
            _ => return Err(wrong(text, at, "this")),
        }
    }
    Ok(tokens)
}

fn wrong(text: &str, at: usize, what: &str) -> String {
    let line = text[..at].lines().count().max(1);
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
        write!(class, "\\u{{{:x}}}-\\u{{{:x}}}", first as u32, last as u32).ok()?;
    }
    chars.next();
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
            lark,
            "\nstart: \"[\" rule1 ( \",\" rule1 ) * \"]\"\nrule1: /[\\u{61}-\\u{63}\\u{5e}-\\u{5e}\\u{2d}-\\u{2d}]/ | ( \"\\nA\" | rule2 {2,3} )\nrule2: /[^\\u{22}-\\u{22}\\u{5d}-\\u{5d}]/ /(?s:.)/\n"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(to_lark("root ::= \"a\"\nx ::= $y").err().unwrap(), "this in line 2 is not GBNF: \"$y\"");
        assert!(to_lark("root ::= \"a").is_err());
        assert!(to_lark("root ::= [a").is_err());
        assert!(!is_gbnf("start: \"::=\"\n"));
    }
}
