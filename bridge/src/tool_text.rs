//! A reply that may hold tool calls: free text, of which a table per place says what would be a malformed call, and
//! calls, which follow a grammar. So free text costs next to nothing, and is drawn from as if there were no tools.

use crate::failure::{Code, Failure};
use crate::grammar::{Follower, State};
use crate::tool_calls::{Choice, Style, PYTHON_TAG};
use crate::tool_places::{opening, Next, Place, Places};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use toktrie::{TokEnv, TokTrie, TokenId};

/// Shared by all texts of the grammar.
pub struct ToolGrammar {
    style: Style,
    choice: Choice,
    places: Places,
    /// At the beginning of a call, or of all calls.
    calls: Follower,
    tokens: TokEnv,
    tag: Option<TokenId>,
    masks: Mutex<HashMap<Place, Arc<Vec<u32>>>>,
}

#[derive(Clone)]
enum Phase {
    Free(Place),
    Call(Box<Follower>),
    Ended,
}

#[derive(Clone)]
pub struct ToolText {
    shared: Arc<ToolGrammar>,
    phase: Phase,
}

impl ToolText {
    pub fn new(style: Style, choice: Choice, calls: Follower, tokens: TokEnv) -> Self {
        let trie = tokens.tok_trie();
        let tag = trie.get_special_token(PYTHON_TAG).filter(|_| style == Style::Llama3);
        // A model that thinks has a token for it.
        let may_think = trie.token_id(b"<think>").is_some();
        let places = Places::new(style, choice, may_think);
        let phase = match choice {
            Choice::Required if !may_think => Phase::Call(Box::new(calls.clone())),
            _ => Phase::Free(opening(false)),
        };
        let masks = Mutex::default();
        let shared = Arc::new(ToolGrammar { style, choice, places, calls, tag, masks, tokens });
        ToolText { shared, phase }
    }

    /// The prompt has begun the thoughts that the text begins with. Requires: nothing was consumed.
    pub fn think(&mut self) {
        self.phase = Phase::Free(Place::Thinking(0));
    }

    pub fn mask(&mut self, words: &mut [u32]) -> Result<State, Failure> {
        match &mut self.phase {
            Phase::Call(call) => call.mask(words),
            Phase::Free(place) => {
                let allowed = self.shared.mask(*place);
                words.fill(0);
                let size = words.len().min(allowed.len());
                words[..size].copy_from_slice(&allowed[..size]);
                Ok(State::Open)
            }
            Phase::Ended => {
                words.fill(0);
                let ends = self.shared.tokens.tok_trie().eos_tokens();
                ends.iter().for_each(|end| set(words, *end));
                Ok(State::Complete)
            }
        }
    }

    pub fn consume(&mut self, ids: &[TokenId]) -> Result<State, Failure> {
        let mut state = State::Open;
        for id in ids {
            state = match &mut self.phase {
                Phase::Call(call) => call.consume(&[*id])?,
                Phase::Free(place) => {
                    self.phase = self.shared.after(*place, *id)?;
                    State::Open
                }
                Phase::Ended => return Err(not_allowed()),
            };
            // Between calls there may be any text.
            let text_follows = self.shared.style == Style::Hermes && self.shared.choice == Choice::Automatic;
            if let Phase::Call(call) = &mut self.phase {
                if text_follows && call.accepts()? {
                    self.phase = Phase::Free(Place::Plain(0, 0));
                    state = State::Open;
                }
            }
            if matches!(self.phase, Phase::Ended) {
                state = State::Complete;
            }
        }
        Ok(state)
    }

    pub fn forced(&mut self) -> Vec<TokenId> {
        match &mut self.phase {
            Phase::Call(call) => call.forced(),
            _ => Vec::new(),
        }
    }

    pub fn accepts(&mut self) -> Result<bool, Failure> {
        match &mut self.phase {
            Phase::Call(call) => call.accepts(),
            Phase::Free(_) => Ok(self.shared.places.may_end()),
            Phase::Ended => Ok(true),
        }
    }

    pub fn bytes(&self) -> u64 {
        let masks = self.shared.masks.lock().map_or(0, |masks| masks.len());
        self.shared.calls.bytes() + (masks * self.shared.tokens.tok_trie().vocab_size().div_ceil(8)) as u64
    }
}

impl ToolGrammar {
    fn trie(&self) -> &TokTrie {
        self.tokens.tok_trie()
    }

    fn mask(&self, place: Place) -> Arc<Vec<u32>> {
        let known = |masks: &HashMap<Place, Arc<Vec<u32>>>| masks.get(&place).cloned();
        if let Some(mask) = self.masks.lock().ok().and_then(|masks| known(&masks)) {
            return mask;
        }
        let mut words = vec![0; self.trie().vocab_size().div_ceil(32)];
        let mut calls = HashMap::new();
        for id in 0..self.trie().vocab_size() as TokenId {
            if self.allows(place, id, &mut calls) {
                set(&mut words, id);
            }
        }
        let mask = Arc::new(words);
        if let Ok(mut masks) = self.masks.lock() {
            masks.insert(place, mask.clone());
        }
        mask
    }

    /// calls: by marker, those that have just begun.
    fn allows(&self, place: Place, id: TokenId, calls: &mut HashMap<&'static str, Option<Follower>>) -> bool {
        if let Some(free) = self.allows_special(place, id) {
            return free;
        }
        let bytes = self.trie().token(id);
        match self.places.follow(place, bytes) {
            (Next::Refused, _) => false,
            (Next::Place(_), _) => true,
            (Next::Call(marker), used) => {
                let call = calls.entry(marker).or_insert_with(|| self.begun(marker).ok());
                call.as_mut().is_some_and(|call| call.can_take(&self.trie().greedy_tokenize(&bytes[used..])))
            }
        }
    }

    /// Of tokens without text, among which are those that are longer than the trie knows.
    fn allows_special(&self, place: Place, id: TokenId) -> Option<bool> {
        let trie = self.trie();
        if trie.eos_tokens().contains(&id) {
            return Some(self.places.may_end());
        }
        if Some(id) == self.tag && Places::is_at_beginning(place) {
            return Some(self.choice != Choice::None);
        }
        if trie.is_special_token(id) {
            return Some(self.places.is_free(place));
        }
        trie.token(id).is_empty().then_some(false)
    }

    fn begun(&self, marker: &str) -> Result<Follower, Failure> {
        let mut call = self.calls.clone();
        call.consume(&self.trie().greedy_tokenize(marker.as_bytes()))?;
        Ok(call)
    }

    fn after(&self, place: Place, id: TokenId) -> Result<Phase, Failure> {
        if (id as usize) >= self.trie().vocab_size() {
            return Err(not_allowed());
        }
        if let Some(allowed) = self.allows_special(place, id) {
            return match allowed {
                false => Err(not_allowed()),
                true if self.trie().eos_tokens().contains(&id) => Ok(Phase::Ended),
                true if Some(id) == self.tag && Places::is_at_beginning(place) => {
                    let mut call = self.calls.clone();
                    call.consume(&[id])?;
                    Ok(Phase::Call(Box::new(call)))
                }
                true => Ok(Phase::Free(place)),
            };
        }
        let bytes = self.trie().token(id);
        match self.places.follow(place, bytes) {
            (Next::Refused, _) => Err(not_allowed()),
            (Next::Place(next), _) => Ok(Phase::Free(next)),
            (Next::Call(marker), used) => {
                let mut call = self.begun(marker)?;
                call.consume(&self.trie().greedy_tokenize(&bytes[used..]))?;
                Ok(Phase::Call(Box::new(call)))
            }
        }
    }
}

fn set(words: &mut [u32], id: TokenId) {
    if let Some(word) = words.get_mut(id as usize / 32) {
        *word |= 1 << (id % 32);
    }
}

fn not_allowed() -> Failure {
    Failure::new(Code::InvalidArgument, "the text cannot go on by its grammar: a token does not fit the tool calls")
}
