//! What llguidance reads too widely, in words that it reads exactly. Its dates let a February have 29 days in any year; of
//! two bounds with one whole number before the point, as 1 and 1.5, it lets the whole one be reached though it is excluded.
//! Source of dates: RFC 3339, 5.6. Years begin at 1, seconds end at 59, fractions of them at nine digits: more is not read
//! everywhere.

use crate::schema_places::each_within;
use referencing::Draft;
use serde_json::{json, Map, Value};

const YEAR: &str = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})";
const LEAP: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
const DAY: &str = "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
const TIME: &str =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:[Zz]|[+\\-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

fn pattern(format: &str) -> Option<String> {
    let date = format!("(?:{YEAR}-{DAY}|{LEAP}-02-29)");
    match format {
        "date" => Some(format!("^{date}$")),
        "time" => Some(format!("^{TIME}$")),
        "date-time" => Some(format!("^{date}[Tt]{TIME}$")),
        _ => None,
    }
}

/// Requires: no bounds from several places meet, see meets_bounds().
pub fn mended(schema: &mut Value, draft: Draft) {
    let draft = draft.detect(schema).unwrap_or(draft);
    let Value::Object(members) = schema else { return };
    mend_format(members);
    mend_bounds(members);
    // None of them is an error.
    let _ = each_within(members, draft, &mut |schema, _| {
        mended(schema, draft);
        Ok(())
    });
}

fn mend_format(members: &mut Map<String, Value>) {
    let Some(pattern) = members.get("format").and_then(Value::as_str).and_then(pattern) else { return };
    members.remove("format");
    let Some(own) = members.insert("pattern".into(), json!(pattern)) else { return };
    let all = members.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(all) = all {
        all.push(json!({"pattern": own}));
    }
}

/// The excluded bound moves by a part of what is between the two, so that it may be included.
fn mend_bounds(members: &mut Map<String, Value>) {
    let Some((low, low_excluded)) = bound(members, "minimum", "exclusiveMinimum", f64::max) else { return };
    let Some((high, high_excluded)) = bound(members, "maximum", "exclusiveMaximum", f64::min) else { return };
    if low.trunc() != high.trunc() || low >= high {
        return;
    }
    let between = (high - low) / 1024.0;
    if low_excluded && low.fract() == 0.0 {
        members.remove("exclusiveMinimum");
        members.insert("minimum".into(), json!(low + between));
    } else if high_excluded && high.fract() == 0.0 {
        members.remove("exclusiveMaximum");
        members.insert("maximum".into(), json!(high - between));
    }
}

fn bound(
    members: &Map<String, Value>,
    word: &str,
    excluding: &str,
    tighter: fn(f64, f64) -> f64,
) -> Option<(f64, bool)> {
    let included = members.get(word).and_then(Value::as_f64);
    // In draft 4 a flag.
    let excluded = match members.get(excluding) {
        Some(Value::Bool(flag)) => included.filter(|_| *flag),
        other => other.and_then(Value::as_f64),
    };
    match (included, excluded) {
        (Some(a), Some(b)) => Some((tighter(a, b), tighter(a, b) == b)),
        (a, b) => a.map(|a| (a, false)).or(b.map(|b| (b, true))),
    }
}

/// Whether a bound may be excluded by one schema and another bound be given by one beside it.
pub fn meets_bounds(schema: &Value) -> bool {
    let (mut excludes, mut joins) = (false, false);
    look(schema, &mut excludes, &mut joins);
    excludes && joins
}

fn look(value: &Value, excludes: &mut bool, joins: &mut bool) {
    match value {
        Value::Object(members) => {
            let has = |words: &[&str]| words.iter().any(|word| members.contains_key(*word));
            let bounded = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
            *excludes |= has(&bounded[2..]);
            *joins |= has(&["allOf"]) || (has(&bounded) && has(&["$ref", "anyOf", "oneOf"]));
            members.values().for_each(|each| look(each, excludes, joins));
        }
        Value::Array(all) => all.iter().for_each(|each| look(each, excludes, joins)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::pattern;

    fn is_leap(year: u32) -> bool {
        year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    }

    #[test]
    fn there_are_the_days_of_the_calendar() {
        let date = regex::Regex::new(&pattern("date").unwrap()).unwrap();
        for year in 1..=9999 {
            assert_eq!(date.is_match(&format!("{year:04}-02-29")), is_leap(year), "{year}");
            assert!(date.is_match(&format!("{year:04}-02-28")), "{year}");
        }
        let days = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for month in 0..=13_usize {
            for day in 0..=33 {
                let there = (1..=12).contains(&month) && (1..=days[month - 1]).contains(&day);
                assert_eq!(date.is_match(&format!("2023-{month:02}-{day:02}")), there, "{month} {day}");
            }
        }
        assert!(!date.is_match("0000-02-28"));
    }

    #[test]
    fn times_have_a_zone() {
        let time = regex::Regex::new(&pattern("date-time").unwrap()).unwrap();
        for good in ["2024-02-29T23:59:59Z", "2024-02-29t00:00:00.123456789+23:59", "2023-01-01T10:10:10-05:30"] {
            assert!(time.is_match(good), "{good}");
        }
        for bad in ["2023-02-29T23:59:59Z", "2024-02-29T24:00:00Z", "2024-02-29T23:59:59", "2024-02-29T23:59:60Z"] {
            assert!(!time.is_match(bad), "{bad}");
        }
    }
}
