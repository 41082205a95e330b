//! What a JSON value may be, as alternatives that each have one type: a JSON schema is a union of such forms, and so is
//! its negation. What is said of members and elements stays as schemas, to be looked at when they are written.

use referencing::{Draft, Resolver};
use serde_json::{Number as JsonNumber, Value};
use std::rc::Rc;

/// A schema, or a constant, that a value must match, or must not.
#[derive(Clone)]
pub struct Claim<'r> {
    pub node: &'r Value,
    /// The node is the value itself, not a schema.
    pub constant: bool,
    pub holds: bool,
    pub at: Resolver<'r>,
    pub draft: Draft,
}

impl Claim<'_> {
    pub fn negated(&self) -> Self {
        Claim { holds: !self.holds, ..self.clone() }
    }
}

/// All of them. Empty: anything.
pub type Goal<'r> = Vec<Claim<'r>>;

/// Which `unevaluated...` keywords see what a keyword evaluates: those of the schemas it is applied within.
pub type Seers = Rc<[u32]>;

#[derive(Clone, Default)]
pub struct Number {
    pub least: Option<(JsonNumber, bool)>, // true: itself excluded
    pub most: Option<(JsonNumber, bool)>,
    pub whole: Option<bool>,
    pub multiples: Vec<JsonNumber>,
}

#[derive(Clone, Default)]
pub struct Text {
    pub least: u64,
    pub most: Option<u64>,
    pub patterns: Vec<String>,
    pub not_patterns: Vec<String>,
    pub formats: Vec<String>,
    pub only: Option<Vec<String>>,
    pub but: Vec<String>,
}

/// What elements from..to must be; without a claim they are evaluated and no more.
#[derive(Clone)]
pub struct Elements<'r> {
    pub from: usize,
    pub to: Option<usize>,
    pub claim: Option<Claim<'r>>,
    pub seers: Seers,
}

#[derive(Clone)]
pub struct Contains<'r> {
    pub from: usize,
    pub claim: Claim<'r>,
    pub least: usize,
    pub most: Option<usize>,
    pub seers: Seers,
}

#[derive(Clone, Default)]
pub struct Array<'r> {
    pub elements: Vec<Elements<'r>>,
    pub contains: Vec<Contains<'r>>,
    pub unevaluated: Vec<(Claim<'r>, u32)>,
    pub least: usize,
    pub most: Option<usize>,
    pub unique: bool,
}

#[derive(Clone)]
pub enum Keys {
    Name(String),
    Pattern(String),
    /// None of these, and of these patterns.
    Other(Rc<[String]>, Rc<[String]>),
    All,
}

#[derive(Clone)]
pub struct Members<'r> {
    pub keys: Keys,
    pub claim: Option<Claim<'r>>,
    pub seers: Seers,
}

#[derive(Clone, Default)]
pub struct Object<'r> {
    pub members: Vec<Members<'r>>,
    pub required: Vec<String>,
    pub names: Goal<'r>,
    pub unevaluated: Vec<(Claim<'r>, u32)>,
    pub least: usize,
    pub most: Option<usize>,
}

#[derive(Clone)]
pub enum Form<'r> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Text),
    Array(Array<'r>),
    Object(Object<'r>),
}

pub type Union<'r> = Vec<Form<'r>>;

pub fn any<'r>() -> Union<'r> {
    ["null", "boolean", "number", "string", "array", "object"].iter().flat_map(|name| of_type(name)).collect()
}

/// Of a name that is no type's: nothing.
pub fn of_type<'r>(name: &str) -> Union<'r> {
    match name {
        "null" => vec![Form::Null],
        "boolean" => vec![Form::Bool(true), Form::Bool(false)],
        "number" => vec![Form::Number(Number::default())],
        "integer" => vec![Form::Number(Number { whole: Some(true), ..Number::default() })],
        "string" => vec![Form::Text(Text::default())],
        "array" => vec![Form::Array(Array::default())],
        "object" => vec![Form::Object(Object::default())],
        _ => Vec::new(),
    }
}

/// What the form allows, and all values of other types.
pub fn or_other_types(form: Form) -> Union {
    let mut union = any();
    union.retain(|each| std::mem::discriminant(each) != std::mem::discriminant(&form));
    union.push(form);
    union
}

pub fn less(a: &JsonNumber, b: &JsonNumber) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    }
}

fn tighter(
    a: Option<(JsonNumber, bool)>,
    b: Option<(JsonNumber, bool)>,
    beyond: fn(&JsonNumber, &JsonNumber) -> bool,
) -> Option<(JsonNumber, bool)> {
    match (a, b) {
        (Some(a), Some(b)) if beyond(&a.0, &b.0) => Some(a),
        (Some(a), Some(b)) if beyond(&b.0, &a.0) => Some(b),
        (Some(a), Some(b)) => Some((a.0, a.1 || b.1)),
        (a, b) => a.or(b),
    }
}

pub fn least_of<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn joined<T>(mut a: Vec<T>, b: Vec<T>) -> Vec<T> {
    a.extend(b);
    a
}

impl Number {
    fn both(self, other: Number) -> Option<Number> {
        let whole = match (self.whole, other.whole) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let least = tighter(self.least, other.least, |a, b| less(b, a));
        let most = tighter(self.most, other.most, less);
        if let (Some((low, without_low)), Some((high, without_high))) = (&least, &most) {
            if less(high, low) || (!less(low, high) && (*without_low || *without_high)) {
                return None;
            }
        }
        Some(Number { least, most, whole, multiples: joined(self.multiples, other.multiples) })
    }
}

impl Text {
    fn both(self, other: Text) -> Option<Text> {
        let only = match (self.only, other.only) {
            (Some(a), Some(b)) => Some(a.into_iter().filter(|text| b.contains(text)).collect()),
            (a, b) => a.or(b),
        };
        let text = Text {
            least: self.least.max(other.least),
            most: least_of(self.most, other.most),
            patterns: joined(self.patterns, other.patterns),
            not_patterns: joined(self.not_patterns, other.not_patterns),
            formats: joined(self.formats, other.formats),
            only,
            but: joined(self.but, other.but),
        };
        text.is_possible().then_some(text)
    }

    fn is_possible(&self) -> bool {
        self.most.is_none_or(|most| self.least <= most)
            && self.only.as_ref().is_none_or(|only| only.iter().any(|text| !self.but.contains(text)))
    }
}

impl<'r> Array<'r> {
    fn both(self, other: Array<'r>) -> Option<Array<'r>> {
        let array = Array {
            elements: joined(self.elements, other.elements),
            contains: joined(self.contains, other.contains),
            unevaluated: joined(self.unevaluated, other.unevaluated),
            least: self.least.max(other.least),
            most: least_of(self.most, other.most),
            unique: self.unique || other.unique,
        };
        array.most.is_none_or(|most| array.least <= most).then_some(array)
    }
}

impl<'r> Object<'r> {
    fn both(self, other: Object<'r>) -> Option<Object<'r>> {
        let mut object = Object {
            members: joined(self.members, other.members),
            required: joined(self.required, other.required),
            names: joined(self.names, other.names),
            unevaluated: joined(self.unevaluated, other.unevaluated),
            least: self.least.max(other.least),
            most: least_of(self.most, other.most),
        };
        let mut seen = std::collections::HashSet::new();
        object.required.retain(|name| seen.insert(name.clone()));
        object.most.is_none_or(|most| object.least.max(object.required.len()) <= most).then_some(object)
    }
}

impl<'r> Form<'r> {
    /// None: no value is of both.
    pub fn both(self, other: Form<'r>) -> Option<Form<'r>> {
        match (self, other) {
            (Form::Null, Form::Null) => Some(Form::Null),
            (Form::Bool(a), Form::Bool(b)) => (a == b).then_some(Form::Bool(a)),
            (Form::Number(a), Form::Number(b)) => a.both(b).map(Form::Number),
            (Form::Text(a), Form::Text(b)) => a.both(b).map(Form::Text),
            (Form::Array(a), Form::Array(b)) => a.both(b).map(Form::Array),
            (Form::Object(a), Form::Object(b)) => a.both(b).map(Form::Object),
            _ => None,
        }
    }

    /// Whether all values of its type are of it.
    pub fn is_all_of_its_type(&self) -> bool {
        match self {
            Form::Null => true,
            Form::Bool(_) => false,
            Form::Number(n) => n.least.is_none() && n.most.is_none() && n.whole.is_none() && n.multiples.is_empty(),
            Form::Text(t) => {
                t.least == 0
                    && t.most.is_none()
                    && t.patterns.is_empty()
                    && t.not_patterns.is_empty()
                    && t.formats.is_empty()
                    && t.only.is_none()
                    && t.but.is_empty()
            }
            Form::Array(a) => {
                a.least == 0
                    && a.most.is_none()
                    && !a.unique
                    && a.contains.is_empty()
                    && a.unevaluated.is_empty()
                    && a.elements.iter().all(|each| each.claim.is_none())
            }
            Form::Object(o) => {
                o.least == 0
                    && o.most.is_none()
                    && o.required.is_empty()
                    && o.names.is_empty()
                    && o.unevaluated.is_empty()
                    && o.members.iter().all(|each| each.claim.is_none())
            }
        }
    }
}
