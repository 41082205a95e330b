//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use super::meter::{too_deep, Paper, DEEPEST};
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use regex::Regex;
use std::sync::OnceLock;

/// `str(value)`; nothing for an undefined one.
pub fn text(value: &Value) -> Result<String, Error> {
    let mut out = Paper::default();
    match value.as_str() {
        Some(text) => out.push(text)?,
        None if value.is_undefined() => {}
        None => repr(&mut out, value, DEEPEST)?,
    }
    Ok(out.text)
}

fn repr(out: &mut Paper, value: &Value, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => out.push(&quoted(value.as_str().unwrap_or(""))),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.push("None"),
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::Number => out.push(&number(value)),
        ValueKind::Map => items(out, value, depth, ["{", ", ", "}"], |out, key, item, depth| {
            repr(out, key, depth)?;
            out.push(": ")?;
            repr(out, item, depth)
        }),
        ValueKind::Seq | ValueKind::Iterable => {
            items(out, value, depth, ["[", ", ", "]"], |out, item, _, depth| repr(out, item, depth))
        }
        _ => out.push(&value.to_string()),
    }
}

type Item<'f> = &'f mut dyn FnMut(&mut Paper, &Value, &Value, usize) -> Result<(), Error>;

/// Brackets, separators and the items between: (key, value) of a map, (item, item) otherwise.
fn items(
    out: &mut Paper,
    value: &Value,
    depth: usize,
    [open, separator, close]: [&str; 3],
    mut item: impl FnMut(&mut Paper, &Value, &Value, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    if depth == 0 {
        return Err(too_deep());
    }
    let item: Item = &mut item;
    out.push(open)?;
    for (i, key) in value.try_iter()?.enumerate() {
        if i > 0 {
            out.push(separator)?;
        }
        if value.kind() == ValueKind::Map {
            item(out, &key, &value.get_item(&key)?, depth - 1)?;
        } else {
            item(out, &key, &key, depth - 1)?;
        }
    }
    out.push(close)
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Python's `repr(float)`: shortest digits, an exponent below 1e-4 and from 1e16.
fn float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

fn quoted(text: &str) -> String {
    static UNPRINTABLE: OnceLock<Regex> = OnceLock::new();
    let unprintable = UNPRINTABLE.get_or_init(|| Regex::new(r"^[\p{C}\p{Z}&&[^ ]]$").expect("a constant pattern"));
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if unprintable.is_match(c.encode_utf8(&mut [0; 4])) => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// The keyword arguments of `json.dumps` that templates use.
pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

pub fn json(value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut out = Paper::default();
    json_into(&mut out, value, style, 0)?;
    Ok(out.text)
}

fn json_into(out: &mut Paper, value: &Value, style: &JsonStyle, level: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => json_string(out, value.as_str().unwrap_or(""), style),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::None => out.push("null"),
        ValueKind::Number => out.push(match number(value).as_str() {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            plain => plain,
        }),
        ValueKind::Map => json_map(out, value, style, level),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            json_block(out, ['[', ']'], &items, style, level, |out, item| json_into(out, item, style, level + 1))
        }
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("a value of type {kind} has no JSON form"))),
    }
}

fn json_map(out: &mut Paper, value: &Value, style: &JsonStyle, level: usize) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    json_block(out, ['{', '}'], &keys, style, level, |out, key| {
        let name = match key.kind() {
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
            ValueKind::None => "null".to_owned(),
            _ => key.as_str().map_or_else(|| number(key), str::to_owned),
        };
        json_string(out, &name, style)?;
        out.push(&style.key_separator)?;
        json_into(out, &value.get_item(key)?, style, level + 1)
    })
}

fn json_block(
    out: &mut Paper,
    [open, close]: [char; 2],
    items: &[Value],
    style: &JsonStyle,
    level: usize,
    mut write: impl FnMut(&mut Paper, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    if level >= DEEPEST {
        return Err(too_deep());
    }
    let line = |out: &mut Paper, level: usize| match style.indent {
        Some(indent) if !items.is_empty() => out.push(&format!("\n{}", " ".repeat(indent * level))),
        _ => Ok(()),
    };
    out.push(open.encode_utf8(&mut [0; 4]))?;
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(&style.item_separator)?;
        }
        line(out, level + 1)?;
        write(out, item)?;
    }
    line(out, level)?;
    out.push(close.encode_utf8(&mut [0; 4]))
}

fn json_string(out: &mut Paper, text: &str, style: &JsonStyle) -> Result<(), Error> {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c < ' ' || (style.ensure_ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    quoted.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    out.push(&quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (-0.0, "-0.0"),
            (123456.75, "123456.75"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn strings_are_quoted_as_in_python() {
        for (text, expected) in
            [("a", "'a'"), ("it's", "\"it's\""), ("'\"", "'\\'\"'"), ("\u{1}\u{a0}é\u{2028}", "'\\x01\\xa0é\\u2028'")]
        {
            assert_eq!(quoted(text), expected);
        }
    }
}
