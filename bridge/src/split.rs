//! How text is cut into pieces before byte-level BPE: the `tokenizer.ggml.pre` rules.
//!
//! A stage cuts a stretch into matches and the gaps between them; the next stage sees one stretch at
//! a time, so "followed by" never looks past a stretch. The published patterns end in `\s+(?!\S)|\s+`;
//! here that is `\s+` and a rule for its last character, so that an automaton without backtracking
//! can run them: time is linear and nothing gives up on long runs.

use regex::Regex;

/// What a run of white space gives back to the piece after it.
#[derive(Clone, Copy, PartialEq)]
enum Tail {
    Keeps,
    GivesLast,
    /// Unless the run ends a line (those patterns take line ends whole).
    GivesLastUnlessLineEnd,
}

struct Stage {
    pattern: Regex,
    tail: Tail,
}

pub struct Rule {
    stages: Vec<Stage>,
    pub nfc: bool,
    /// A piece that is a token as a whole is that token, whatever the merges say.
    pub ignore_merges: bool,
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

impl Rule {
    /// None: no rule of that name is known here.
    pub fn named(name: &str) -> Option<Rule> {
        use Tail::*;
        let stages: &[(&str, Tail)] = match name {
            "gpt-2" | "phi-2" | "mpt" | "olmo" => &[(GPT2, GivesLast)],
            "smollm" | "starcoder" | "refact" | "command-r" => &[(r"\p{N}", Keeps), (GPT2, GivesLast)],
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "lfm2" => &[(LLAMA3, GivesLastUnlessLineEnd)],
            "qwen2" | "deepseek-r1-qwen" => &[(QWEN2, GivesLastUnlessLineEnd)],
            "default" => &[(PUNCTUATION, Keeps), (GPT2, GivesLast), (r"\p{N}+", Keeps), ("[0-9][0-9][0-9]", Keeps)],
            _ => return None,
        };
        let llama3 = stages[0].0 == LLAMA3;
        Some(Rule {
            stages: stages.iter().map(|&(p, tail)| Stage { pattern: compile(p), tail }).collect(),
            nfc: stages[0].0 == QWEN2,
            ignore_merges: llama3,
            adds_bos: llama3,
        })
    }

    /// Calls `piece` for every piece of `text`, in order; the pieces joined are `text`.
    pub fn split<'t>(&self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        run(&self.stages, text, piece);
    }
}

fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern compiles")
}

fn run<'t>(stages: &[Stage], text: &'t str, piece: &mut impl FnMut(&'t str)) {
    let Some((stage, rest)) = stages.split_first() else {
        if !text.is_empty() {
            piece(text);
        }
        return;
    };
    let mut at = 0;
    while at < text.len() {
        let Some(found) = stage.pattern.find_at(text, at) else { break };
        if found.start() > at {
            run(rest, &text[at..found.start()], piece);
        }
        let end = stage.end(text, found.start(), found.end());
        run(rest, &text[found.start()..end], piece);
        at = end;
    }
    run(rest, &text[at..], piece);
}

impl Stage {
    /// Where the match start..end ends once its tail is given back; never at `start`.
    fn end(&self, text: &str, start: usize, end: usize) -> usize {
        if self.tail == Tail::Keeps || end == text.len() {
            return end;
        }
        let matched = &text[start..end];
        let Some(last) = matched.chars().next_back().filter(|c| c.is_whitespace()) else { return end };
        let line_end = self.tail == Tail::GivesLastUnlessLineEnd && matches!(last, '\r' | '\n');
        let before = end - last.len_utf8();
        // Other alternatives may end in line ends, never in other white space.
        let blank = matched.chars().all(char::is_whitespace);
        if line_end || before == start || !blank {
            end
        } else {
            before
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(rule: &str, text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        Rule::named(rule).unwrap().split(text, &mut |p| out.push(p));
        out
    }

    #[test]
    fn a_run_of_spaces_leaves_the_last_one_to_the_word() {
        assert_eq!(pieces("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(pieces("llama-bpe", "a  \n  b"), ["a", "  \n", " ", " b"]);
        assert_eq!(pieces("gpt-2", "\n\na"), ["\n", "\n", "a"]);
    }

    #[test]
    fn smollm_takes_digits_before_the_spaces_around_them() {
        assert_eq!(pieces("smollm", "x  12"), ["x", "  ", "1", "2"]);
        assert_eq!(pieces("gpt-2", "x  12"), ["x", " ", " 12"]);
    }

    #[test]
    fn digits_come_in_threes_or_alone() {
        assert_eq!(pieces("llama-bpe", "12345"), ["123", "45"]);
        assert_eq!(pieces("qwen2", "12"), ["1", "2"]);
        assert_eq!(pieces("default", "12345!a"), ["123", "45", "!", "a"]);
    }

    #[test]
    fn long_runs_of_spaces_are_one_piece() {
        let text = " ".repeat(12_000_000);
        assert_eq!(pieces("llama-bpe", &text).len(), 1);
    }

    #[test]
    fn an_unknown_rule_is_refused() {
        assert!(Rule::named("tekken").is_none());
    }
}
