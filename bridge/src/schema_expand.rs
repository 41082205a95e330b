//! What a JSON schema, or its negation, allows, as a union of forms. Keyword by keyword: each gives a union, and what is
//! of all of them is allowed. Where a union cannot be said it is said too narrowly: a negation may lose alternatives.
//! Source: JSON Schema 2020-12, Core and Validation; for older drafts theirs.

use crate::schema_forms::{any, or_other_types, Array, Claim, Elements, Form, Goal, Keys};
use crate::schema_forms::{Members, Number, Object, Seers, Text, Union};
use crate::schema_keywords::{
    array, bounds, list, member_is, names, nothing_of, number, one_element, string, text, types,
};
use crate::schema_keywords::{unseen, with, words, Expanded, Words, FALSE};
use crate::schema_numbers::check_small;
use crate::schema_rewrite::unresolved;
use crate::schema_text::{self, Patterns};
use referencing::{Draft, List, Registry, Uri};
use serde_json::Value;
use std::rc::Rc;

const MOST_FORMS: usize = 600;
const MOST_WORK: usize = 400_000;
const TOO_MANY: &str = "its alternatives are too many to be taken apart; make it simpler";
const DEEPEST: usize = 100;
/// Whose negations are told too narrowly, or not at all.
const UNTOLD: [&str; 9] = [
    "unevaluatedProperties",
    "unevaluatedItems",
    "uniqueItems",
    "multipleOf",
    "format",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "additionalItems",
];
/// Levels, and elements of an array, that are looked at to find alternatives apart.
const LOOKS_AHEAD: usize = 3;
const MOST_LOOKED_AT: usize = 8;

/// Takes schemas of one document apart.
pub struct Expansion<'r> {
    pub registry: &'r Registry,
    /// What was first told too narrowly, if something was.
    pub untold: Option<String>,
    /// How often something was told too narrowly: what is empty since then may be so for that alone.
    pub narrowed: usize,
    seers: u32,
    work: usize,
    depth: usize,
}

impl<'r> Expansion<'r> {
    pub fn new(registry: &'r Registry) -> Self {
        Expansion { registry, untold: None, narrowed: 0, seers: 0, work: 0, depth: 0 }
    }

    /// what: as "what {what} allows".
    pub fn narrow(&mut self, what: &str) {
        self.narrowed += 1;
        self.untold.get_or_insert_with(|| what.to_string());
    }

    pub fn spend(&mut self, work: usize) -> Result<(), String> {
        self.work += work;
        if self.work > MOST_WORK {
            return Err(TOO_MANY.into());
        }
        Ok(())
    }

    pub fn goal(&mut self, goal: &Goal<'r>) -> Expanded<'r> {
        self.all(goal, &unseen())
    }

    pub fn both(&mut self, a: Union<'r>, b: Union<'r>) -> Expanded<'r> {
        self.spend(a.len() * b.len())?;
        let mut union = Vec::new();
        for x in &a {
            for y in &b {
                if std::mem::discriminant(x) == std::mem::discriminant(y) {
                    union.extend(x.clone().both(y.clone()));
                }
            }
        }
        few(union)
    }

    fn all(&mut self, claims: &[Claim<'r>], seers: &Seers) -> Expanded<'r> {
        let mut union = any();
        for claim in claims {
            let more = self.claim(claim, seers)?;
            union = self.both(union, more)?;
        }
        Ok(union)
    }

    fn one(&mut self, claims: &[Claim<'r>], seers: &Seers) -> Expanded<'r> {
        let mut union = Vec::new();
        for claim in claims {
            union.extend(self.claim(claim, seers)?);
        }
        Ok(union)
    }

    pub fn claim(&mut self, claim: &Claim<'r>, seers: &Seers) -> Expanded<'r> {
        if claim.constant {
            return self.constant(claim);
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("it refers to itself with nothing between, or is nested too deeply".into());
        }
        let union = match claim.node {
            Value::Bool(all) if *all == claim.holds => Ok(any()),
            Value::Bool(_) => Ok(Vec::new()),
            Value::Object(schema) => self.schema(schema, claim, seers),
            _ => Err("a schema in it is neither an object nor true or false".into()),
        };
        self.depth -= 1;
        union
    }

    fn schema(&mut self, schema: Words<'r>, claim: &Claim<'r>, seers: &Seers) -> Expanded<'r> {
        let draft = claim.draft.detect(claim.node).map_err(|e| unresolved(&e))?;
        let resource = draft.create_resource_ref(claim.node);
        // What a reference led to is looked at from inside already.
        let inside = claim.at.lookup("").is_ok_and(|found| std::ptr::eq(found.contents(), claim.node));
        let at =
            if inside { claim.at.clone() } else { claim.at.in_subresource(resource).map_err(|e| unresolved(&e))? };
        let claim = Claim { at, draft, ..claim.clone() };
        let sees = ["unevaluatedProperties", "unevaluatedItems"].iter().any(|k| schema.contains_key(*k));
        let (own, inner) = if sees && claim.holds {
            self.seers += 1;
            (self.seers, with(seers, self.seers))
        } else {
            (0, seers.clone())
        };
        let lone_ref = draft <= Draft::Draft7 && schema.contains_key("$ref");
        let mut union = if claim.holds { any() } else { Vec::new() };
        for (keyword, value) in schema {
            if !draft.is_known_keyword(keyword) || (lone_ref && keyword != "$ref") {
                continue;
            }
            let seen = if keyword.starts_with("unevaluated") { seers } else { &inner };
            if is_narrow(keyword, claim.holds, draft) {
                self.narrow(&format!("{}{keyword:?}", if claim.holds { "" } else { "a negated " }));
            }
            let Some(more) = self.keyword(keyword, value, schema, &claim, seen, own)? else { continue };
            if claim.holds {
                union = self.both(union, more)?;
            } else {
                self.spend(more.len())?;
                union.extend(more);
            }
        }
        few(union)
    }

    /// What the keyword, or its negation, allows; None: it says nothing of its own.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &'r Value,
        schema: Words<'r>,
        claim: &Claim<'r>,
        seers: &Seers,
        own: u32,
    ) -> Result<Option<Union<'r>>, String> {
        let sub = |node: &'r Value| Claim { node, constant: false, ..claim.clone() };
        let subs = |nodes: &'r Vec<Value>| nodes.iter().map(sub).collect::<Vec<_>>();
        Ok(Some(match keyword {
            "allOf" if claim.holds => self.all(&subs(list(value, keyword)?), seers)?,
            "allOf" => self.one(&subs(list(value, keyword)?), seers)?,
            "anyOf" if claim.holds => self.one(&subs(list(value, keyword)?), seers)?,
            "anyOf" => self.all(&subs(list(value, keyword)?), seers)?,
            "oneOf" => self.one_of(&subs(list(value, keyword)?), claim.holds, seers)?,
            "not" => self.claim(&sub(value).negated(), &unseen())?,
            "if" => match (schema.get("then"), schema.get("else")) {
                (None, None) if claim.holds && !seers.is_empty() => {
                    let [yes, no] = [sub(value), sub(value).negated()];
                    let mut union = self.claim(&yes, seers)?;
                    union.extend(self.claim(&no, &unseen())?);
                    union
                }
                (None, None) => return Ok(None),
                (then, otherwise) => self.conditional(sub(value), then.map(sub), otherwise.map(sub), claim, seers)?,
            },
            "enum" | "const" => {
                let values = if keyword == "enum" { list(value, keyword)?.iter().collect() } else { vec![value] };
                let constants: Vec<_> = values.iter().map(|node| Claim { constant: true, ..sub(node) }).collect();
                if claim.holds {
                    self.one(&constants, seers)?
                } else {
                    self.all(&constants, seers)?
                }
            }
            "$recursiveRef" if claim.draft != Draft::Draft201909 => return Ok(None),
            "$ref" | "$dynamicRef" | "$recursiveRef" => {
                let target = self.target(keyword, text(value, keyword)?, claim)?;
                self.claim(&target, seers)?
            }
            "type" => types(value, claim.holds)?,
            "dependentRequired" | "dependentSchemas" | "dependencies" => {
                // It is none any more, but taken for one.
                if keyword == "dependencies" && claim.draft >= Draft::Draft201909 && !claim.holds {
                    return Ok(Some(Vec::new()));
                }
                self.dependent(keyword, value, claim, seers)?
            }
            _ => return self.typed(keyword, value, schema, claim, seers, own),
        }))
    }

    fn typed(
        &mut self,
        keyword: &str,
        value: &'r Value,
        schema: Words<'r>,
        claim: &Claim<'r>,
        seers: &Seers,
        own: u32,
    ) -> Result<Option<Union<'r>>, String> {
        let forms = if let Some(forms) = number(keyword, value, schema, claim.holds)? {
            forms
        } else if let Some(forms) = string(keyword, value, claim.holds)? {
            forms
        } else if let Some(forms) = array(keyword, value, schema, claim, seers, own)? {
            forms
        } else if let Some(forms) = self.object(keyword, value, schema, claim, seers, own)? {
            forms
        } else {
            return Ok(None);
        };
        if !claim.holds {
            return Ok(Some(forms));
        }
        Ok(forms.into_iter().next().map(or_other_types))
    }

    fn constant(&mut self, claim: &Claim<'r>) -> Expanded<'r> {
        let sub = |node: &'r Value| Claim { node, constant: true, ..claim.clone() };
        let none = unseen();
        Ok(match (claim.node, claim.holds) {
            (Value::Null, true) => vec![Form::Null],
            (Value::Bool(b), holds) if holds => vec![Form::Bool(*b)],
            (Value::Null, _) => any().into_iter().filter(|form| !matches!(form, Form::Null)).collect(),
            (Value::Bool(b), _) => any().into_iter().filter(|form| !matches!(form, Form::Bool(c) if c == b)).collect(),
            (Value::Number(n), true) => {
                check_small(n)?;
                let bound = Some((n.clone(), false));
                vec![Form::Number(Number { least: bound.clone(), most: bound, ..Number::default() })]
            }
            (Value::Number(n), false) => {
                check_small(n)?;
                let bound = Some((n.clone(), true));
                let mut union = or_other_types(Form::Number(Number { least: bound.clone(), ..Number::default() }));
                union.push(Form::Number(Number { most: bound, ..Number::default() }));
                union
            }
            (Value::String(s), true) => {
                vec![Form::Text(Text { only: Some(vec![s.clone()]), ..Text::default() })]
            }
            (Value::String(s), false) => or_other_types(Form::Text(Text { but: vec![s.clone()], ..Text::default() })),
            (Value::Array(values), true) => {
                let elements = values.iter().enumerate().map(|(i, value)| Elements {
                    from: i,
                    to: Some(i + 1),
                    claim: Some(sub(value)),
                    seers: none.clone(),
                });
                let size = values.len();
                let elements = elements.collect();
                vec![Form::Array(Array { elements, least: size, most: Some(size), ..Array::default() })]
            }
            (Value::Array(values), false) => {
                let longer = Form::Array(Array { least: values.len() + 1, ..Array::default() });
                let mut union = or_other_types(longer);
                if let Some(less) = values.len().checked_sub(1) {
                    union.push(Form::Array(Array { most: Some(less), ..Array::default() }));
                }
                union.extend(values.iter().enumerate().map(|(i, value)| one_element(i, sub(value), &none)));
                union
            }
            (Value::Object(members), true) => {
                let mut object = Object { required: members.keys().cloned().collect(), ..Object::default() };
                let keys: Rc<[String]> = members.keys().cloned().collect();
                let other = Members {
                    keys: Keys::Other(keys, Rc::new([])),
                    claim: Some(nothing_of(claim)),
                    seers: none.clone(),
                };
                object.members.extend(members.iter().map(|(name, value)| Members {
                    keys: Keys::Name(name.clone()),
                    claim: Some(sub(value)),
                    seers: none.clone(),
                }));
                object.members.push(other);
                vec![Form::Object(object)]
            }
            (Value::Object(members), false) => {
                let mut union = or_other_types(Form::Object(Object { least: members.len() + 1, ..Object::default() }));
                for (name, value) in members {
                    union.push(member_is(name, nothing_of(claim), false));
                    union.push(member_is(name, sub(value), true));
                }
                union
            }
        })
    }

    fn conditional(
        &mut self,
        yes: Claim<'r>,
        then: Option<Claim<'r>>,
        otherwise: Option<Claim<'r>>,
        claim: &Claim<'r>,
        seers: &Seers,
    ) -> Expanded<'r> {
        let yes = Claim { holds: true, ..yes };
        let mut union = Vec::new();
        for (condition, branch) in [(yes.clone(), then), (yes.negated(), otherwise)] {
            let seen = if condition.holds { seers.clone() } else { unseen() };
            let Some(branch) = branch else {
                if claim.holds {
                    union.extend(self.claim(&condition, &seen)?);
                }
                continue;
            };
            let condition = self.claim(&condition, &seen)?;
            let branch = self.claim(&branch, seers)?;
            union.extend(self.both(condition, branch)?);
        }
        Ok(union)
    }

    /// Exactly one of them, or none, or two.
    fn one_of(&mut self, claims: &[Claim<'r>], holds: bool, seers: &Seers) -> Expanded<'r> {
        let positive: Vec<_> = claims.iter().map(|claim| Claim { holds: true, ..claim.clone() }).collect();
        let none = unseen();
        let (mut unions, mut lossy) = (Vec::new(), Vec::new());
        for claim in &positive {
            let was = self.narrowed;
            unions.push(self.claim(claim, if holds { seers } else { &none })?);
            lossy.push(self.narrowed != was);
        }
        let mut overlaps = vec![vec![false; claims.len()]; claims.len()];
        let mut union = Vec::new();
        for i in 0..claims.len() {
            for j in 0..i {
                let was = self.narrowed;
                let both = self.both(unions[i].clone(), unions[j].clone())?;
                let both = self.possible(both, LOOKS_AHEAD)?;
                overlaps[i][j] = !both.is_empty() || lossy[i] || lossy[j] || self.narrowed != was;
                overlaps[j][i] = overlaps[i][j];
                if !holds {
                    union.extend(both);
                }
            }
        }
        if !holds {
            let negative: Vec<_> = positive.iter().map(Claim::negated).collect();
            union.extend(self.all(&negative, &none)?);
            return Ok(union);
        }
        // Each that overlaps is taken away from what grew with each before: that is counted before it is done.
        let others = overlaps.iter().map(|own| own.iter().filter(|overlaps| **overlaps).count());
        self.spend(others.map(|others| others * others).sum())?;
        for (i, own) in unions.into_iter().enumerate() {
            let mut rest = own;
            for j in (0..claims.len()).filter(|&j| overlaps[i][j]) {
                let not = self.claim(&positive[j].negated(), &none)?;
                let both = self.both(rest, not)?;
                rest = self.possible(both, LOOKS_AHEAD)?;
            }
            union.extend(rest);
        }
        Ok(union)
    }

    /// Whether it is sure that no value is of it.
    pub fn is_impossible(&mut self, goal: &Goal<'r>) -> Result<bool, String> {
        let was = self.narrowed;
        let union = self.goal(goal)?;
        Ok(self.possible(union, LOOKS_AHEAD)?.is_empty() && self.narrowed == was)
    }

    /// Without those of which it is plain that no value is of them.
    fn possible(&mut self, union: Union<'r>, levels: usize) -> Expanded<'r> {
        let mut possible = Vec::new();
        for form in union {
            if self.is_possible(&form, levels)? {
                possible.push(form);
            }
        }
        Ok(possible)
    }

    fn is_possible(&mut self, form: &Form<'r>, levels: usize) -> Result<bool, String> {
        if levels == 0 {
            return Ok(true);
        }
        let goals: Vec<Goal<'r>> = match form {
            Form::Object(object) => {
                let own = |name: &str| -> Goal<'r> {
                    let mine = object.members.iter().filter(|each| match &each.keys {
                        Keys::Name(own) => own == name,
                        Keys::Other(names, patterns) => patterns.is_empty() && !names.iter().any(|own| own == name),
                        Keys::Pattern(_) | Keys::All => false,
                    });
                    mine.filter_map(|each| each.claim.clone()).collect()
                };
                object.required.iter().map(|name| own(name)).collect()
            }
            Form::Array(array) => {
                let own = |place: usize| -> Goal<'r> {
                    let covers = |each: &&Elements| each.from <= place && each.to.is_none_or(|to| place < to);
                    array.elements.iter().filter(covers).filter_map(|each| each.claim.clone()).collect()
                };
                (0..array.least.min(MOST_LOOKED_AT)).map(own).collect()
            }
            Form::Text(text) => return Ok(Patterns::default().listed(text)?.is_none_or(|listed| !listed.is_empty())),
            _ => return Ok(true),
        };
        let is_false = |claim: &Claim| !claim.constant && claim.node.as_bool() == Some(!claim.holds);
        if goals.iter().flatten().any(is_false) {
            return Ok(false);
        }
        for goal in goals.iter().filter(|goal| goal.len() > 1) {
            let union = self.goal(goal)?;
            if self.possible(union, levels - 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn dependent(&mut self, keyword: &str, value: &'r Value, claim: &Claim<'r>, seers: &Seers) -> Expanded<'r> {
        let mut union = if claim.holds { any() } else { Vec::new() };
        for (name, node) in words(value, keyword)? {
            let has = Form::Object(Object { required: vec![name.clone()], ..Object::default() });
            let then = if node.is_array() {
                let needed = names(node, keyword)?;
                if claim.holds {
                    vec![Form::Object(Object { required: needed, ..Object::default() })]
                } else {
                    needed.iter().map(|other| member_is(other, nothing_of(claim), false)).collect()
                }
            } else {
                self.claim(&Claim { node, constant: false, ..claim.clone() }, seers)?
            };
            let with = self.both(vec![has], then)?;
            if claim.holds {
                let mut either = or_other_types(member_is(name, nothing_of(claim), false));
                either.extend(with);
                union = self.both(union, either)?;
            } else {
                union.extend(with);
            }
        }
        Ok(union)
    }

    fn target(&self, keyword: &str, reference: &str, claim: &Claim<'r>) -> Result<Claim<'r>, String> {
        let cannot =
            |e: referencing::Error| format!("the {keyword:?} {reference:?} in it leads nowhere: {}", unresolved(&e));
        let at = &claim.at;
        let found = match keyword {
            "$recursiveRef" => at.lookup_recursive_ref().map_err(cannot)?,
            "$ref" => {
                // A plain reference goes to the nearest anchor, even to one that is dynamic.
                let plain = self.registry.resolver_from_raw_parts(at.base_uri(), no_scopes(at));
                let found = plain.lookup(reference).map_err(cannot)?;
                let beyond = at.lookup(reference).map_err(cannot)?;
                let (node, plain, draft) = found.into_inner();
                let at = self.registry.resolver_from_raw_parts(plain.base_uri(), beyond.resolver().dynamic_scope());
                return Ok(Claim { node, at, draft, constant: false, holds: claim.holds });
            }
            _ => self.dynamic(reference, claim).map_err(cannot)?,
        };
        let (node, at, draft) = found.into_inner();
        Ok(Claim { node, at, draft, constant: false, holds: claim.holds })
    }

    /// A dynamic reference is one only where it first leads to a dynamic anchor.
    fn dynamic(&self, reference: &str, claim: &Claim<'r>) -> Result<referencing::Resolved<'r>, referencing::Error> {
        let plain = self.registry.resolver_from_raw_parts(claim.at.base_uri(), no_scopes(&claim.at));
        let found = plain.lookup(reference)?;
        let anchor = reference.rsplit_once('#').map_or("", |(_, fragment)| fragment);
        let is_dynamic = found.contents().get("$dynamicAnchor").and_then(Value::as_str) == Some(anchor);
        if is_dynamic {
            claim.at.lookup(reference)
        } else {
            Ok(found)
        }
    }

    fn object(
        &mut self,
        keyword: &str,
        value: &'r Value,
        schema: Words<'r>,
        claim: &Claim<'r>,
        seers: &Seers,
        own: u32,
    ) -> Result<Option<Vec<Form<'r>>>, String> {
        let sub = |node: &'r Value| Claim { node, constant: false, ..claim.clone() };
        let of = |object: Object<'r>| vec![Form::Object(object)];
        let members = |keys: Keys, node: &'r Value| Members { keys, claim: Some(sub(node)), seers: seers.clone() };
        let holds = claim.holds;
        Ok(Some(match keyword {
            "properties" if holds => {
                let each = words(value, keyword)?.iter().map(|(k, v)| members(Keys::Name(k.clone()), v));
                of(Object { members: each.collect(), ..Object::default() })
            }
            "properties" => words(value, keyword)?.iter().map(|(k, v)| member_is(k, sub(v), true)).collect(),
            "patternProperties" if holds => {
                let each = words(value, keyword)?.iter().map(|(k, v)| members(Keys::Pattern(k.clone()), v));
                of(Object { members: each.collect(), ..Object::default() })
            }
            "patternProperties" => {
                let each = words(value, keyword)?.iter();
                let some = each.filter_map(|(k, v)| Some(member_is(&schema_text::matching(k)?, sub(v), true)));
                some.collect()
            }
            "additionalProperties" => {
                let own = |word: &str| -> Rc<[String]> {
                    let members = schema.get(word).and_then(Value::as_object);
                    members.map(|members| members.keys().cloned().collect()).unwrap_or_default()
                };
                let (names, patterns) = (own("properties"), own("patternProperties"));
                if holds {
                    of(Object { members: vec![members(Keys::Other(names, patterns), value)], ..Object::default() })
                } else {
                    let free = schema_text::name_beyond(&names, &patterns);
                    free.iter().map(|name| member_is(name, sub(value), true)).collect()
                }
            }
            "unevaluatedProperties" if holds => {
                let all = Members { keys: Keys::All, claim: None, seers: seers.clone() };
                of(Object { members: vec![all], unevaluated: vec![(sub(value), own)], ..Object::default() })
            }
            "propertyNames" if holds => of(Object { names: vec![sub(value)], ..Object::default() }),
            "propertyNames" => {
                let union = self.claim(&sub(value), &unseen())?;
                let wrong = schema_text::sample(&union);
                wrong.iter().map(|name| member_is(name, sub(&FALSE), true)).collect()
            }
            "required" if value.is_boolean() => return Ok(None),
            "required" if holds => of(Object { required: names(value, keyword)?, ..Object::default() }),
            "required" => {
                let absent = nothing_of(claim);
                names(value, keyword)?.iter().map(|name| member_is(name, absent.clone(), false)).collect()
            }
            "minProperties" | "maxProperties" => {
                let within = bounds(keyword, value, holds)?;
                within.map_or(Vec::new(), |(least, most)| of(Object { least, most, ..Object::default() }))
            }
            "unevaluatedProperties" => Vec::new(),
            _ => return Ok(None),
        }))
    }
}

fn few(union: Union) -> Expanded {
    if union.len() <= MOST_FORMS {
        return Ok(union);
    }
    Err(TOO_MANY.into())
}

/// Whether the keyword, or its negation, is told too narrowly.
fn is_narrow(keyword: &str, holds: bool, draft: Draft) -> bool {
    match keyword {
        // Of a relative's, and where programs hold it to be a note.
        "format" => true,
        "dependencies" => draft >= Draft::Draft201909,
        _ => !holds && UNTOLD.contains(&keyword),
    }
}

fn no_scopes(at: &referencing::Resolver) -> List<Uri<String>> {
    // The crate has no other way to an empty one.
    let scopes = at.dynamic_scope();
    if scopes.is_empty() {
        return scopes;
    }
    referencing::SPECIFICATIONS.resolver(Uri::parse("urn:none".to_string()).expect("a URI")).dynamic_scope()
}
