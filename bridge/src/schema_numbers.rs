//! Numbers of a JSON schema that a double does not tell apart from their neighbours: what is computed with them, here and
//! in llguidance, is computed in doubles.

use serde_json::{Map, Number, Value};

/// From here on a number and its successor may be one double.
const LARGEST: f64 = 9_007_199_254_740_992.0;
/// Say nothing of what is valid.
const NOTES: [&str; 4] = ["default", "example", "examples", "x-guidance"];

fn is_small(n: &Number) -> bool {
    n.as_f64().is_some_and(|n| n.abs() < LARGEST)
}

fn is_double(n: &Number) -> bool {
    let whole = n.as_i64().map(i128::from).or(n.as_u64().map(i128::from));
    whole.is_none_or(|whole| whole as f64 as i128 == whole)
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

/// Of all in a schema that llguidance compiles as it is. Errors: one would be taken for another.
pub fn check_all(schema: &Value) -> Result<(), String> {
    match schema {
        Value::Number(n) if !is_double(n) => Err(too_large(n)),
        Value::Array(elements) => elements.iter().try_for_each(check_all),
        Value::Object(members) => {
            let mut said = members.iter().filter(|(keyword, _)| !NOTES.contains(&keyword.as_str()));
            said.try_for_each(|(keyword, value)| match value {
                Value::Number(n) if is_excluded(keyword, members) => check_small(n),
                Value::Number(n) if is_beyond(keyword, n) => Err(too_large(n)),
                // Whole numbers end at 64 bits in llguidance.
                Value::Number(n) if keyword == "maximum" && is_whole(members) && is_last(n) => Ok(()),
                value => check_all(value),
            })
        }
        _ => Ok(()),
    }
}

fn is_last(n: &Number) -> bool {
    n.as_u64().is_some_and(|n| n >= i64::MAX as u64)
}

/// No number of 64 bits is within the bound.
fn is_beyond(keyword: &str, n: &Number) -> bool {
    let end = i64::MAX as f64;
    let bound = n.as_f64().unwrap_or(f64::INFINITY);
    (keyword == "minimum" && bound >= end) || (keyword == "maximum" && bound < -end)
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
