//! One of some texts, as a regular expression that says a beginning which several share once: to read it is what takes time.

/// A level nests a regular expression by three, of which 250 are its limit; deeper, beginnings are said again.
const DEEPEST: usize = 60;

pub fn one_of(texts: &[&str]) -> String {
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut pattern = String::new();
    write(&mut pattern, &sorted, 0, DEEPEST);
    pattern
}

/// Without the first bytes, which all share. Requires: sorted, each once.
fn write(pattern: &mut String, texts: &[&str], from: usize, levels: usize) {
    let (Some(first), Some(last)) = (texts.first(), texts.last()) else { return };
    let shared = first[from..].char_indices().zip(last[from..].chars()).find(|((_, a), b)| a != b);
    let shared = shared.map_or(first.len().min(last.len()), |((at, _), _)| from + at);
    pattern.push_str(&regex::escape(&first[from..shared]));
    let ends = first.len() == shared;
    let rest = &texts[usize::from(ends)..];
    if rest.is_empty() {
        return;
    }
    pattern.push_str("(?:");
    let begins_as = |a: &&str, b: &&str| levels > 0 && a[shared..].chars().next() == b[shared..].chars().next();
    for (i, group) in rest.chunk_by(begins_as).enumerate() {
        if i > 0 {
            pattern.push('|');
        }
        write(pattern, group, shared, levels.saturating_sub(1));
    }
    pattern.push_str(if ends { ")?" } else { ")" });
}

#[cfg(test)]
mod tests {
    use super::one_of;

    #[test]
    fn each_text_is_said_and_no_other() {
        assert_eq!(one_of(&["red", "green", "red", "grey"]), "(?:gre(?:en|y)|red)");
        assert_eq!(one_of(&["a", "", "ab"]), "(?:a(?:b)?)?");
        assert_eq!(one_of(&["\u{e9}", "\u{e8}x.", "\u{e8}"]), "(?:\u{e8}(?:x\\.)?|\u{e9})");
        let nested: Vec<String> = (0..300).map(|size| "a".repeat(size)).collect();
        let pattern = one_of(&nested.iter().map(String::as_str).collect::<Vec<_>>());
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).expect("an expression");
        assert!((0..300).all(|size| regex.is_match(&"a".repeat(size))) && !regex.is_match(&"a".repeat(300)));
    }
}
