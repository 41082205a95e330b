//! What one render may spend. Every operation that could copy or walk a value is charged for it
//! beforehand, so a template's memory and time are bounded whatever it computes.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;

/// Steps of the interpreter: about 100 ns each.
pub const FUEL: u64 = 3_000_000;
/// Bytes made, and bytes looked at. Honest templates copy each message a few times.
const SPACE: u64 = 64 << 20;
const SPACE_PER_CONTEXT_BYTE: u64 = 64;
const TIME: u64 = 2 << 30;
const TIME_PER_CONTEXT_BYTE: u64 = 1024;
/// Of a value in a list, in bytes.
const SLOT: u64 = 32;
/// Of a new list or object. Also bounds how deep values nest, and so the stack it takes to drop them.
const OBJECT: u64 = 512;
/// Of visiting a value, in bytes looked at in the same time.
const VISIT: u64 = 512;
/// Values nested deeper are neither printed nor compared.
pub const DEEPEST: usize = 128;

thread_local! {
    static SPACE_LEFT: Cell<u64> = const { Cell::new(0) };
    static TIME_LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Starts a render on this thread.
pub fn fill(context_bytes: usize) {
    SPACE_LEFT.set(SPACE + SPACE_PER_CONTEXT_BYTE * context_bytes as u64);
    TIME_LEFT.set(TIME + TIME_PER_CONTEXT_BYTE * context_bytes as u64);
}

fn spend(left: &'static std::thread::LocalKey<Cell<u64>>, amount: u64) -> Result<(), Error> {
    match left.get().checked_sub(amount) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => {
            left.set(0);
            Err(Error::new(ErrorKind::OutOfFuel, "it computes too much"))
        }
    }
}

/// Charges for making a value of so many bytes.
pub fn space(bytes: u64) -> Result<(), Error> {
    spend(&SPACE_LEFT, bytes)
}

/// Charges for a copy of a value, not of what it contains.
pub fn keep(value: &Value) -> Result<(), Error> {
    space(shallow(value).saturating_add(OBJECT))
}

/// Charges for looking at a value, not at what it contains.
pub fn walk(value: &Value) -> Result<(), Error> {
    spend(&TIME_LEFT, shallow(value))
}

/// Charges for looking at a value and everything in it, as often as it is in it.
pub fn compare(value: &Value) -> Result<(), Error> {
    compare_within(value, DEEPEST)
}

/// Size in bytes of the value itself.
pub fn shallow(value: &Value) -> u64 {
    match value.as_str() {
        Some(text) => text.len() as u64,
        None => items(value).saturating_mul(SLOT),
    }
}

/// How many values it contains.
pub fn items(value: &Value) -> u64 {
    if is_container(value) {
        value.len().map_or(0, |count| count as u64)
    } else {
        0
    }
}

pub fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

fn compare_within(value: &Value, depth: usize) -> Result<(), Error> {
    spend(&TIME_LEFT, VISIT.saturating_add(shallow(value)))?;
    if !is_container(value) {
        return Ok(());
    }
    if depth == 0 {
        return Err(too_deep());
    }
    for item in value.try_iter()? {
        if value.kind() == ValueKind::Map {
            compare_within(&value.get_item(&item)?, depth - 1)?;
        }
        compare_within(&item, depth - 1)?;
    }
    Ok(())
}

pub fn too_deep() -> Error {
    Error::new(ErrorKind::OutOfFuel, format!("a value is nested deeper than {DEEPEST} levels"))
}

/// Text that is paid for as it grows.
#[derive(Default)]
pub struct Paper {
    pub text: String,
}

impl Paper {
    pub fn push(&mut self, text: &str) -> Result<(), Error> {
        space(text.len() as u64)?;
        spend(&TIME_LEFT, VISIT)?;
        self.text.push_str(text);
        Ok(())
    }
}
