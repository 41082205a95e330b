//! What single keywords of a JSON schema, or their negations, allow; see schema_expand.
//! Source: JSON Schema 2020-12, Validation; for older drafts theirs.

use crate::schema_forms::Union;
use crate::schema_forms::{
    of_type, Array, Claim, Contains, Elements, Form, Keys, Members, Number, Object, Seers, Text,
};
use crate::schema_numbers::check_small;
use crate::schema_text;
use referencing::Draft;
use serde_json::{Map, Value};
use std::rc::Rc;

pub static FALSE: Value = Value::Bool(false);

pub type Expanded<'r> = Result<Union<'r>, String>;
pub type Words<'r> = &'r Map<String, Value>;

pub fn words<'r>(value: &'r Value, keyword: &str) -> Result<Words<'r>, String> {
    value.as_object().ok_or_else(|| format!("{keyword:?} in it is not an object"))
}

pub fn list<'r>(value: &'r Value, keyword: &str) -> Result<&'r Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{keyword:?} in it is not an array"))
}

pub fn text<'r>(value: &'r Value, keyword: &str) -> Result<&'r str, String> {
    value.as_str().ok_or_else(|| format!("{keyword:?} in it is not a string"))
}

pub fn count(value: &Value, keyword: &str) -> Result<usize, String> {
    let whole = value.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 1e15);
    whole.map(|n| n as usize).ok_or_else(|| format!("{keyword:?} in it is not a whole number"))
}

/// From which number on, and up to which, a keyword that bounds one ("min...", "max..."), or its negation, allows;
/// None: it allows none.
pub fn bounds(keyword: &str, value: &Value, holds: bool) -> Result<Option<(usize, Option<usize>)>, String> {
    let n = count(value, keyword)?;
    Ok(match (keyword.starts_with("min"), holds) {
        (true, true) => Some((n, None)),
        (false, true) => Some((0, Some(n))),
        (false, false) => Some((n + 1, None)),
        (true, false) => n.checked_sub(1).map(|most| (0, Some(most))),
    })
}

pub fn names(value: &Value, keyword: &str) -> Result<Vec<String>, String> {
    list(value, keyword)?.iter().map(|name| text(name, keyword).map(str::to_string)).collect()
}

pub fn nothing_of<'r>(claim: &Claim<'r>) -> Claim<'r> {
    Claim { node: &FALSE, constant: false, holds: true, ..claim.clone() }
}

pub fn unseen() -> Seers {
    Rc::new([])
}

pub fn with(seers: &Seers, more: u32) -> Seers {
    seers.iter().copied().chain([more]).collect()
}

/// An object with the member, or without it where it may be anything but what it is.
pub fn member_is<'r>(name: &str, claim: Claim<'r>, required: bool) -> Form<'r> {
    let member = Members { keys: Keys::Name(name.to_string()), claim: Some(claim), seers: Rc::new([]) };
    let required = if required { vec![name.to_string()] } else { Vec::new() };
    Form::Object(Object { members: vec![member], required, ..Object::default() })
}

pub fn one_element<'r>(i: usize, claim: Claim<'r>, seers: &Seers) -> Form<'r> {
    let element = Elements { from: i, to: Some(i + 1), claim: Some(claim), seers: seers.clone() };
    Form::Array(Array { elements: vec![element], least: i + 1, ..Array::default() })
}

pub fn types<'r>(value: &Value, holds: bool) -> Expanded<'r> {
    let names = if value.is_array() { names(value, "type")? } else { vec![text(value, "type")?.to_string()] };
    if let Some(name) = names.iter().find(|name| of_type(name).is_empty()) {
        return Err(format!("{name:?} in it is no type"));
    }
    let is = |type_name: &str| names.iter().any(|name| name == type_name);
    if holds {
        let redundant = |name: &&String| *name == "integer" && is("number");
        return Ok(names.iter().filter(|name| !redundant(name)).flat_map(|name| of_type(name)).collect());
    }
    let rest = ["null", "boolean", "string", "array", "object"].iter().filter(|name| !is(name));
    let mut union: Union = rest.flat_map(|name| of_type(name)).collect();
    if !is("number") {
        let whole = is("integer").then_some(false);
        union.push(Form::Number(Number { whole, ..Number::default() }));
    }
    Ok(union)
}

/// A negation of none of these is a form; of a keyword of other types there is none.
pub fn number<'r>(
    keyword: &str,
    value: &Value,
    schema: Words<'r>,
    holds: bool,
) -> Result<Option<Vec<Form<'r>>>, String> {
    if !["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"].contains(&keyword) {
        return Ok(None);
    }
    let is_low = keyword.ends_with("inimum");
    let (mut bound, mut excluded) = (value, keyword.starts_with("exclusive"));
    if let Value::Bool(flag) = value {
        // Draft 4: a flag of the other keyword.
        match schema.get(if is_low { "minimum" } else { "maximum" }) {
            Some(other) if *flag => (bound, excluded) = (other, true),
            _ => return Ok(Some(Vec::new())),
        }
    }
    let Value::Number(n) = bound else { return Err(format!("{keyword:?} in it is not a number")) };
    check_small(n)?;
    let form = match (keyword, holds) {
        ("multipleOf", true) => Number { multiples: vec![n.clone()], ..Number::default() },
        ("multipleOf", false) => return Ok(Some(Vec::new())),
        _ if is_low == holds => Number { least: Some((n.clone(), excluded == holds)), ..Number::default() },
        _ => Number { most: Some((n.clone(), excluded == holds)), ..Number::default() },
    };
    Ok(Some(vec![Form::Number(form)]))
}

pub fn string<'r>(keyword: &str, value: &Value, holds: bool) -> Result<Option<Vec<Form<'r>>>, String> {
    let form = match (keyword, holds) {
        ("minLength" | "maxLength", _) => match bounds(keyword, value, holds)? {
            Some((least, most)) => Text { least: least as u64, most: most.map(|most| most as u64), ..Text::default() },
            None => return Ok(Some(Vec::new())),
        },
        ("pattern", true) => Text { patterns: vec![text(value, keyword)?.to_string()], ..Text::default() },
        ("pattern", false) => Text { not_patterns: vec![text(value, keyword)?.to_string()], ..Text::default() },
        ("format", true) => match schema_text::format(text(value, keyword)?) {
            Some(form) => form,
            None => return Ok(Some(Vec::new())),
        },
        ("format", false) => return Ok(Some(Vec::new())),
        _ => return Ok(None),
    };
    Ok(Some(vec![Form::Text(form)]))
}

pub fn array<'r>(
    keyword: &str,
    value: &'r Value,
    schema: Words<'r>,
    claim: &Claim<'r>,
    seers: &Seers,
    own: u32,
) -> Result<Option<Vec<Form<'r>>>, String> {
    let sub = |node: &'r Value| Claim { node, constant: false, ..claim.clone() };
    let of = |array: Array<'r>| vec![Form::Array(array)];
    let holds = claim.holds;
    let elements = |from, to, node| Elements { from, to, claim: Some(sub(node)), seers: seers.clone() };
    let sizes = |word: &str| schema.get(word).and_then(Value::as_array).map(Vec::len);
    let from = |start: usize, node: &'r Value| {
        if holds {
            of(Array { elements: vec![elements(start, None, node)], ..Array::default() })
        } else {
            let contains = Contains { from: start, claim: sub(node), least: 1, most: None, seers: Rc::new([]) };
            of(Array { contains: vec![contains], ..Array::default() })
        }
    };
    Ok(Some(match keyword {
        "prefixItems" if claim.draft < Draft::Draft202012 => return Ok(None),
        "items" if !value.is_array() => {
            let start = sizes("prefixItems").filter(|_| claim.draft >= Draft::Draft202012);
            from(start.unwrap_or(0), value)
        }
        "items" | "prefixItems" => {
            let each = list(value, keyword)?.iter().enumerate();
            if holds {
                let elements = each.map(|(i, node)| elements(i, Some(i + 1), node)).collect();
                of(Array { elements, ..Array::default() })
            } else {
                each.map(|(i, node)| one_element(i, sub(node), seers)).collect()
            }
        }
        "additionalItems" => match sizes("items") {
            Some(start) => from(start, value),
            None => Vec::new(),
        },
        "unevaluatedItems" if holds => {
            let all = Elements { from: 0, to: None, claim: None, seers: seers.clone() };
            of(Array { elements: vec![all], unevaluated: vec![(sub(value), own)], ..Array::default() })
        }
        "unevaluatedItems" => Vec::new(),
        "contains" => {
            let told = |word: &str| schema.get(word).filter(|_| claim.draft >= Draft::Draft201909);
            let bound = |word: &str| told(word).map(|value| count(value, word)).transpose();
            let (least, most) = (bound("minContains")?.unwrap_or(1), bound("maxContains")?);
            let claim = Claim { holds: true, ..sub(value) };
            let times = |least, most| {
                Form::Array(Array {
                    contains: vec![Contains { from: 0, claim: claim.clone(), least, most, seers: seers.clone() }],
                    ..Array::default()
                })
            };
            match holds {
                true => vec![times(least, most)],
                false => {
                    let fewer = least.checked_sub(1).map(|most| times(0, Some(most)));
                    fewer.into_iter().chain(most.map(|most| times(most + 1, None))).collect()
                }
            }
        }
        "minItems" | "maxItems" => {
            let within = bounds(keyword, value, holds)?;
            within.map_or(Vec::new(), |(least, most)| of(Array { least, most, ..Array::default() }))
        }
        "uniqueItems" if holds => of(Array { unique: value == &Value::Bool(true), ..Array::default() }),
        "uniqueItems" => Vec::new(),
        _ => return Ok(None),
    }))
}
