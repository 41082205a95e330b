//! Patterns of a JSON schema, regular expressions of ECMA-262, in Rust's syntax, in which much means something else.
//! Source: ECMA-262 (2024), 22.2.1, with the flag u; of annex B.1.2 only single braces and brackets.

use crate::pattern_check::{too_long, MOST_PLACES};
use std::fmt::Write;

const DIGITS: &str = "0-9";
const WORD: &str = "0-9A-Z_a-z";
const SPACE: &str = "\\t-\\r \\u{a0}\\u{1680}\\u{2000}-\\u{200a}\\u{2028}\\u{2029}\\u{202f}\\u{205f}\\u{3000}\\u{feff}";

/// Errors: what is wrong, and where, as the end of a sentence.
pub fn translated(pattern: &str) -> Result<String, String> {
    let mut reader = Reader { chars: pattern.chars().collect(), at: 0, rust: String::new() };
    reader.whole()?;
    Ok(reader.rust)
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    rust: String,
}

/// Of a class, or by itself.
enum Item {
    Char(char),
    /// What stands between the brackets of a class; true: all but that.
    Set(String, bool),
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let size = text.chars().count();
        let there = self.chars[self.at..].iter().take(size).copied().eq(text.chars());
        self.at += if there { size } else { 0 };
        there
    }

    fn wrong<T>(&self, begin: usize, what: &str) -> Result<T, String> {
        let shown: String = self.chars[begin..].iter().take(8).collect();
        Err(format!("at character {} ({shown}) it {what}", begin + 1))
    }

    fn whole(&mut self) -> Result<(), String> {
        let mut open = Vec::new();
        let mut repeatable = false;
        while let Some(c) = self.peek() {
            let begin = self.at;
            self.at += 1;
            let was_repeatable = std::mem::replace(&mut repeatable, false);
            match c {
                '^' | '$' | '|' => self.rust.push(c),
                '(' => {
                    self.group(begin)?;
                    open.push(begin);
                }
                ')' => {
                    if open.pop().is_none() {
                        return self.wrong(begin, "closes a group that is not open; open it, or write \\)");
                    }
                    self.rust.push(c);
                    repeatable = true;
                }
                '*' | '+' | '?' => self.repetition(begin, was_repeatable, &c.to_string())?,
                '{' => match self.counted() {
                    Some(count) => self.repetition(begin, was_repeatable, &self.checked(begin, count)?)?,
                    None => {
                        self.rust.push_str("\\{");
                        repeatable = true;
                    }
                },
                _ => {
                    self.atom(c, begin)?;
                    repeatable = true;
                }
            }
        }
        match open.pop() {
            Some(begin) => self.wrong(begin, "opens a group that is never closed; close it, or write \\("),
            None => Ok(()),
        }
    }

    fn atom(&mut self, c: char, begin: usize) -> Result<(), String> {
        match c {
            '.' => self.rust.push_str("[^\\n\\r\\u{2028}\\u{2029}]"),
            '[' => self.class(begin)?,
            '\\' => match self.escape(begin, false)? {
                Item::Char(c) => push(&mut self.rust, c),
                Item::Set(set, negated) => write_class(&mut self.rust, &set, negated),
            },
            c => push(&mut self.rust, c),
        }
        Ok(())
    }

    fn group(&mut self, begin: usize) -> Result<(), String> {
        if ["?=", "?!", "?<=", "?<!"].iter().any(|look| self.take(look)) {
            return self.wrong(begin, "looks around; say in the text itself what may stand there");
        }
        let named = self.take("?<");
        if named {
            while self.next().is_some_and(|c| c != '>') {}
        } else if self.peek() == Some('?') && !self.take("?:") {
            return self.wrong(begin, "begins a group as ECMA-262 has none; write (?:...)");
        }
        self.rust.push_str("(?:");
        Ok(())
    }

    fn repetition(&mut self, begin: usize, repeatable: bool, count: &str) -> Result<(), String> {
        if !repeatable {
            return self.wrong(begin, "repeats nothing; write before it what is repeated, or a \\");
        }
        self.take("?"); // which of all matches is found first does not matter
        self.rust.push_str(count);
        Ok(())
    }

    /// {2}, {2,} or {2,5}; None: the brace stands for itself.
    fn counted(&mut self) -> Option<(u64, Option<u64>)> {
        let begin = self.at;
        let counted = self.bounds();
        if counted.is_none() {
            self.at = begin;
        }
        counted
    }

    fn bounds(&mut self) -> Option<(u64, Option<u64>)> {
        let least = self.number()?;
        let most = if self.take(",") { self.number() } else { Some(least) };
        self.take("}").then_some((least, most))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            number = Some(number.unwrap_or(0_u64).saturating_mul(10).saturating_add(u64::from(digit)));
            self.at += 1;
        }
        number
    }

    fn checked(&self, begin: usize, (least, most): (u64, Option<u64>)) -> Result<String, String> {
        if least.max(most.unwrap_or(0)) > MOST_PLACES {
            return Err(too_long(least.max(most.unwrap_or(0))));
        }
        match most {
            Some(most) if most < least => {
                self.wrong(begin, "has a range of repetitions that ends before it begins; turn it round")
            }
            Some(most) => Ok(format!("{{{least},{most}}}")),
            None => Ok(format!("{{{least},}}")),
        }
    }

    fn class(&mut self, begin: usize) -> Result<(), String> {
        let negated = self.take("^");
        let mut set = String::new();
        while !self.take("]") {
            let first = self.item(begin)?;
            let is_range = self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']');
            if !is_range {
                add(&mut set, &first);
                continue;
            }
            self.at += 1;
            let last = self.item(begin)?;
            match (&first, &last) {
                (Item::Char(a), Item::Char(b)) if a <= b => {
                    push(&mut set, *a);
                    set.push('-');
                    push(&mut set, *b);
                }
                _ => return self.wrong(begin, "has a range of a class that is none; turn it round, or write \\-"),
            }
        }
        write_class(&mut self.rust, &set, negated);
        Ok(())
    }

    fn item(&mut self, begin: usize) -> Result<Item, String> {
        let at = self.at;
        match self.next() {
            None => self.wrong(begin, "opens a class that is never closed; close it, or write \\["),
            Some('\\') => self.escape(at, true),
            Some(c) => Ok(Item::Char(c)),
        }
    }

    fn escape(&mut self, begin: usize, in_class: bool) -> Result<Item, String> {
        let Some(c) = self.next() else { return self.wrong(begin, "ends with a \\; write \\\\") };
        let set = |set: &str| Ok(Item::Set(set.to_string(), c.is_ascii_uppercase()));
        Ok(Item::Char(match c {
            'd' | 'D' => return set(DIGITS),
            'w' | 'W' => return set(WORD),
            's' | 'S' => return set(SPACE),
            'p' | 'P' => return self.property(begin, c == 'P'),
            'b' if in_class => '\u{8}',
            'b' | 'B' if !in_class => {
                return self.wrong(begin, "asks for a word boundary; write what may stand there instead")
            }
            'k' | '1'..='9' => return self.wrong(begin, "refers to an earlier group; write out what may come again"),
            '0' if !self.peek().is_some_and(|c| c.is_ascii_digit()) => '\0',
            't' => '\t',
            'n' => '\n',
            'v' => '\u{b}',
            'f' => '\u{c}',
            'r' => '\r',
            'c' if self.peek().is_some_and(|c| c.is_ascii_alphabetic()) => {
                let letter = self.next().map_or(0, |c| c as u32);
                return self.character(begin, letter % 32);
            }
            'x' => {
                let code = self.hexadecimal(2);
                return self.character(begin, code.unwrap_or(u32::MAX));
            }
            'u' => {
                let code = self.unicode();
                return self.character(begin, code.unwrap_or(u32::MAX));
            }
            c if c.is_ascii_alphanumeric() => {
                return self
                    .wrong(begin, "has a \\ before a letter or digit that has no meaning then; leave the \\ out")
            }
            c => c,
        }))
    }

    fn character(&self, begin: usize, code: u32) -> Result<Item, String> {
        match char::from_u32(code) {
            Some(c) => Ok(Item::Char(c)),
            None => self.wrong(begin, "has a number that is no character's; write \\x41 or \\u0041"),
        }
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<u32> {
        let mut code = 0;
        for _ in 0..digits {
            code = code * 16 + self.next()?.to_digit(16)?;
        }
        Some(code)
    }

    fn unicode(&mut self) -> Option<u32> {
        if self.take("{") {
            let end = self.chars[self.at..].iter().position(|c| *c == '}')?;
            let digits: String = self.chars[self.at..self.at + end].iter().collect();
            self.at += end + 1;
            return u32::from_str_radix(&digits, 16).ok();
        }
        let code = self.hexadecimal(4)?;
        if !(0xD800..0xDC00).contains(&code) {
            return Some(code);
        }
        // Of two halves.
        let low = if self.take("\\u") { self.hexadecimal(4)? } else { return None };
        (0xDC00..0xE000).contains(&low).then(|| 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
    }

    fn property(&mut self, begin: usize, negated: bool) -> Result<Item, String> {
        let mut name = String::new();
        if self.take("{") {
            while let Some(c) = self.next().filter(|c| *c != '}') {
                name.push(c);
            }
        }
        let set = format!("\\p{{{name}}}");
        if name.is_empty() || regex_syntax::parse(&set).is_err() {
            return self.wrong(begin, "has a class of Unicode that is not there; write \\p{Lu} or \\p{Script=Greek}");
        }
        Ok(Item::Set(set, negated))
    }
}

fn add(set: &mut String, item: &Item) {
    match item {
        Item::Char(c) => push(set, *c),
        Item::Set(inner, false) => set.push_str(inner),
        Item::Set(inner, true) => write_class(set, inner, true),
    }
}

fn write_class(rust: &mut String, set: &str, negated: bool) {
    rust.push_str(match (set.is_empty(), negated) {
        (true, false) => return rust.push_str("[^\\u{0}-\\u{10ffff}]"),
        (true, true) => return rust.push_str("[\\u{0}-\\u{10ffff}]"),
        (false, true) => "[^",
        (false, false) => "[",
    });
    rust.push_str(set);
    rust.push(']');
}

/// The character itself, in a class or not.
fn push(rust: &mut String, c: char) {
    if c.is_control() {
        // A String takes all that is written to it.
        let _ = write!(rust, "\\u{{{:x}}}", u32::from(c));
        return;
    }
    if "\\.+*?()|[]{}^$#&-~".contains(c) {
        rust.push('\\');
    }
    rust.push(c);
}

#[cfg(test)]
mod tests {
    use super::translated;

    fn matches(pattern: &str, text: &str) -> bool {
        let rust = translated(pattern).unwrap();
        regex::Regex::new(&rust).unwrap_or_else(|e| panic!("{pattern}: {rust}: {e}")).is_match(text)
    }

    #[test]
    fn a_pattern_means_what_it_means_in_ecma_262() {
        let cases: [(&str, &[&str], &[&str]); 20] = [
            ("^[[:alpha:]]$", &["a]", ":]", "[]"], &["b", "a", "b]"]),
            ("^[a&&b]$", &["a", "&"], &["c"]),
            ("^[a~~b]$", &["a", "~", "b"], &["d"]),
            ("^\\d$", &["5"], &["\u{663}"]),
            ("^\\w$", &["_", "z"], &["\u{e9}", "-"]),
            ("^\\W$", &["\u{e9}"], &["a"]),
            ("^\\s$", &[" ", "\u{feff}", "\u{b}"], &["\u{85}", "a"]),
            ("^[^\\s\\D]$", &["1"], &[" ", "a"]),
            ("^.$", &["a", "\u{85}"], &["\n", "\r", "\u{2028}"]),
            ("^[^]$", &["a", "\n"], &[""]),
            ("^[]$", &[], &["", "a"]),
            ("^a{,2}{b$", &["a{,2}{b"], &["aa"]),
            ("^a{2}b{1,}?c{0,1}]}$", &["aab]}", "aabbc]}"], &["ab]}"]),
            ("^\\u0041\\x42\\u{43}\\ud83d\\ude00\\cJ\\0$", &["ABC\u{1f600}\n\0"], &["ABC"]),
            ("^[\\b\\-x]$", &["\u{8}", "-"], &["\\", "b"]),
            ("^(?<year>a|b)(?:c)(d)$", &["acd"], &["ad"]),
            ("^\\/\\.\\$#& ~$", &["/.$#& ~"], &["/x$#& ~"]),
            ("^\\p{Lu}\\P{Lu}[\\p{Script=Greek}a]$", &["Ab\u{3b1}", "Aba"], &["ABa"]),
            ("^[a-c-e]$", &["b", "-", "e"], &["d"]),
            ("^[-a]+-$", &["-a-"], &["b-"]),
        ];
        for (pattern, good, bad) in cases {
            good.iter().for_each(|text| assert!(matches(pattern, text), "{pattern}: {text:?}"));
            bad.iter().for_each(|text| assert!(!matches(pattern, text), "{pattern}: not {text:?}"));
        }
    }

    #[test]
    fn what_has_no_meaning_there_is_refused_with_its_place() {
        let cases = [
            ("(?x) a b", "at character 1 ((?x) a b) it begins a group as ECMA-262 has none"),
            ("(?i:a)", "at character 1 ((?i:a)) it begins a group as ECMA-262 has none"),
            ("a(?=b)", "at character 2 ((?=b)) it looks around"),
            ("(?<!b)a", "at character 1 ((?<!b)a) it looks around"),
            ("\\bfoo", "at character 1 (\\bfoo) it asks for a word boundary"),
            ("(a)\\1", "at character 4 (\\1) it refers to an earlier group"),
            ("(a", "at character 1 ((a) it opens a group"),
            ("a)", "at character 2 ()) it closes a group"),
            ("[a", "at character 1 ([a) it opens a class"),
            ("a**", "at character 3 (*) it repeats nothing"),
            ("a++", "at character 3 (+) it repeats nothing"),
            ("^{2}", "at character 2 ({2}) it repeats nothing"),
            ("a{3,2}", "at character 2 ({3,2}) it has a range of repetitions"),
            ("[b-a]", "at character 1 ([b-a]) it has a range of a class"),
            ("[\\d-z]", "at character 1 ([\\d-z]) it has a range of a class"),
            ("\\Aa\\z", "at character 1 (\\Aa\\z) it has a \\ before a letter"),
            ("\\pL", "at character 1 (\\pL) it has a class of Unicode"),
            ("\\u12", "at character 1 (\\u12) it has a number"),
            ("\\ud800", "at character 1 (\\ud800) it has a number"),
            ("\\", "at character 1 (\\) it ends with a \\"),
            ("a{100000}", "with its repetitions written out it has 100000 characters"),
        ];
        for (pattern, sentence) in cases {
            let said = translated(pattern).err().unwrap_or_else(|| panic!("{pattern} is taken"));
            assert!(said.starts_with(sentence), "{pattern}: {said}");
        }
    }
}
