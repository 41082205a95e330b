//! Numbers of a JSON schema that a double does not tell apart from their neighbours: what is computed with them, here and
//! in llguidance, is computed in doubles.

use crate::schema_places::{is_known, BY_NAME};
use referencing::Draft;
use serde_json::{Map, Number, Value};

/// From here on a number and its successor may be one double.
const LARGEST: f64 = 9_007_199_254_740_992.0;
/// Say nothing of what is valid.
const NOTES: [&str; 4] = ["default", "example", "examples", "x-guidance"];

fn is_small(n: &Number) -> bool {
    n.as_f64().is_some_and(|n| n.abs() < LARGEST)
}

/// What was written with a point, an exponent or more than 64 bits is only known as a double.
fn is_exact(n: &Number) -> bool {
    let whole = n.as_i64().map(i64::unsigned_abs).or(n.as_u64());
    whole.map_or(is_small(n), |whole| whole <= LARGEST as u64)
}

fn too_large(n: &Number) -> String {
    format!("{n} in it is too large to be told from the next number; keep below 2^53")
}

/// Of those that are computed with. Errors: it is too large.
pub fn check_small(n: &Number) -> Result<(), String> {
    if is_small(n) {
        Ok(())
    } else {
        Err(too_large(n))
    }
}

/// Of all that a schema speaks of. Errors: one would be taken for another.
pub fn check_all(schema: &Value) -> Result<(), String> {
    look(schema, true)
}

/// notes: some members are notes. What an unknown keyword keeps may be schemas by name, one of them named like a note.
fn look(schema: &Value, notes: bool) -> Result<(), String> {
    match schema {
        Value::Array(elements) => elements.iter().try_for_each(|each| look(each, notes)),
        Value::Object(members) => members.iter().try_for_each(|(keyword, value)| match (keyword.as_str(), value) {
            (word, _) if notes && NOTES.contains(&word) => Ok(()),
            ("const" | "enum", _) => check_constant(value),
            (_, Value::Number(n)) => check_bound(keyword, n, members),
            (word, Value::Object(all)) if BY_NAME.contains(&word) => {
                all.values().try_for_each(|each| look(each, notes))
            }
            (word, _) => look(value, notes && is_known(word, Draft::default())),
        }),
        _ => Ok(()),
    }
}

fn check_constant(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(n) if !is_exact(n) => Err(too_large(n)),
        Value::Array(elements) => elements.iter().try_for_each(check_constant),
        Value::Object(members) => members.values().try_for_each(check_constant),
        _ => Ok(()),
    }
}

fn check_bound(keyword: &str, n: &Number, schema: &Map<String, Value>) -> Result<(), String> {
    match keyword {
        word if is_excluded(word, schema) => check_small(n),
        // Whole numbers end at 64 bits in llguidance.
        "maximum" if is_whole(schema) && is_last(n) => Ok(()),
        "minimum" | "maximum" | "multipleOf" if !is_exact(n) => Err(too_large(n)),
        _ => Ok(()),
    }
}

fn is_last(n: &Number) -> bool {
    n.as_u64().map_or(n.as_f64().is_some_and(|n| n >= i64::MAX as f64), |n| n >= i64::MAX as u64)
}

fn is_whole(schema: &Map<String, Value>) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("integer")
}

/// Draft 4: by a flag beside it.
fn is_excluded(keyword: &str, schema: &Map<String, Value>) -> bool {
    let flag = |word: &str| schema.get(word) == Some(&Value::Bool(true));
    match keyword {
        "exclusiveMinimum" | "exclusiveMaximum" => true,
        "minimum" => flag("exclusiveMinimum"),
        "maximum" => flag("exclusiveMaximum"),
        _ => false,
    }
}
