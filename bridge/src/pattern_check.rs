//! Regular expressions in Rust's syntax before llguidance sees them: what is wrong in one, where, and how much it comes to.

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{self, Hir, HirKind, Look};

/// Characters and classes, once repetitions are written out: each is at least a state of the lexer, of which 30,000 are
/// the limit, and repetitions within repetitions take steps that grow with their product.
pub const MOST_PLACES: u64 = 20_000;

/// Errors: the end of a sentence.
pub fn check(pattern: &str) -> Result<(), String> {
    let tree = ast::parse::Parser::new().parse(pattern).map_err(|e| wrong(e.kind(), pattern, e.span()))?;
    if let Some(at) = word_boundary(&tree) {
        return Err(format!("it asks for a word boundary {}; write what may stand there instead", place(pattern, at)));
    }
    let parsed = hir::translate::Translator::new().translate(pattern, &tree);
    let hir = parsed.map_err(|e| wrong_class(e.kind(), pattern, e.span()))?;
    check_hir(&hir)?;
    check_size(&hir)
}

pub fn check_size(hir: &Hir) -> Result<(), String> {
    match places(hir) {
        size if size > MOST_PLACES => Err(too_long(size)),
        _ => Ok(()),
    }
}

pub fn too_long(size: u64) -> String {
    format!("with its repetitions written out it has {size} characters, and {MOST_PLACES} are the limit; repeat less")
}

fn places(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(text) => text.0.len() as u64,
        HirKind::Class(_) => 1,
        HirKind::Repetition(repeated) => {
            let most = repeated.max.unwrap_or(repeated.min.max(1));
            places(&repeated.sub).saturating_mul(u64::from(most))
        }
        HirKind::Capture(group) => places(&group.sub),
        HirKind::Concat(all) | HirKind::Alternation(all) => all.iter().map(places).fold(0, u64::saturating_add),
    }
}

/// Of what llguidance reads otherwise, or not at all.
fn check_hir(hir: &Hir) -> Result<(), String> {
    if names_stop(hir) {
        return Err("it has a group named \"stop\", which is taken for the end of a text; name it otherwise".into());
    }
    match misplaced(hir, true, true) {
        None => Ok(()),
        Some(Look::Start) => Err("it has a ^ where text comes before it; leave it out".into()),
        Some(Look::End) => Err("it has a $ where text comes after it; leave it out".into()),
        Some(_) => Err("it asks for the beginning or end of a line; write the line break itself".into()),
    }
}

fn names_stop(hir: &Hir) -> bool {
    let own = matches!(hir.kind(), HirKind::Capture(group) if group.name.as_deref() == Some("stop"));
    own || hir.kind().subs().iter().any(names_stop)
}

/// Anchors count at the beginning and the end of the whole alone.
fn misplaced(hir: &Hir, first: bool, last: bool) -> Option<Look> {
    match hir.kind() {
        HirKind::Look(Look::Start) if first => None,
        HirKind::Look(Look::End) if last => None,
        HirKind::Look(look) => Some(*look),
        HirKind::Concat(all) => {
            let is = |hir: &Hir, look| matches!(hir.kind(), HirKind::Look(own) if *own == look);
            let begin = all.iter().position(|each| !is(each, Look::Start)).unwrap_or(all.len());
            let end = all.iter().rposition(|each| !is(each, Look::End)).unwrap_or(0);
            let mut each = all.iter().enumerate();
            each.find_map(|(i, each)| misplaced(each, first && i <= begin, last && i >= end))
        }
        HirKind::Alternation(all) => all.iter().find_map(|each| misplaced(each, first, last)),
        HirKind::Capture(group) => misplaced(&group.sub, first, last),
        HirKind::Repetition(repeated) => misplaced(&repeated.sub, false, false),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => None,
    }
}

fn word_boundary(tree: &Ast) -> Option<&ast::Span> {
    use ast::AssertionKind::{EndLine, EndText, StartLine, StartText};
    match tree {
        Ast::Assertion(found) => match found.kind {
            StartLine | EndLine | StartText | EndText => None,
            _ => Some(&found.span),
        },
        Ast::Repetition(repeated) => word_boundary(&repeated.ast),
        Ast::Group(group) => word_boundary(&group.ast),
        Ast::Alternation(all) => all.asts.iter().find_map(word_boundary),
        Ast::Concat(all) => all.asts.iter().find_map(word_boundary),
        _ => None,
    }
}

/// Where it begins, counted from 1.
fn place(pattern: &str, at: &ast::Span) -> String {
    let before = pattern.get(..at.start.offset).map_or(0, |before| before.chars().count());
    format!("at character {}", before + 1)
}

fn wrong(kind: &ast::ErrorKind, pattern: &str, at: &ast::Span) -> String {
    use ast::ErrorKind as Kind;
    let (what, remedy) = match kind {
        Kind::UnsupportedLookAround => ("looks around", "say in the text itself what may stand there"),
        Kind::UnsupportedBackreference => ("refers to an earlier group", "write out what may come again"),
        Kind::NestLimitExceeded(_) => ("is nested deeper than 250 levels", "make it flatter"),
        Kind::GroupUnclosed => ("opens a group that is never closed", "close it, or write \\("),
        Kind::GroupUnopened => ("closes a group that is not open", "open it, or write \\)"),
        Kind::ClassUnclosed => ("opens a class that is never closed", "close it, or write \\["),
        Kind::ClassRangeInvalid => ("has a range that ends before it begins", "turn it round"),
        Kind::ClassRangeLiteral | Kind::ClassEscapeInvalid => {
            ("has in a class what cannot stand there", "leave it out")
        }
        Kind::RepetitionMissing => ("repeats nothing", "write before it what is repeated, or a \\"),
        Kind::RepetitionCountInvalid => ("has a range of repetitions that ends before it begins", "turn it round"),
        Kind::RepetitionCountUnclosed | Kind::RepetitionCountDecimalEmpty | Kind::DecimalEmpty => {
            ("has a repetition without a number", "write {2} or {2,5}, or \\{")
        }
        Kind::DecimalInvalid => ("has a number that is too large", "make it smaller"),
        Kind::EscapeHexEmpty | Kind::EscapeHexInvalid | Kind::EscapeHexInvalidDigit => {
            ("has a number that is no character's", "write \\x41 or \\u{1F600}")
        }
        Kind::EscapeUnexpectedEof => ("ends with a \\", "write \\\\"),
        Kind::EscapeUnrecognized => ("has a \\ before a letter that has no meaning then", "leave the \\ out"),
        Kind::UnicodeClassInvalid => ("has a class of Unicode that is not there", "write \\p{Greek} or \\p{Lu}"),
        Kind::GroupNameDuplicate { .. }
        | Kind::GroupNameEmpty
        | Kind::GroupNameInvalid
        | Kind::GroupNameUnexpectedEof => ("has a group without a name of its own", "write (?:...)"),
        _ => ("has a flag or an escape that is not there", "leave it out"),
    };
    format!("it {what} {}; {remedy}", place(pattern, at))
}

fn wrong_class(kind: &hir::ErrorKind, pattern: &str, at: &ast::Span) -> String {
    use hir::ErrorKind as Kind;
    let what = match kind {
        Kind::UnicodePropertyNotFound | Kind::UnicodePropertyValueNotFound => {
            "has a class of Unicode that is not there"
        }
        _ => "may match what is not UTF-8, or needs the flag u",
    };
    format!("it {what} {}; leave it out", place(pattern, at))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let cases = [
            ("a(?=b)", "it looks around at character 2; say in the text itself what may stand there"),
            ("\u{e9}(?<!b)", "it looks around at character 2"),
            ("(a)\\1", "it refers to an earlier group at character 4"),
            ("a(b", "it opens a group that is never closed at character 2"),
            ("ab)", "it closes a group that is not open at character 3"),
            ("[a", "it opens a class that is never closed at character 1"),
            ("[b-a]", "it has a range that ends before it begins at character 2"),
            ("[a-\\d]", "it has in a class what cannot stand there"),
            ("*a", "it repeats nothing at character 1"),
            ("a{5,2}", "it has a range of repetitions that ends before it begins"),
            ("a{", "it has a repetition without a number"),
            ("a{99999999999}", "it has a number that is too large"),
            ("\\x{110000}", "it has a number that is no character's"),
            ("a\\", "it ends with a \\ at character 2"),
            ("\\y", "it has a \\ before a letter that has no meaning then"),
            ("\\p{Klingon}", "it has a class of Unicode that is not there at character 1; leave it out"),
            ("(?<>a)", "it has a group without a name of its own"),
            ("(?k)a", "it has a flag or an escape that is not there"),
            ("(?-u:\\xFF)", "it may match what is not UTF-8"),
            ("a\\bc", "it asks for a word boundary at character 2; write what may stand there instead"),
            ("a^b", "it has a ^ where text comes before it"),
            ("(a$)b", "it has a $ where text comes after it"),
            ("(?m)a$\n", "it asks for the beginning or end of a line"),
            ("(?P<stop>a)b", "it has a group named \"stop\""),
        ];
        for (pattern, sentence) in cases {
            let said = check(pattern).err().unwrap_or_else(|| panic!("{pattern} is taken"));
            assert!(said.starts_with(sentence), "{pattern}: {said}");
        }
        let deep = format!("{}a{}", "(".repeat(300), ")".repeat(300));
        assert!(check(&deep).unwrap_err().starts_with("it is nested deeper than 250 levels"));
    }

    #[test]
    fn repetitions_count_written_out() {
        for pattern in [
            "a{100000}",
            "(a{1,1000}){1,1000}",
            "((a{1,100}b?){1,100}c?){1,100}",
            "(ab?){0,20000}",
            "((a{1000}){1000}){1000000}",
        ] {
            assert!(check(pattern).unwrap_err().contains("written out"), "{pattern}");
        }
        for pattern in ["[0-9]{1000}", "a{20000}", ".{1,10000}", "(a*b+){3,}", "^(ab|c$)|^$", "(?x) a b", "a{0}{5}"] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }
}
