//! What the identifiers and references of a JSON schema mean where programs differ, settled before anything follows them.
//! Source: JSON Schema 2020-12, Core, 8.2; for older drafts theirs.

use crate::schema_places::each_within;
use referencing::{uri, Draft, Uri};
use serde_json::{Map, Value};
use std::collections::HashSet;

const ROOT: &str = "json-schema:///";
/// Without what does not count beside "$ref" up to draft 7: no keyword does, and no identifier in it. Definitions stay.
/// Errors: two schemas with one identifier, of which it cannot be told which is meant.
pub fn settle(schema: &mut Value) -> Result<(), String> {
    let base = Uri::parse(ROOT.to_string()).map_err(|e| e.to_string())?;
    Settling { seen: HashSet::new() }.schema(schema, Draft::default(), &base)
}

struct Settling {
    seen: HashSet<String>,
}

impl Settling {
    fn schema(&mut self, schema: &mut Value, draft: Draft, base: &Uri<String>) -> Result<(), String> {
        let draft = draft.detect(schema).unwrap_or(draft);
        let Value::Object(members) = schema else { return Ok(()) };
        if draft <= Draft::Draft7 && members.get("$ref").is_some_and(Value::is_string) {
            let stays = |keyword: &str| matches!(keyword, "$ref" | "$schema" | "definitions" | "$defs");
            members.retain(|keyword, _| stays(keyword) || !draft.is_known_keyword(keyword));
        }
        let base = self.identify(members, draft, base)?;
        each_within(members, draft, &mut |schema, _| self.schema(schema, draft, &base))
    }

    /// What references in the schema are relative to.
    fn identify(
        &mut self,
        schema: &Map<String, Value>,
        draft: Draft,
        base: &Uri<String>,
    ) -> Result<Uri<String>, String> {
        let word = if draft == Draft::Draft4 { "id" } else { "$id" };
        let mut base = base.clone();
        if let Some(id) = schema.get(word).and_then(Value::as_str) {
            let own = uri::resolve_against(&base.borrow(), id)
                .map_err(|_| format!("its {word:?} {id:?} is no address; write a URI, or leave it out"))?;
            self.once(own.as_str().trim_end_matches('#').to_string())?;
            if !id.starts_with('#') {
                base = own;
            }
        }
        let anchors: HashSet<_> =
            ["$anchor", "$dynamicAnchor"].iter().filter_map(|word| schema.get(*word)?.as_str()).collect();
        for anchor in anchors.into_iter().filter(|_| draft >= Draft::Draft201909) {
            self.once(format!("{}#{anchor}", base.as_str().trim_end_matches('#')))?;
        }
        Ok(base)
    }

    fn once(&mut self, identifier: String) -> Result<(), String> {
        let shown = identifier.strip_prefix(ROOT).unwrap_or(&identifier).to_string();
        if self.seen.insert(identifier) {
            return Ok(());
        }
        Err(format!("two schemas in it have the identifier {shown:?}; give each its own"))
    }
}

/// Whether a schema below the first one has an address of its own, to which its references are relative.
pub fn has_addresses_inside(schema: &Value) -> bool {
    let word = match Draft::default().detect(schema) {
        Ok(Draft::Draft4) => "id",
        _ => "$id",
    };
    inside(schema).any(|each| addressed(each, word))
}

fn inside(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Object(members) => Box::new(members.values()),
        Value::Array(elements) => Box::new(elements.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

fn addressed(value: &Value, word: &str) -> bool {
    // A schema of another draft has another word.
    let other = value.get("$schema").is_some() && value.get("id").is_some_and(Value::is_string);
    other || value.get(word).is_some_and(Value::is_string) || inside(value).any(|each| addressed(each, word))
}
