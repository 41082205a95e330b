//! Where text stands that is no call: in thoughts, at a reply's beginning, or in plain text. Of each place there are few,
//! so that what may follow it is found out once. All of this goes by bytes.

use crate::tool_calls::{Choice, Style, PYTHON_TAG};

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";
const HERMES: &str = "<tool_call>";
/// Between thoughts and a call that must come.
const MOST_SPACES: u8 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// So many bytes of THOUGHT are there.
    Thinking(usize),
    /// So many bytes of a marker are there, and nothing else but white space.
    Opening { marker: usize, bytes: usize, spaces: u8, thought: bool },
    /// So many bytes of HERMES and of THOUGHT are there at its end.
    Plain(usize, usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Place(Place),
    /// A call has begun with this marker.
    Call(&'static str),
    Refused,
}

pub struct Places {
    /// What a call at a reply's beginning begins with; after them THINK.
    markers: Vec<&'static str>,
    choice: Choice,
    anywhere: bool,
}

/// At the beginning of a reply, or after the thoughts in one.
pub fn opening(thought: bool) -> Place {
    Place::Opening { marker: 0, bytes: 0, spaces: 0, thought }
}

impl Places {
    /// may_think: whether a reply of nothing but calls may begin with thoughts.
    pub fn new(style: Style, choice: Choice, may_think: bool) -> Self {
        let mut markers = match style {
            Style::Hermes => vec![HERMES],
            Style::Llama3 => vec!["{", PYTHON_TAG],
            Style::Json => vec!["{", "[{", "```{", "```[{", "```json{", "```json[{"],
        };
        if may_think || choice != Choice::Required {
            markers.push(THINK);
        }
        Places { markers, choice, anywhere: style == Style::Hermes }
    }

    fn only_calls(&self) -> bool {
        self.choice == Choice::Required
    }

    pub fn may_end(&self) -> bool {
        !self.only_calls()
    }

    /// Whether tokens without text may come here.
    pub fn is_free(&self, place: Place) -> bool {
        !self.only_calls() || matches!(place, Place::Thinking(_))
    }

    pub fn is_at_beginning(place: Place) -> bool {
        matches!(place, Place::Opening { bytes: 0, .. })
    }

    /// With how many of the bytes were read: all, unless a call begins or they are refused.
    pub fn follow(&self, mut place: Place, bytes: &[u8]) -> (Next, usize) {
        for (i, byte) in bytes.iter().enumerate() {
            match self.step(place, *byte) {
                Next::Place(next) => place = next,
                Next::Call(_) if self.choice == Choice::None => return (Next::Refused, i),
                other => return (other, i + 1),
            }
        }
        (Next::Place(place), bytes.len())
    }

    fn step(&self, place: Place, byte: u8) -> Next {
        match place {
            Place::Thinking(have) => match grown(THOUGHT, have, byte) {
                all if all == THOUGHT.len() => Next::Place(opening(true)),
                some => Next::Place(Place::Thinking(some)),
            },
            Place::Opening { marker, bytes, spaces, thought } => self.open(marker, bytes, spaces, thought, byte),
            // What was not known to be thoughts turns out to be.
            Place::Plain(have, thought) => match (grown(HERMES, have, byte), grown(THOUGHT, thought, byte)) {
                (_, all) if all == THOUGHT.len() => Next::Place(opening(true)),
                (all, _) if all == HERMES.len() && self.anywhere => Next::Call(HERMES),
                (all, some) => Next::Place(Place::Plain(all % HERMES.len(), some)),
            },
        }
    }

    fn open(&self, marker: usize, bytes: usize, spaces: u8, thought: bool, byte: u8) -> Next {
        let head = &self.markers[marker].as_bytes()[..bytes];
        if byte.is_ascii_whitespace() && may_have_space_after(head) {
            return match spaces {
                MOST_SPACES.. => Next::Refused,
                _ => Next::Place(Place::Opening {
                    marker,
                    bytes,
                    spaces: spaces + u8::from(self.only_calls()),
                    thought,
                }),
            };
        }
        let goes_on = |text: &&str| {
            let text = text.as_bytes();
            text.len() > bytes && text.starts_with(head) && text[bytes] == byte && !(thought && text == THINK.as_bytes())
        };
        match self.markers.iter().position(|text| goes_on(&text)) {
            Some(found) if bytes + 1 < self.markers[found].len() => {
                Next::Place(Place::Opening { marker: found, bytes: bytes + 1, spaces, thought })
            }
            Some(found) if self.markers[found] == THINK => Next::Place(Place::Thinking(0)),
            Some(found) => Next::Call(self.markers[found]),
            None if self.only_calls() => Next::Refused,
            None => {
                self.step(Place::Plain(begun(HERMES, head), begun(THOUGHT, head)), byte)
            }
        }
    }
}

/// Where the parser of calls sees none.
fn may_have_space_after(head: &[u8]) -> bool {
    head.is_empty() || head.ends_with(b"[") || head.ends_with(b"```") || head.ends_with(b"json")
}

/// How much of the pattern there is, one byte later. Requires: its first byte comes once in it.
fn grown(pattern: &str, have: usize, byte: u8) -> usize {
    let pattern = pattern.as_bytes();
    if pattern[have] == byte {
        return have + 1;
    }
    usize::from(pattern[0] == byte)
}

fn begun(pattern: &str, text: &[u8]) -> usize {
    text.iter().fold(0, |have, byte| grown(pattern, have, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(style: Style, choice: Choice, text: &str) -> Next {
        Places::new(style, choice, true).follow(opening(false), text.as_bytes()).0
    }

    #[test]
    fn calls_begin_with_their_markers() {
        use Choice::{Automatic, Required};
        use Style::{Hermes, Json, Llama3};
        let call = [
            (Hermes, "<tool_call>"),
            (Hermes, " Let me see: <<tool_call>"),
            (Hermes, "<think>a <tool_call> b</think>\n\n<tool_call>"),
            (Llama3, "\n{"),
            (Llama3, "<|python_tag|>"),
            (Llama3, "<think>{</think>{"),
            (Llama3, "I thought {</think>\n{"),
            (Json, "[ {"),
            (Json, "```json\n{"),
            (Json, "``` [\n{"),
        ];
        for (style, text) in call {
            assert!(matches!(next(style, Automatic, text), Next::Call(_)), "{text}");
            assert_eq!(next(style, Choice::None, text), Next::Refused, "{text}");
        }
        let plain = [
            (Hermes, "<tool_calls>"),
            (Hermes, "< tool_call>"),
            (Hermes, "<think><tool_call>"),
            (Llama3, "Try {"),
            (Json, "[1, {"),
            (Json, "```python\n{"),
            (Json, "` ``{"),
        ];
        for (style, text) in plain {
            for choice in [Automatic, Choice::None] {
                assert!(matches!(next(style, choice, text), Next::Place(_)), "{text}");
            }
        }
        for (style, text) in [(Hermes, "I"), (Hermes, "</think>"), (Llama3, "x{"), (Json, "[1"), (Hermes, "     <")] {
            assert_eq!(next(style, Required, text), Next::Refused, "{text}");
        }
        assert!(matches!(next(Hermes, Required, "<think>I</think>\n\n<tool_call>"), Next::Call(_)));
        assert_eq!(next(Hermes, Required, "<think></think><think>"), Next::Refused);
    }
}
