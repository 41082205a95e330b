//! The C functions of include/dalsegno_bridge.h. Each catches panics; each pointer is as the header says.

use crate::failure::{Code, Failure};
use crate::template::ChatTemplate;
use crate::vocabulary::{Spec, Vocabulary};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Once};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    data: *const u8,
    size: usize,
}

impl Text {
    /// Requires: the caller's bytes outlive the call.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        unsafe { slice(self.data, self.size) }
    }

    pub unsafe fn str<'a>(self, what: impl Fn() -> String) -> Result<&'a str, Failure> {
        let bytes = unsafe { self.bytes() };
        std::str::from_utf8(bytes).map_err(|_| Failure::corrupt(format!("{} is not UTF-8", what())))
    }
}

pub unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        unsafe { std::slice::from_raw_parts(data, size) }
    }
}

/// A vector that now belongs to the caller.
#[repr(C)]
pub struct Owned<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

impl<T> Owned<T> {
    pub fn of(values: Vec<T>) -> Self {
        let mut values = std::mem::ManuallyDrop::new(values);
        Owned { data: values.as_mut_ptr(), size: values.len(), capacity: values.capacity() }
    }

    unsafe fn free(self) {
        if !self.data.is_null() {
            drop(unsafe { Vec::from_raw_parts(self.data, self.size, self.capacity) });
        }
    }
}

pub type Buffer = Owned<u8>;
pub type Ids = Owned<u32>;

/// Runs one call; on failure or panic writes the sentence and returns the code.
pub unsafe fn guarded(error: *mut Buffer, call: impl FnOnce() -> Result<(), Failure>) -> i32 {
    silence_panics();
    let failure = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(Code::Internal, format!("a text library failed inside: {}", panic_text(&*panic))),
    };
    if !error.is_null() {
        unsafe { *error = Owned::of(failure.message.into_bytes()) };
    }
    failure.code as i32
}

/// The hook would print; what happened goes back as a sentence instead.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason was given")
}

#[no_mangle]
pub unsafe extern "C" fn dsb_buffer_free(buffer: Buffer) {
    unsafe { buffer.free() }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_ids_free(ids: Ids) {
    unsafe { ids.free() }
}

#[repr(C)]
pub struct VocabularySpec {
    model: Text,
    pre: Text,
    tokens: *const Text,
    types: *const u8,
    scores: *const f32,
    token_count: usize,
    merges: *const Text,
    merge_count: usize,
    bos: i32,
    eos: i32,
    unknown: i32,
    add_bos: i8,
    add_eos: i8,
    add_space_prefix: i8,
}

impl VocabularySpec {
    unsafe fn read<'a>(&self) -> Result<Spec<'a>, Failure> {
        let texts = |data: *const Text, count: usize, what: &'static str| -> Result<Vec<&'a str>, Failure> {
            let texts = unsafe { slice(data, count) };
            texts.iter().enumerate().map(|(i, text)| unsafe { text.str(|| format!("{what} {i}")) }).collect()
        };
        let id = |id: i32| u32::try_from(id).ok();
        let flag = |said: i8| (said >= 0).then_some(said > 0);
        let scores = if self.scores.is_null() { 0 } else { self.token_count };
        unsafe {
            Ok(Spec {
                model: self.model.str(|| "tokenizer.ggml.model".into())?,
                pre: self.pre.str(|| "tokenizer.ggml.pre".into())?,
                tokens: texts(self.tokens, self.token_count, "the text of token")?,
                types: slice(self.types, self.token_count),
                scores: slice(self.scores, scores),
                merges: texts(self.merges, self.merge_count, "merge")?,
                bos: id(self.bos),
                eos: id(self.eos),
                unknown: id(self.unknown),
                add_bos: flag(self.add_bos),
                add_eos: flag(self.add_eos),
                add_space_prefix: flag(self.add_space_prefix),
            })
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_vocabulary_create(
    spec: *const VocabularySpec,
    vocabulary: *mut *const Vocabulary,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let made = Vocabulary::new(&(*spec).read()?)?;
            *vocabulary = Arc::into_raw(Arc::new(made));
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_vocabulary_free(vocabulary: *const Vocabulary) {
    if !vocabulary.is_null() {
        drop(unsafe { Arc::from_raw(vocabulary) });
    }
}

const ENCODE_SPECIAL: u32 = 1;
const ENCODE_BOS: u32 = 2;

#[no_mangle]
pub unsafe extern "C" fn dsb_vocabulary_encode(
    vocabulary: *const Vocabulary,
    text: Text,
    flags: u32,
    ids: *mut Ids,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let made = (*vocabulary).encode(text.bytes(), flags & ENCODE_SPECIAL != 0, flags & ENCODE_BOS != 0)?;
            *ids = Owned::of(made);
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_template_create(
    source: Text,
    bos_token: Text,
    eos_token: Text,
    template: *mut *mut ChatTemplate,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let source = source.str(|| "the chat template".into())?;
            let bos = bos_token.str(|| "the text of the bos token".into())?;
            let eos = eos_token.str(|| "the text of the eos token".into())?;
            let made = ChatTemplate::new(source, bos, eos)?;
            *template = Box::into_raw(Box::new(made));
            Ok(())
        })
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        drop(unsafe { Box::from_raw(template) });
    }
}

#[no_mangle]
pub unsafe extern "C" fn dsb_template_render(
    template: *const ChatTemplate,
    context: Text,
    text: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    unsafe {
        guarded(error, || {
            let made = (*template).render(context.bytes())?;
            *text = Owned::of(made.into_bytes());
            Ok(())
        })
    }
}
