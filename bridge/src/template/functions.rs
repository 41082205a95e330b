//! What templates call: the operators behind `guard`, and the filters, tests, methods and functions
//! that differ from the crate's, because Python's do or because the crate's could blow up.

use super::guard;
use super::meter::{self, Paper};
use super::namespace;
use super::python::{self, JsonStyle};
use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{context, filters, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use std::fmt;

/// The text a template gave to raise_exception.
#[derive(Debug)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

pub fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(meter::FUEL));
    env.set_formatter(|out, _, value| Ok(out.write_str(&python::text(value)?)?));
    env.set_unknown_method_callback(method);
    // It prints every variable, however large.
    env.remove_global("debug");
    // Not in Jinja2; nested, they take exponential time.
    for name in ["zip", "chain", "lines", "split"] {
        env.remove_filter(name);
    }
    add_operators(&mut env);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
    });
    env.add_function("namespace", namespace::create);
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| python::text(value));
    env.add_filter("pprint", |value: &Value| python::text(value));
    env.add_filter("upper", |value: &Value| Ok::<_, Error>(python::text(value)?.to_uppercase()));
    env.add_filter("lower", |value: &Value| Ok::<_, Error>(python::text(value)?.to_lowercase()));
    env.add_filter("trim", |value: &Value, chars: Option<&str>| {
        let text = python::text(value)?;
        let trimmed = chars.map_or_else(|| text.trim(), |chars| text.trim_matches(|c| chars.contains(c)));
        Ok::<_, Error>(trimmed.to_owned())
    });
    env.add_filter("join", |items: &Value, joiner: Option<&Value>| {
        join(items, &joiner.map_or(Ok(String::new()), python::text)?)
    });
    env.add_filter("replace", replace_filter);
    env.add_filter("indent", indent);
    env.add_filter("format", |state: &State, format: &Value, args: Rest<Value>| {
        format_cost(&python::text(format)?, &args)?;
        filters::format(state, format, args)
    });
    env.add_filter("batch", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        meter::space(32_u64.saturating_mul(count as u64))?;
        filters::batch(state, value, count, fill)
    });
    env.add_filter("slice", |state: &State, value: Value, count: usize, fill: Option<Value>| {
        meter::space(64_u64.saturating_mul(count as u64))?;
        filters::slice(state, value, count, fill)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
    env
}

fn add_operators(env: &mut Environment) {
    env.add_function(guard::WALK, |value: Value| meter::walk(&value).map(|()| value));
    env.add_function(guard::COMPARE, |value: Value| meter::compare(&value).map(|()| value));
    env.add_function(guard::KEEP, |value: Value| meter::keep(&value).map(|()| value));
    env.add_function(guard::COLLECT, |value: Value| {
        meter::compare(&value)?;
        meter::keep(&value).map(|()| value)
    });
    env.add_function(guard::SLICE, slice);
    env.add_function(guard::ASSIGN, namespace::assign);
    env.add_function(guard::CONCATENATE, |a: &Value, b: &Value| Ok::<_, Error>(python::text(a)? + &python::text(b)?));
    env.add_function(guard::ADD, |state: &State, a: Value, b: Value| {
        if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
            meter::space((a.len() + b.len()) as u64)?;
            return Ok(Value::from([a, b].concat()));
        }
        meter::keep(&a)?;
        meter::keep(&b)?;
        arithmetic(state, "a + b", a, b)
    });
    env.add_function(guard::MULTIPLY, |state: &State, a: Value, b: Value| {
        let repeated = |value: &Value, times: &Value| {
            let times = times.as_i64().map_or(0, |times| times.max(0) as u64);
            meter::space(meter::shallow(value).saturating_mul(times))
        };
        repeated(&a, &b)?;
        repeated(&b, &a)?;
        arithmetic(state, "a * b", a, b)
    });
}

/// The crate's own operator.
fn arithmetic(state: &State, expression: &'static str, a: Value, b: Value) -> Result<Value, Error> {
    state.env().compile_expression(expression)?.eval(context! { a, b })
}

/// `value[start:stop:step]` by Python's rules; the crate's differ where it walks backwards.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    meter::keep(value)?;
    let wrong = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let bound = |given: &Value| match given.as_i64() {
        Some(at) => Ok(Some(at)),
        None if given.is_none() => Ok(None),
        None => Err(wrong(format!("a slice takes whole numbers, not a value of type {}", given.kind()))),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(wrong("a slice takes no step of 0".to_owned()));
    }
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(indices(chars.len(), start, stop, step).map(|i| chars[i]).collect::<String>()));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(wrong(format!("a value of type {} cannot be sliced", value.kind())));
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    Ok(indices(items.len(), start, stop, step).map(|i| items[i].clone()).collect())
}

/// Python's slice.indices. Requires: step is not 0.
fn indices(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let len = len as i64;
    let (low, high) = if step < 0 { (-1, len - 1) } else { (0, len) };
    let clamp = |at: i64| if at < 0 { at.saturating_add(len).max(low) } else { at.min(high) };
    let (first, last) = if step < 0 { (high, low) } else { (low, high) };
    let (start, stop) = (start.map_or(first, clamp), stop.map_or(last, clamp));
    let inside = move |at: &i64| if step < 0 { *at > stop } else { *at < stop };
    std::iter::successors(Some(start), move |at| at.checked_add(step)).take_while(inside).map(|at| at as usize)
}

/// transformers' tojson: json.dumps with ensure_ascii off and its keyword arguments.
fn tojson(value: &Value, args: Rest<Value>) -> Result<String, Error> {
    let (ascii, indent, separators, sort, kwargs): (Option<bool>, Option<Value>, Option<Value>, Option<bool>, Kwargs) =
        from_args(&args)?;
    let named = |name: &str| if kwargs.has(name) { kwargs.get::<Value>(name).map(Some) } else { Ok(None) };
    let flag =
        |given: Option<bool>, name: &str| Ok::<_, Error>(given.unwrap_or(named(name)?.is_some_and(|v| v.is_true())));
    let indent = indent.or(named("indent")?).filter(|v| !v.is_none());
    let indent = indent.map(|v| v.as_i64().filter(|i| (0..=64).contains(i)));
    let Some(indent) = indent.map_or(Some(None), |i| i.map(|i| Some(i as usize))) else {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes an indent of 0 to 64"));
    };
    let item_separator = if indent.is_some() { "," } else { ", " };
    let mut style = JsonStyle {
        ensure_ascii: flag(ascii, "ensure_ascii")?,
        indent,
        item_separator: item_separator.to_owned(),
        key_separator: ": ".to_owned(),
        sort_keys: flag(sort, "sort_keys")?,
    };
    if let Some(pair) = separators.or(named("separators")?).filter(|v| !v.is_none()) {
        style.item_separator = python::text(&pair.get_item_by_index(0)?)?;
        style.key_separator = python::text(&pair.get_item_by_index(1)?)?;
    }
    kwargs.assert_all_used()?;
    python::json(value, &style)
}

fn join(items: &Value, joiner: &str) -> Result<String, Error> {
    let mut out = Paper::default();
    for (i, item) in items.try_iter()?.enumerate() {
        if i > 0 {
            out.push(joiner)?;
        }
        out.push(&python::text(&item)?)?;
    }
    Ok(out.text)
}

fn replace_filter(value: &Value, from: &str, to: &str) -> Result<String, Error> {
    replace(&python::text(value)?, from, to, None)
}

fn replace(text: &str, from: &str, to: &str, count: Option<usize>) -> Result<String, Error> {
    let found = text.matches(from).count().min(count.unwrap_or(usize::MAX));
    meter::space((text.len() as u64).saturating_add((found as u64).saturating_mul(to.len() as u64)))?;
    Ok(count.map_or_else(|| text.replace(from, to), |count| text.replacen(from, to, count)))
}

fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = match width.or(kwargs.get("width")?) {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(spaces @ 0..=1000)) => " ".repeat(spaces as usize),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "indent takes a text or a width of 0 to 1000")),
        },
    };
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut out = Paper::default();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push("\n")?;
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push(&width)?;
        }
        out.push(line)?;
    }
    Ok(out.text)
}

/// An upper bound: every directive prints the longest argument, every number is a width.
fn format_cost(format: &str, args: &[Value]) -> Result<(), Error> {
    let mut longest = 0;
    let mut widths = 0_u64;
    for arg in args {
        longest = longest.max(python::text(arg)?.len() as u64);
        widths = widths.saturating_add(arg.as_i64().map_or(0, i64::unsigned_abs));
    }
    let literal = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let literal = literal.fold(0_u64, |sum, digits| sum.saturating_add(digits.parse().unwrap_or(u64::MAX)));
    let indirect = format.contains('*') || format.contains(":{");
    let directives = format.matches(['%', '{']).count() as u64;
    let printed = directives.saturating_mul(longest.saturating_add(if indirect { widths } else { 0 }));
    meter::space(printed.saturating_add(literal).saturating_add(format.len() as u64))
}

/// What a part of a split text costs, in bytes: there may be one for every second byte.
const PART: u64 = 16;

/// Python's methods of strings, lists and maps.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    meter::keep(value)?;
    match (value.as_str(), name) {
        (Some(text), "replace") => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace(text, from, to, count.and_then(|count| usize::try_from(count).ok())).map(Value::from)
        }
        (Some(text), "join") => {
            let (items,): (&Value,) = from_args(args)?;
            join(items, text).map(Value::from)
        }
        (Some(text), "format") => {
            format_cost(text, args)?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        (Some(text), "split" | "splitlines") => {
            meter::space(PART.saturating_mul(text.len() as u64))?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        // The crate's never ends for an empty text.
        (Some(text), "count") => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.matches(what).count()))
        }
        (None, "count") => {
            meter::compare(value)?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The local time as C's strftime writes it.
fn strftime_now(format: &str) -> Result<String, Error> {
    let bad = || Error::new(ErrorKind::InvalidOperation, "strftime_now takes a format of 1 to 200 bytes");
    let format =
        std::ffi::CString::new(format).ok().filter(|f| (1..=200).contains(&f.as_bytes().len())).ok_or_else(bad)?;
    let mut out = vec![0_u8; 8192];
    // SAFETY: localtime_r and strftime write only to `local` and to the bytes of `out` they are given.
    let written = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() {
            return Err(Error::new(ErrorKind::InvalidOperation, "the system has no local time"));
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &local)
    };
    out.truncate(written);
    String::from_utf8(out).map_err(|_| bad())
}
