//! The C functions of include/dalsegno_bridge.h that are about grammars, in the manner of `abi`.

use crate::abi::{guarded, slice, Buffer, Ids, Owned, Text};
use crate::failure::{Code, Failure};
use crate::grammar::{Follower, Grammars, Source, State};
use crate::grammar_tokens::GrammarTokens;
use crate::tool_text::ToolText;
use crate::vocabulary::Vocabulary;
use std::sync::Arc;

#[repr(C)]
pub struct GrammarTokensSpec {
    vocabulary: *const Vocabulary,
    tokens: *const Text,
    special: *const u8,
    token_count: usize,
    ends: *const u32,
    end_count: usize,
}

impl GrammarTokensSpec {
    unsafe fn read(&self) -> Result<GrammarTokens, Failure> {
        let (tokens, special, ends, vocabulary) = unsafe {
            Arc::increment_strong_count(self.vocabulary);
            (
                slice(self.tokens, self.token_count),
                slice(self.special, self.token_count),
                slice(self.ends, self.end_count),
                Arc::from_raw(self.vocabulary),
            )
        };
        if ends.is_empty() {
            let message = "the vocabulary names no token that ends a text, so a grammar could never end";
            return Err(Failure::new(Code::Unsupported, message));
        }
        let bytes: Vec<&[u8]> = tokens.iter().map(|token| unsafe { token.bytes() }).collect();
        let special: Vec<bool> = special.iter().map(|&flag| flag != 0).collect();
        Ok(GrammarTokens::new(vocabulary, &bytes, &special, ends))
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_grammars_create(
    spec: *const GrammarTokensSpec,
    grammars: *mut *mut Grammars,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let made = Grammars::new(Arc::new((*spec).read()?))?;
            *grammars = Box::into_raw(Box::new(made));
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_grammars_free(grammars: *mut Grammars) {
    if !grammars.is_null() {
        drop(unsafe { Box::from_raw(grammars) });
    }
}

/// What follows a text: a grammar of all of it, or one of the tool calls in it.
#[derive(Clone)]
pub enum Matcher {
    Whole(Follower),
    Tools(ToolText),
}

impl Matcher {
    fn mask(&mut self, words: &mut [u32]) -> Result<State, Failure> {
        match self {
            Matcher::Whole(text) => text.mask(words),
            Matcher::Tools(text) => text.mask(words),
        }
    }

    fn consume(&mut self, ids: &[u32]) -> Result<State, Failure> {
        match self {
            Matcher::Whole(text) => text.consume(ids),
            Matcher::Tools(text) => text.consume(ids),
        }
    }

    fn forced(&mut self) -> Vec<u32> {
        match self {
            Matcher::Whole(text) => text.forced(),
            Matcher::Tools(text) => text.forced(),
        }
    }

    fn accepts(&mut self) -> Result<bool, Failure> {
        match self {
            Matcher::Whole(text) => text.accepts(),
            Matcher::Tools(text) => text.accepts(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Matcher::Whole(text) => text.bytes(),
            Matcher::Tools(text) => text.bytes(),
        }
    }
}

unsafe fn compile(grammars: &Grammars, kind: i32, texts: &[Text]) -> Result<Matcher, Failure> {
    let texts: Vec<&str> = texts
        .iter()
        .map(|text| unsafe { text.str(|| "the text of a constraint".into()) })
        .collect::<Result<_, _>>()
        .map_err(|failure| Failure::new(Code::InvalidArgument, failure.message))?;
    let source = match (kind, texts.as_slice()) {
        (0, [text]) => Source::JsonSchema(text),
        (1, [text]) => Source::Regex(text),
        (2, [text]) => Source::Lark(text),
        (3, _) => Source::Choices(texts),
        (4, [text]) => return Ok(Matcher::Tools(grammars.compile_tool_calls(text)?)),
        _ => return Err(Failure::new(Code::InvalidArgument, "there is no such kind of constraint")),
    };
    Ok(Matcher::Whole(grammars.compile(&source)?))
}

#[no_mangle]
pub unsafe extern "C" fn dsb_grammar_compile(
    grammars: *const Grammars,
    kind: i32,
    texts: *const Text,
    text_count: usize,
    matcher: *mut *mut Matcher,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let made = compile(&*grammars, kind, slice(texts, text_count))?;
            *matcher = Box::into_raw(Box::new(made));
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_clone(
    matcher: *const Matcher,
    copy: *mut *mut Matcher,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            *copy = Box::into_raw(Box::new((*matcher).clone()));
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_free(matcher: *mut Matcher) {
    if !matcher.is_null() {
        drop(unsafe { Box::from_raw(matcher) });
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_think(matcher: *mut Matcher) {
    if let Matcher::Tools(text) = unsafe { &mut *matcher } {
        text.think();
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_mask(
    matcher: *mut Matcher,
    words: *mut u32,
    word_count: usize,
    state: *mut i32,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            *state = (*matcher).mask(std::slice::from_raw_parts_mut(words, word_count))? as i32;
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_consume(
    matcher: *mut Matcher,
    ids: *const u32,
    id_count: usize,
    state: *mut i32,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            *state = (*matcher).consume(slice(ids, id_count))? as i32;
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_forced(matcher: *mut Matcher, ids: *mut Ids, error: *mut Buffer) -> i32 {
    unsafe {
        guarded(error, || {
            *ids = Owned::of((*matcher).forced());
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_accepts(matcher: *mut Matcher, accepts: *mut i32, error: *mut Buffer) -> i32 {
    unsafe {
        guarded(error, || {
            *accepts = i32::from((*matcher).accepts()?);
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_matcher_bytes(matcher: *const Matcher, bytes: *mut u64, error: *mut Buffer) -> i32 {
    unsafe {
        guarded(error, || {
            *bytes = (*matcher).bytes();
            Ok(())
        })
    }
}

/// Matchers are cloned by several threads at once, and move between threads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Matcher>();
    shared::<Grammars>();
};
