//! A JSON schema in the words that llguidance has: types with bounds, alternatives of them, and references. What else a
//! schema says (`not`, `oneOf`, `if`, `contains`, `uniqueItems`, `unevaluatedProperties`, ...) is worked into those. Where
//! they cannot say it, what is written allows less. What the keywords say of a value is so never said too widely; numbers
//! that doubles do not tell apart are refused. Names of members are llguidance's: one that is written with escapes, or
//! twice, is to it another one.

use crate::grammar_errors::IMPOSSIBLE;
use crate::schema_expand::Expansion;
use crate::schema_forms::{any, less, Claim, Form, Goal, Number, Text};
use crate::schema_text::{self, Patterns};
use referencing::{Draft, Error, Registry};
use serde_json::{json, Map, Value};
use std::collections::{BTreeSet, HashMap};

const ROOT: &str = "json-schema:///";
const MOST_GOALS: usize = 3_000;
/// Of a number of values that stand in place of a set.
const MOST_VALUES: usize = 5_000;

/// Why a reference leads nowhere, as the end of a sentence.
pub fn unresolved(error: &Error) -> String {
    let shown = |uri: &str| uri.strip_prefix(ROOT).unwrap_or(uri).to_string();
    match error {
        Error::Unretrievable { uri, .. } => format!("{:?} would have to be fetched, and nothing is", shown(uri)),
        Error::NoSuchAnchor { anchor } | Error::InvalidAnchor { anchor } => format!("there is no anchor {anchor:?}"),
        Error::PointerToNowhere { pointer }
        | Error::InvalidPercentEncoding { pointer, .. }
        | Error::InvalidArrayIndex { pointer, .. } => format!("there is nothing at {pointer:?}"),
        Error::InvalidUri(_) => "it is no address".into(),
        Error::UnknownSpecification { specification } => format!("{specification:?} is no draft of JSON Schema"),
    }
}

/// Why a schema allows nothing. untold: what was told too narrowly, for which alone it may be so.
pub fn none_found(untold: Option<&str>) -> String {
    untold.map_or(IMPOSSIBLE.into(), |what| {
        format!("no value is found that is valid by it: what {what} allows cannot be told in full; say what is valid in other words")
    })
}

pub struct Rewritten {
    pub schema: Value,
    /// What is told too narrowly, if something is.
    pub untold: Option<String>,
}

pub fn rewritten(schema: &Value) -> Result<Rewritten, String> {
    let draft = Draft::default().detect(schema).map_err(|e| unresolved(&e))?;
    let resource = draft.create_resource(schema.clone());
    let base = resource.id().unwrap_or(ROOT).to_string();
    let registry = Registry::try_new(&base, resource)
        .map_err(|e| format!("a reference in it leads nowhere: {}", unresolved(&e)))?;
    let at = registry.try_resolver(&base).map_err(|e| unresolved(&e))?;
    let found = at.lookup("").map_err(|e| unresolved(&e))?;
    let (node, at, draft) = found.into_inner();
    let mut writer = Writer::new(&registry);
    let root = Claim { node, constant: false, holds: true, at, draft };
    let Some(written) = writer.goal(&vec![root])? else {
        return Err(none_found(writer.expansion.untold.as_deref()));
    };
    let mut whole = json!({"$defs": writer.definitions});
    if let (Value::Object(members), Some(whole)) = (written, whole.as_object_mut()) {
        whole.extend(members);
    }
    if let Some(options) = schema.get("x-guidance") {
        whole["x-guidance"] = options.clone();
    }
    Ok(Rewritten { schema: whole, untold: writer.expansion.untold })
}

/// What is written, without a definition that no value is valid by: what refers to it is false. Returns false where all of it
/// does. name: as rewritten() wrote it.
pub fn leave_out(schema: &mut Value, name: &str) -> bool {
    let own = reference(name);
    if schema.get("$ref") == own.get("$ref") {
        return false;
    }
    make_false(schema, &own);
    true
}

fn make_false(value: &mut Value, own: &Value) {
    match value {
        value if value == own => *value = Value::Bool(false),
        Value::Object(members) => members.values_mut().for_each(|each| make_false(each, own)),
        Value::Array(all) => all.iter_mut().for_each(|each| make_false(each, own)),
        _ => {}
    }
}

type Key = Vec<(usize, bool, bool, usize)>;

enum Written {
    /// Being written; true once something refers to it.
    Begun(bool),
    Done(Option<Value>),
}

pub struct Writer<'r> {
    pub expansion: Expansion<'r>,
    pub patterns: Patterns,
    written: HashMap<Key, (usize, Written)>,
    scopes: HashMap<String, usize>,
    definitions: Map<String, Value>,
}

impl<'r> Writer<'r> {
    fn new(registry: &'r Registry) -> Self {
        Writer {
            expansion: Expansion::new(registry),
            patterns: Patterns::default(),
            written: HashMap::new(),
            scopes: HashMap::new(),
            definitions: Map::new(),
        }
    }

    /// None: no value is of it.
    pub fn goal(&mut self, goal: &Goal<'r>) -> Result<Option<Value>, String> {
        let trivial = |claim: &Claim| !claim.constant && claim.node.as_bool() == Some(claim.holds);
        let goal: Goal = goal.iter().filter(|claim| !trivial(claim)).cloned().collect();
        if goal.is_empty() {
            return Ok(Some(Value::Bool(true)));
        }
        let key = self.key(&goal);
        let number = self.written.len();
        match self.written.get_mut(&key) {
            Some((_, Written::Done(value))) => return Ok(value.clone()),
            Some((number, Written::Begun(referred))) => {
                *referred = true;
                return Ok(Some(reference(*number)));
            }
            None if number >= MOST_GOALS => return Err("it is too large to be taken apart; make it smaller".into()),
            None => self.written.insert(key.clone(), (number, Written::Begun(false))),
        };
        let union = self.expansion.goal(&goal)?;
        let mut value = self.union(&union)?;
        let referred = matches!(self.written.get(&key), Some((_, Written::Begun(true))));
        let compound = union.iter().any(|form| matches!(form, Form::Array(_) | Form::Object(_)));
        if referred || (compound && value.as_ref().is_some_and(|value| !value.is_boolean())) {
            self.definitions.insert(number.to_string(), value.clone().unwrap_or(Value::Bool(false)));
            value = value.map(|_| reference(number));
        }
        self.written.insert(key, (number, Written::Done(value.clone())));
        Ok(value)
    }

    fn key(&mut self, goal: &Goal) -> Key {
        let mut key: Key = goal.iter().map(|claim| self.part_of_key(claim)).collect();
        key.sort_unstable();
        key.dedup();
        key
    }

    fn part_of_key(&mut self, claim: &Claim) -> (usize, bool, bool, usize) {
        let mut scope = claim.at.base_uri().as_str().to_string();
        // From the outermost on, which is what counts; each once.
        let scopes: Vec<_> = claim.at.dynamic_scope().iter().map(|uri| uri.as_str().to_string()).collect();
        let mut seen = BTreeSet::new();
        for uri in scopes.into_iter().rev().filter(|uri| seen.insert(uri.clone())) {
            scope.push('\n');
            scope.push_str(&uri);
        }
        let number = self.scopes.len();
        let scope = *self.scopes.entry(scope).or_insert(number);
        (std::ptr::from_ref(claim.node) as usize, claim.constant, claim.holds, scope)
    }

    fn union(&mut self, union: &[Form<'r>]) -> Result<Option<Value>, String> {
        let whole = |form: &&Form| form.is_all_of_its_type();
        let has = |value| union.iter().any(|form| matches!(form, Form::Bool(b) if *b == value));
        let kinds: BTreeSet<_> = union.iter().filter(whole).map(kind).collect();
        if has(true) && has(false) && kinds.len() == any().len() - 2 {
            return Ok(Some(Value::Bool(true)));
        }
        let mut ways: Vec<Value> = Vec::new();
        if has(true) && has(false) {
            ways.push(json!({"type": "boolean"}));
        }
        for form in union {
            let more = match form {
                Form::Bool(_) if has(true) && has(false) => Vec::new(),
                form if form.is_all_of_its_type() => vec![json!({"type": kind(form)})],
                // What the whole type includes need not be told.
                form if kinds.contains(kind(form)) => Vec::new(),
                Form::Null => vec![json!({"type": "null"})],
                Form::Bool(value) => vec![json!({"const": value})],
                Form::Number(number) => {
                    if number.whole == Some(false) {
                        self.expansion.narrow("a negated \"integer\"");
                    } else if !number.multiples.is_empty() {
                        self.expansion.narrow("\"multipleOf\"");
                    }
                    number_as(number).into_iter().collect()
                }
                Form::Text(text) => self.text(text)?.into_iter().collect(),
                Form::Array(array) => self.array(array)?,
                Form::Object(object) => self.object(object)?,
            };
            for way in more {
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
            self.expansion.spend(ways.len())?;
        }
        Ok(match ways.len() {
            0 => None,
            1 => ways.pop(),
            _ => Some(json!({"anyOf": ways})),
        })
    }

    fn text(&mut self, text: &Text) -> Result<Option<Value>, String> {
        if let Some(listed) = self.patterns.listed(text)? {
            return Ok((!listed.is_empty()).then(|| json!({"enum": listed})));
        }
        if !text.not_patterns.is_empty() {
            self.expansion.narrow("a negated \"pattern\"");
        }
        if schema_text::leaves_out_long(text) {
            self.expansion.narrow("a negated long text");
        }
        let Some((patterns, most)) = schema_text::told(text)? else { return Ok(None) };
        let mut members = Map::from_iter([("type".to_string(), json!("string"))]);
        if text.least > 0 {
            members.insert("minLength".into(), json!(text.least));
        }
        if let Some(most) = most {
            if most < text.least {
                return Ok(None);
            }
            members.insert("maxLength".into(), json!(most));
        }
        let more = patterns.iter().map(|pattern| json!({"type": "string", "pattern": pattern}));
        let more = more.chain(text.formats.iter().map(|format| json!({"type": "string", "format": format})));
        let more: Vec<_> = more.collect();
        if !more.is_empty() {
            members.insert("allOf".into(), json!(more));
        }
        Ok(Some(Value::Object(members)))
    }

    /// All values of a goal that has few of them.
    pub fn values(&mut self, goal: &Goal<'r>) -> Result<Option<Vec<Value>>, String> {
        let mut all: Vec<Value> = Vec::new();
        for form in self.expansion.goal(goal)? {
            let more = match &form {
                Form::Null => vec![Value::Null],
                Form::Bool(value) => vec![json!(value)],
                Form::Number(number) => match (number_as(number), &number.least, &number.most) {
                    (None, ..) => Vec::new(),
                    (_, Some((low, _)), Some((high, _))) if !less(low, high) => vec![json!(low)],
                    _ => return Ok(None),
                },
                Form::Text(text) => match self.patterns.listed(text)? {
                    Some(listed) => listed.into_iter().map(Value::String).collect(),
                    None => return Ok(None),
                },
                Form::Array(_) | Form::Object(_) => return Ok(None),
            };
            let equal = |a: &Value, b: &Value| a == b || (a.is_number() && a.as_f64() == b.as_f64());
            for value in more {
                if !all.iter().any(|each| equal(each, &value)) {
                    all.push(value);
                }
            }
            if all.len() > MOST_VALUES {
                return Ok(None);
            }
            self.expansion.spend(all.len())?;
        }
        Ok(Some(all))
    }
}

fn reference(number: impl std::fmt::Display) -> Value {
    json!({"$ref": format!("#/$defs/{number}")})
}

fn kind(form: &Form) -> &'static str {
    match form {
        Form::Null => "null",
        Form::Bool(_) => "boolean",
        Form::Number(_) => "number",
        Form::Text(_) => "string",
        Form::Array(_) => "array",
        Form::Object(_) => "object",
    }
}

/// Numbers that are not whole are told as those between two whole ones.
fn number_as(number: &Number) -> Option<Value> {
    let low = number.least.as_ref().map(|(n, _)| n.as_f64().unwrap_or(f64::MIN));
    let high = number.most.as_ref().map(|(n, _)| n.as_f64().unwrap_or(f64::MAX));
    let mut members = Map::new();
    let mut set = |word: &str, value: Value| members.insert(word.to_string(), value);
    if number.whole == Some(false) {
        let start = low.map_or_else(|| high.map_or(0.0, |high| high.floor() - 1.0), f64::ceil);
        let end = start + 1.0;
        let fits = high.is_none_or(|high| end <= high) && start.abs() < 1e15;
        set("type", json!("number"));
        let (start, end) = if fits { (start, end) } else { (low?, high?) };
        if !fits && (end.floor() > start || start.fract() == 0.0 || end.ceil() - start.floor() > 1.0) {
            return None;
        }
        set("exclusiveMinimum", json!(start));
        set("exclusiveMaximum", json!(end));
    } else {
        set("type", json!(if number.whole == Some(true) { "integer" } else { "number" }));
        if let (Some(low), Some(high)) = (low, high) {
            if low == high {
                let whole = number.whole != Some(true) || low.fract() == 0.0;
                let divides = |n: &serde_json::Number| (low / n.as_f64().unwrap_or(1.0)).fract() == 0.0;
                let value = number.least.as_ref().map(|(n, _)| json!({"const": n}));
                return value.filter(|_| whole && number.multiples.iter().all(divides));
            }
        }
        if let Some((n, excluded)) = &number.least {
            set(if *excluded { "exclusiveMinimum" } else { "minimum" }, json!(n));
        }
        if let Some((n, excluded)) = &number.most {
            set(if *excluded { "exclusiveMaximum" } else { "maximum" }, json!(n));
        }
    }
    let multiples: Vec<_> = number.multiples.iter().map(|n| json!({"type": "number", "multipleOf": n})).collect();
    if !multiples.is_empty() {
        members.insert("allOf".into(), json!(multiples));
    }
    Some(Value::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llguidance::api::TopLevelGrammar;
    use llguidance::{Matcher, ParserFactory};
    use toktrie::{ApproximateTokEnv, InferenceCapabilities};

    fn accepts(schema: &Value, texts: &[&str]) -> Vec<bool> {
        let tokens = ApproximateTokEnv::single_byte_env();
        let mut factory = ParserFactory::new(&tokens, InferenceCapabilities::default(), &[]).unwrap();
        let grammar = TopLevelGrammar::from_json_schema(rewritten(schema).unwrap().schema);
        let beginning = Matcher::new(factory.quiet().create_parser(grammar));
        let accepted = |text: &&str| {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            let mut matcher = beginning.deep_clone();
            matcher.consume_tokens(&ids).is_ok() && matcher.is_accepting().unwrap()
        };
        texts.iter().map(accepted).collect()
    }

    #[test]
    fn what_is_written_says_what_was_meant() {
        let cases = [
            (json!({"not": {"type": "integer"}}), vec!["0.5", "\"a\""], vec!["1"]),
            (json!({"type": "string", "not": {"enum": ["no", "never"]}}), vec!["\"n\"", "\"not\""], vec!["\"no\""]),
            (json!({"type": "string", "not": {"pattern": "[0-9]"}}), vec!["\"ab\""], vec!["\"a1\""]),
            (
                json!({"oneOf": [{"minimum": 3}, {"type": "integer"}], "type": "number"}),
                vec!["2", "3.5"],
                vec!["4", "1.5"],
            ),
            (
                json!({"if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]},
                       "type": "object"}),
                vec!["{}", "{\"a\":2}", "{\"a\":1,\"b\":0}"],
                vec!["{\"a\":1}"],
            ),
            (json!({"type": "array", "contains": {"const": 1}}), vec!["[1]", "[1,\"x\"]"], vec!["[]", "[2]"]),
            (
                json!({"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": true, "minItems": 1}),
                vec!["[\"a\"]", "[\"b\"]", "[\"a\",\"b\"]"],
                vec!["[]", "[\"a\",\"a\"]"],
            ),
            (
                json!({"dependentRequired": {"a": ["b"]}, "type": "object"}),
                vec!["{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"],
                vec!["{\"a\":1}"],
            ),
            (
                json!({"propertyNames": {"pattern": "^x"}, "minProperties": 1, "type": "object"}),
                vec!["{\"x1\":1}"],
                vec!["{}", "{\"y\":1}"],
            ),
            (
                json!({"allOf": [{"properties": {"a": true}}], "unevaluatedProperties": false, "type": "object"}),
                vec!["{}", "{\"a\":1}"],
                vec!["{\"b\":1}"],
            ),
            (
                json!({"$defs": {"t": {"properties": {"k": {"not": {"type": "string"}}, "c": {"$ref": "#/$defs/t"}},
                       "type": "object", "additionalProperties": false}}, "$ref": "#/$defs/t"}),
                vec!["{\"c\":{\"k\":1}}"],
                vec!["{\"c\":{\"k\":\"a\"}}"],
            ),
        ];
        accept_and_refuse(cases.into());
    }

    const DRAFT_7: &str = "http://json-schema.org/draft-07/schema#";
    const DRAFT_2019: &str = "https://json-schema.org/draft/2019-09/schema";

    fn accept_and_refuse(cases: Vec<(Value, Vec<&str>, Vec<&str>)>) {
        for (schema, good, bad) in cases {
            assert!(accepts(&schema, &good).iter().all(|accepted| *accepted), "{schema}: not {good:?}");
            assert!(accepts(&schema, &bad).iter().all(|accepted| !*accepted), "{schema}: one of {bad:?}");
        }
    }

    // What is empty only because a negation lost alternatives is not apart from anything.
    #[test]
    fn alternatives_that_are_told_too_narrowly_overlap() {
        let keys_a = json!({"type": "object", "patternProperties": {"^a": {"type": "integer"}},
                            "additionalProperties": false, "minProperties": 1});
        let keys_x = json!({"type": "object", "patternProperties": {"x$": {"type": "string"}}, "minProperties": 1});
        accept_and_refuse(vec![
            (json!({"oneOf": [{"not": {"multipleOf": 2}}, {"type": "number"}]}), vec!["4"], vec!["3", "1.5"]),
            (
                json!({"oneOf": [{"type": "array", "not": {"uniqueItems": true}}, {"type": "array", "minItems": 1}]}),
                vec![],
                vec!["[1,1]", "[]"],
            ),
            (
                json!({"oneOf": [{"type": "string", "format": "json-pointer"}, {"enum": ["/\u{a7}", 1]}]}),
                vec!["1"],
                vec!["\"/\u{a7}\""],
            ),
            (
                json!({"oneOf": [{"type": "number", "oneOf": [{"multipleOf": 2}, {"maximum": 3}]},
                                 {"type": "number", "minimum": 5}]}),
                vec!["4"],
                vec!["2", "6"],
            ),
            (
                json!({"type": "array", "uniqueItems": true, "items": false, "prefixItems": [keys_a, keys_x]}),
                vec!["[{\"ab\":1}]"],
                vec!["[{\"ab\":1},{\"ab\":1}]"],
            ),
            (
                json!({"type": "array", "uniqueItems": true, "items": false, "prefixItems": [
                    {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false},
                    {"type": "object", "properties": {"b": {}}, "required": ["b"], "additionalProperties": false}]}),
                vec!["[{\"a\":1},{\"b\":1}]"],
                vec![],
            ),
        ]);
    }

    #[test]
    fn an_address_is_relative_to_where_it_stands_once() {
        accept_and_refuse(vec![(
            json!({"$schema": DRAFT_7, "$id": "http://x/root", "not": {"const": 7}, "definitions": {
                "o": {"$id": "d/o.json", "allOf": [{"$ref": "p.json"}]},
                "p": {"$id": "http://x/d/p.json", "type": "integer"},
                "q": {"$id": "http://x/d/d/p.json", "type": "string"}}, "allOf": [{"$ref": "d/o.json"}]}),
            vec!["1"],
            vec!["\"a\"", "7"],
        )]);
    }

    #[test]
    fn a_keyword_says_nothing_in_drafts_before_it() {
        accept_and_refuse(vec![
            (
                json!({"$schema": DRAFT_7, "type": "array", "prefixItems": [true], "items": {"type": "string"},
                       "not": {"const": []}}),
                vec!["[\"a\"]"],
                vec!["[1]", "[]"],
            ),
            (
                json!({"$schema": DRAFT_2019, "type": "array", "prefixItems": [true], "items": {"type": "string"},
                       "not": {"const": []}}),
                vec!["[\"a\"]"],
                vec!["[1]"],
            ),
            (
                json!({"$schema": DRAFT_7, "type": "array", "contains": {"const": 1}, "minContains": 0}),
                vec!["[1]"],
                vec!["[]"],
            ),
            (
                json!({"$schema": DRAFT_7, "type": "array", "not": {"contains": {"const": 1}, "maxContains": 1}}),
                vec!["[]", "[2]"],
                vec!["[1,1]"],
            ),
            (
                json!({"type": ["null", "object"], "oneOf": [{"dependencies": {"a": ["b"]}}, {"type": "object"}]}),
                vec!["null"],
                vec!["{\"a\":1}", "{}"],
            ),
        ]);
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let refused = |schema: Value| rewritten(&schema).err().unwrap();
        assert_eq!(refused(json!({"not": {}})), "no value is valid by it");
        assert!(refused(json!({"items": {"type": "string"}, "uniqueItems": true, "minItems": 2, "type": "array"}))
            .starts_with("\"uniqueItems\" in it wants 2 different elements"));
        assert!(refused(json!({"$ref": "https://example.com/other"})).contains("would have to be fetched"));
        let large = 9_007_199_254_740_993_u64;
        assert!(refused(json!({"type": "integer", "not": {"const": large}})).contains("too large to be told"));
        assert!(refused(json!({"type": "integer", "not": {"maximum": large}})).contains("too large to be told"));
        assert!(refused(json!({"$ref": "#"})).starts_with("it refers to itself"));
        let either = |i: usize| json!({"anyOf": [{"required": [format!("a{i}")]}, {"required": [format!("b{i}")]}]});
        let all = json!({"not": false, "type": "object", "allOf": (0..12).map(either).collect::<Vec<_>>()});
        assert!(refused(all).contains("too many"));
    }
}
