//! A JSON schema before anything is made of it: what each keyword says must be of the keyword's kind, and patterns become
//! Rust's. Errors name the place as a JSON pointer.
//! Source: the meta-schemas of the drafts 4 to 2020-12.

use crate::ecma_pattern::translated;
use crate::pattern_check::{check, MOST_PLACES};
use crate::schema_places::{each_within, is_known, Place};
use referencing::Draft;
use serde_json::{Map, Value};

const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];
/// What is in them is no schema, wherever they stand.
const CONSTANTS: [&str; 5] = ["enum", "const", "default", "example", "examples"];

/// longest: of a pattern once it is Rust's, in bytes.
pub fn checked(schema: &mut Value, longest: usize) -> Result<(), String> {
    Checking { longest }.schema(schema, Draft::default(), &Place::root())
}

struct Checking {
    longest: usize,
}

impl Checking {
    fn schema(&self, schema: &mut Value, mut draft: Draft, place: &Place) -> Result<(), String> {
        if let Some(said) = schema.get("$schema") {
            draft = draft.detect(schema).map_err(|_| {
                let place = place.to("$schema");
                format!("{place} is {said}, and must be the address of one of the drafts 4, 6, 7, 2019-09 and 2020-12")
            })?;
        }
        if schema.is_boolean() {
            return Ok(());
        }
        let Value::Object(members) = schema else {
            return Err(format!("{place} must be a schema: an object, true or false"));
        };
        for (keyword, value) in members.iter_mut() {
            let keyword = keyword.as_str();
            if CONSTANTS.contains(&keyword) && keyword != "enum" {
                continue;
            }
            if !is_known(keyword, draft) {
                // A reference may lead into it all the same.
                self.beyond(value);
                continue;
            }
            if let Some(wanted) = must_be(keyword, value) {
                return Err(format!("{} must be {wanted}", place.to(keyword)));
            }
            if keyword == "pattern" {
                self.pattern(value).map_err(|wrong| format!("{} cannot be used: {wrong}", place.to(keyword)))?;
            }
        }
        if let Some(Value::Object(patterns)) = members.get_mut("patternProperties") {
            self.names(patterns, &place.to("patternProperties"))?;
        }
        each_within(members, draft, &mut |schema, within| self.schema(schema, draft, &place.within(within)))
    }

    fn pattern(&self, pattern: &mut Value) -> Result<(), String> {
        if let Value::String(text) = pattern {
            *text = self.rust(text)?;
        }
        Ok(())
    }

    fn rust(&self, pattern: &str) -> Result<String, String> {
        let rust = translated(pattern)?;
        if rust.len() > self.longest {
            return Err(format!("it has {} bytes, and {} are the limit", rust.len(), self.longest));
        }
        check(&rust)?;
        Ok(rust)
    }

    fn names(&self, patterns: &mut Map<String, Value>, place: &Place) -> Result<(), String> {
        let old = std::mem::take(patterns);
        for (pattern, schema) in old {
            let mut rust =
                self.rust(&pattern).map_err(|wrong| format!("{} cannot be used: {wrong}", place.to(&pattern)))?;
            while patterns.contains_key(&rust) {
                rust = format!("(?:{rust})");
            }
            patterns.insert(rust, schema);
        }
        Ok(())
    }

    /// What may be schemas, if a reference says so. What cannot be used is made unusable, since it may never be used.
    fn beyond(&self, value: &mut Value) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(|each| self.beyond(each)),
            Value::Object(members) => {
                for (keyword, value) in members.iter_mut().filter(|(k, _)| !CONSTANTS.contains(&k.as_str())) {
                    if keyword == "pattern" && self.pattern(value).is_err() {
                        *value = Value::Null;
                    }
                    if keyword == "patternProperties" {
                        let patterns = value.as_object_mut();
                        if patterns.is_some_and(|patterns| self.names(patterns, &Place::root()).is_err()) {
                            *value = Value::Null;
                        }
                    }
                    self.beyond(value);
                }
            }
            _ => {}
        }
    }
}

/// What it must be, where it is not.
fn must_be(keyword: &str, value: &Value) -> Option<String> {
    let (right, wanted) = match keyword {
        "minimum" | "maximum" => (value.is_number(), "a number"),
        // In draft 4 a flag.
        "exclusiveMinimum" | "exclusiveMaximum" => (value.is_number() || value.is_boolean(), "a number"),
        "multipleOf" => return multiple(value),
        "minLength" => return length(value),
        "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minContains" | "maxContains" => {
            (count(value).is_some(), "a whole number that is not negative")
        }
        "pattern" | "format" | "$ref" | "$dynamicRef" => (value.is_string(), "a string"),
        "uniqueItems" => (value.is_boolean(), "true or false"),
        "enum" => (value.is_array(), "a list of values"),
        "required" => (value.is_boolean() || is_names(value), "a list of names"),
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => (value.is_array(), "a list of schemas"),
        "properties" | "patternProperties" | "dependentSchemas" | "dependencies" | "$defs" | "definitions" => {
            (value.is_object(), "an object of schemas")
        }
        "dependentRequired" => {
            let right = value.as_object().is_some_and(|members| members.values().all(is_names));
            (right, "an object of lists of names")
        }
        "type" => {
            let is_type = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
            let right = value.as_array().map_or_else(|| is_type(value), |all| all.iter().all(is_type));
            return (!right).then(|| format!("one of {}, or a list of them", TYPES.join(", ")));
        }
        _ => return None,
    };
    (!right).then(|| wanted.to_string())
}

fn is_names(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
}

fn count(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0)
}

fn length(value: &Value) -> Option<String> {
    match count(value) {
        None => Some("a whole number that is not negative".into()),
        Some(n) if n > MOST_PLACES as f64 => Some(format!("at most {MOST_PLACES}: longer texts cannot be followed")),
        Some(_) => None,
    }
}

/// Remainders are told digit by digit, in 32 bits.
fn multiple(value: &Value) -> Option<String> {
    let Some(n) = value.as_f64().filter(|n| *n > 0.0) else { return Some("a number above 0".into()) };
    let digits = (0..10).any(|digits| {
        let whole = n * 10_f64.powi(digits);
        whole.round() <= f64::from(u32::MAX) && (whole - whole.round()).abs() < 1e-9 * whole
    });
    (!digits).then(|| "a number of at most nine digits".into())
}
