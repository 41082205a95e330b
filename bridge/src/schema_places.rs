//! Where schemas stand in a JSON schema.

use referencing::Draft;
use serde_json::{Map, Value};
use std::fmt;

const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "items", "prefixItems"];
pub const BY_NAME: [&str; 6] =
    ["$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies"];
const SINGLE: [&str; 12] = [
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];

/// Of the schemas right within one: the keyword, and what of it.
pub struct Within<'p> {
    keyword: &'p str,
    part: Option<String>,
}

/// A JSON pointer, as a fragment of the document.
#[derive(Clone)]
pub struct Place(String);

impl Place {
    pub fn root() -> Self {
        Place("#".into())
    }

    pub fn to(&self, name: &str) -> Self {
        Place(format!("{}/{}", self.0, name.replace('~', "~0").replace('/', "~1")))
    }

    pub fn within(&self, within: &Within) -> Self {
        let keyword = self.to(within.keyword);
        within.part.as_ref().map_or(keyword.clone(), |part| keyword.to(part))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        if self.0 == "#" {
            return formatter.write_str("it");
        }
        formatter.write_str(&self.0)
    }
}

/// Whether it says something in the draft, or keeps schemas that references lead to.
pub fn is_known(keyword: &str, draft: Draft) -> bool {
    draft.is_known_keyword(keyword) || ["$defs", "definitions", "contentSchema"].contains(&keyword)
}

/// Of keywords that are known.
pub fn each_within(
    schema: &mut Map<String, Value>,
    draft: Draft,
    visit: &mut impl FnMut(&mut Value, &Within) -> Result<(), String>,
) -> Result<(), String> {
    for (keyword, value) in schema.iter_mut().filter(|(keyword, _)| is_known(keyword, draft)) {
        let keyword = keyword.as_str();
        match value {
            Value::Array(all) if LISTS.contains(&keyword) => {
                for (i, each) in all.iter_mut().enumerate() {
                    visit(each, &Within { keyword, part: Some(i.to_string()) })?;
                }
            }
            Value::Object(all) if BY_NAME.contains(&keyword) => {
                // Of "dependencies" some are lists of names.
                for (name, each) in all.iter_mut().filter(|(_, each)| keyword != "dependencies" || !each.is_array()) {
                    visit(each, &Within { keyword, part: Some(name.clone()) })?;
                }
            }
            each if SINGLE.contains(&keyword) => visit(each, &Within { keyword, part: None })?,
            _ => {}
        }
    }
    Ok(())
}
