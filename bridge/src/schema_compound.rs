//! Arrays and objects in the words that llguidance has; see schema_rewrite.

use crate::schema_forms::{Array, Claim, Form, Goal, Keys, Members, Object};
use crate::schema_rewrite::Writer;
use crate::schema_text;
use serde_json::{json, Map, Value};

/// Elements that are named one by one.
const MOST_PLACES: usize = 1_000;
/// Where more elements are to be contained, all are made so.
const MOST_PICKED: usize = 16;
/// Different values of which each choice is written; of more, each place gets some of its own.
const MOST_CHOSEN_FROM: usize = 6;
const MOST_DIFFERENT: usize = 8;
const MOST_PATTERNS: usize = 30;

/// What the elements of an array must be, by place, and beyond all of them.
struct Places<'r> {
    goals: Vec<Goal<'r>>,
    rest: Goal<'r>,
    least: usize,
    most: Option<usize>,
}

impl<'r> Places<'r> {
    fn at(&mut self, place: usize) -> Result<&mut Goal<'r>, String> {
        if place >= MOST_PLACES {
            return Err(format!("it names more than {MOST_PLACES} elements of an array; name fewer"));
        }
        while self.goals.len() <= place {
            self.goals.push(self.rest.clone());
        }
        Ok(&mut self.goals[place])
    }

    fn each(&mut self, claim: &Claim<'r>, but: impl Fn(usize) -> bool) {
        let claimed = self.goals.iter_mut().enumerate().filter(|(place, _)| !but(*place));
        claimed.for_each(|(_, goal)| goal.push(claim.clone()));
        self.rest.push(claim.clone());
    }
}

impl<'r> Writer<'r> {
    pub fn array(&mut self, array: &Array<'r>) -> Result<Vec<Value>, String> {
        let told = [
            ("\"contains\"", array.contains.is_empty()),
            ("\"unevaluatedItems\"", array.unevaluated.is_empty()),
            ("\"uniqueItems\"", !array.unique),
        ];
        told.iter().filter(|(_, absent)| !absent).for_each(|(what, _)| self.expansion.narrow(what));
        let Some(mut places) = self.places(array)? else { return Ok(Vec::new()) };
        if !array.unique {
            return Ok(self.elements(&places)?.into_iter().collect());
        }
        if places.goals.is_empty() {
            if let Some(values) = self.values(&places.rest)? {
                return Ok(different(&values, &places));
            }
        }
        let different = self.told_apart(&mut places)?;
        if places.least > different {
            return Err(format!(
                "\"uniqueItems\" in it wants {} different elements of an array, which only lists of values \
                 (\"enum\") can promise",
                places.least
            ));
        }
        places.most = Some(places.most.map_or(different, |most| most.min(different)));
        Ok(self.elements(&places)?.into_iter().collect())
    }

    fn places(&mut self, array: &Array<'r>) -> Result<Option<Places<'r>>, String> {
        let mut places = Places { goals: Vec::new(), rest: Vec::new(), least: array.least, most: array.most };
        let named = array.elements.iter().map(|each| each.to.unwrap_or(each.from)).max().unwrap_or(0);
        if named > 0 {
            places.at(named - 1)?;
        }
        for each in &array.elements {
            let Some(claim) = &each.claim else { continue };
            let end = each.to.unwrap_or(named);
            places.goals[each.from..end].iter_mut().for_each(|goal| goal.push(claim.clone()));
            if each.to.is_none() {
                places.rest.push(claim.clone());
            }
        }
        let mut picked: Vec<(usize, &[u32])> = Vec::new();
        for contains in &array.contains {
            let Some(here) = self.pick(contains, &mut places)? else { return Ok(None) };
            picked.extend(here.into_iter().map(|place| (place, &*contains.seers)));
        }
        for (claim, own) in &array.unevaluated {
            let seen = |place: usize| {
                let covers = |from: usize, to: Option<usize>| from <= place && to.is_none_or(|to| place < to);
                let mut elements = array.elements.iter();
                elements.any(|each| covers(each.from, each.to) && each.seers.contains(own))
                    || picked.iter().any(|(at, seers)| *at == place && seers.contains(own))
            };
            for place in (0..places.goals.len()).filter(|place| !seen(*place)) {
                places.goals[place].push(claim.clone());
            }
            if !array.elements.iter().any(|each| each.to.is_none() && each.seers.contains(own)) {
                places.rest.push(claim.clone());
            }
        }
        Ok(Some(places))
    }

    /// The first places that can hold what is to be contained do; None: there are not enough.
    fn pick(
        &mut self,
        contains: &crate::schema_forms::Contains<'r>,
        places: &mut Places<'r>,
    ) -> Result<Option<Vec<usize>>, String> {
        if contains.most.is_some_and(|most| most < contains.least) {
            return Ok(None);
        }
        if contains.least > MOST_PICKED {
            places.each(&contains.claim, |_| false);
            places.least = places.least.max(contains.from + contains.least);
            places.most = crate::schema_forms::least_of(places.most, contains.most);
            return Ok(places.most.is_none_or(|most| places.least <= most).then(Vec::new));
        }
        let mut picked = Vec::new();
        let mut place = contains.from;
        let tried = places.goals.len().max(contains.from) + MOST_PICKED;
        while picked.len() < contains.least {
            if place >= tried || places.most.is_some_and(|most| place >= most) {
                return Ok(None);
            }
            let mut goal = places.at(place)?.clone();
            goal.push(contains.claim.clone());
            if self.goal(&goal)?.is_some() {
                *places.at(place)? = goal;
                picked.push(place);
            }
            place += 1;
        }
        places.least = picked.last().map_or(places.least, |last| places.least.max(last + 1));
        if let Some(most) = contains.most {
            let free = (most - contains.least).min(MOST_PICKED);
            let free: Vec<_> = (0..).filter(|place| !picked.contains(place)).take(free).collect();
            if let Some(last) = free.last() {
                places.at(*last)?;
            }
            places.each(&contains.claim.negated(), |place| picked.contains(&place) || free.contains(&place));
        }
        Ok(Some(picked))
    }

    /// How many elements from the first on never equal one another.
    fn told_apart(&mut self, places: &mut Places<'r>) -> Result<usize, String> {
        let most = places.most.unwrap_or(usize::MAX).min(places.goals.len() + 1);
        for place in 0..most {
            let goal = places.at(place)?.clone();
            for before in 0..place {
                let both: Goal = goal.iter().chain(&places.goals[before]).cloned().collect();
                if !self.expansion.is_impossible(&both)? {
                    return Ok(place);
                }
            }
        }
        Ok(most)
    }

    fn elements(&mut self, places: &Places<'r>) -> Result<Option<Value>, String> {
        let mut first = Vec::new();
        let mut most = places.most;
        for (place, goal) in places.goals.iter().enumerate() {
            if most.is_some_and(|most| place >= most) {
                break;
            }
            match self.goal(goal)? {
                Some(value) => first.push(value),
                None => most = Some(place),
            }
        }
        let rest = if most.is_some_and(|most| most <= first.len()) { None } else { self.goal(&places.rest)? };
        if rest.is_none() {
            most = Some(most.map_or(first.len(), |most| most.min(first.len())));
        }
        if most.is_some_and(|most| most < places.least) {
            return Ok(None);
        }
        let mut array = json!({"type": "array", "items": rest.unwrap_or(Value::Bool(false))});
        if !first.is_empty() {
            array["prefixItems"] = json!(first);
        }
        if places.least > 0 {
            array["minItems"] = json!(places.least);
        }
        if let Some(most) = most {
            array["maxItems"] = json!(most);
        }
        Ok(Some(array))
    }

    pub fn object(&mut self, object: &Object<'r>) -> Result<Vec<Value>, String> {
        if !object.unevaluated.is_empty() {
            self.expansion.narrow("\"unevaluatedProperties\"");
        }
        if !object.names.is_empty() {
            self.expansion.narrow("\"propertyNames\"");
        }
        let keys = if object.names.is_empty() {
            None
        } else {
            let union = self.expansion.goal(&object.names)?;
            Some(union.into_iter().filter(|form| matches!(form, Form::Text(_))).collect::<Vec<_>>())
        };
        let mut properties = Map::new();
        let mut optional = Vec::new();
        for name in self.names(object, keys.as_deref())? {
            let value = self.member(object, keys.as_deref(), &name)?;
            let required = object.required.contains(&name);
            match value {
                None if required => return Ok(Vec::new()),
                None => properties.insert(name, Value::Bool(false)),
                Some(value) => {
                    if !required {
                        optional.push(name.clone());
                    }
                    properties.insert(name, value)
                }
            };
        }
        let (mut patterns, rest) = self.other_members(object, keys.as_deref())?;
        // llguidance holds members with a name to the patterns that match it too.
        if rest == Value::Bool(false) {
            patterns.retain(|_, value| value != &Value::Bool(false));
        }
        if !patterns.is_empty()
            && !object.members.iter().all(|each| matches!(each.keys, Keys::Name(_) | Keys::Pattern(_)))
        {
            self.expansion.narrow("\"additionalProperties\" beside \"patternProperties\"");
        }
        let open = rest != Value::Bool(false) || patterns.values().any(|value| value != &Value::Bool(false));
        let mut whole = Map::from_iter([("type".to_string(), json!("object"))]);
        whole.insert("properties".into(), Value::Object(properties));
        if !patterns.is_empty() {
            whole.insert("patternProperties".into(), Value::Object(patterns));
        }
        whole.insert("additionalProperties".into(), rest);
        if optional.len() > MOST_CHOSEN_FROM && (object.least > 0 || object.most.is_some()) {
            self.expansion.narrow("a bound on the number of members");
        }
        Ok(counted(object, &whole, &optional, open))
    }

    /// Of all members that are spoken of by name.
    fn names(&mut self, object: &Object<'r>, keys: Option<&[Form<'r>]>) -> Result<Vec<String>, String> {
        let mut names: Vec<String> = Vec::new();
        for each in &object.members {
            match &each.keys {
                Keys::Name(name) => names.push(name.clone()),
                Keys::Other(others, _) => names.extend(others.iter().cloned()),
                Keys::Pattern(_) | Keys::All => {}
            }
        }
        names.extend(object.required.iter().cloned());
        for key in keys.unwrap_or_default() {
            if let Form::Text(text) = key {
                names.extend(self.patterns.listed(text)?.unwrap_or_default());
            }
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        self.expansion.spend(names.len() * (object.members.len() + 1) / 50)?;
        Ok(names)
    }

    fn member(&mut self, object: &Object<'r>, keys: Option<&[Form<'r>]>, name: &str) -> Result<Option<Value>, String> {
        let mut allowed = keys.is_none();
        for key in keys.unwrap_or_default() {
            if let Form::Text(text) = key {
                allowed = allowed || self.patterns.has(text, name)?;
            }
        }
        if !allowed {
            return Ok(None);
        }
        let mut goal = Goal::new();
        let mut seen: Vec<&Members<'r>> = Vec::new();
        for each in &object.members {
            let concerns = match &each.keys {
                Keys::Name(own) => own == name,
                Keys::Pattern(pattern) => self.patterns.matches(pattern, name)?,
                Keys::Other(names, _) if names.iter().any(|other| other == name) => false,
                Keys::Other(_, patterns) => {
                    let mut none = true;
                    for pattern in patterns.iter() {
                        none = none && !self.patterns.matches(pattern, name)?;
                    }
                    none
                }
                Keys::All => true,
            };
            if concerns {
                goal.extend(each.claim.clone());
                seen.push(each);
            }
        }
        for (claim, own) in &object.unevaluated {
            if !seen.iter().any(|each| each.seers.contains(own)) {
                goal.push(claim.clone());
            }
        }
        self.goal(&goal)
    }

    /// Of members whose names are not spoken of: by patterns that no name matches two of, and by none of them. Where
    /// patterns overlap, what matches one of them is all that each of them wants.
    fn other_members(
        &mut self,
        object: &Object<'r>,
        keys: Option<&[Form<'r>]>,
    ) -> Result<(Map<String, Value>, Value), String> {
        let mut written = Map::new();
        for group in self.groups(object)? {
            let goal = unnamed(object, &group);
            let mut value = self.goal(&goal)?;
            let pattern = match group.as_slice() {
                [one] => one.clone(),
                many => {
                    self.expansion.narrow("overlapping \"patternProperties\"");
                    many.iter().map(|each| format!("(?:{each})")).collect::<Vec<_>>().join("|")
                }
            };
            if keys.is_some() {
                value = None; // which of them are names that are allowed cannot be told
            }
            written.insert(pattern, value.unwrap_or(Value::Bool(false)));
        }
        let rest = self.goal(&unnamed(object, &[]))?.unwrap_or(Value::Bool(false));
        let Some(keys) = keys else { return Ok((written, rest)) };
        let mut allowed: Vec<String> = Vec::new();
        for key in keys {
            if let Form::Text(text) = key {
                if text.only.is_none() {
                    allowed.extend(schema_text::one_pattern(text)?);
                }
            }
        }
        let allowed: Vec<_> = allowed.iter().map(|each| format!("(?:{each})")).collect();
        let pattern = allowed.join("|");
        let mut apart = !allowed.is_empty();
        for other in written.keys() {
            apart = apart && self.patterns.are_apart(&pattern, other)?;
        }
        if apart && rest != Value::Bool(false) {
            written.insert(pattern, rest);
        }
        Ok((written, Value::Bool(false)))
    }

    fn groups(&mut self, object: &Object<'r>) -> Result<Vec<Vec<String>>, String> {
        let mut all: Vec<String> = Vec::new();
        for each in &object.members {
            match &each.keys {
                Keys::Pattern(pattern) => all.push(pattern.clone()),
                Keys::Other(_, patterns) => all.extend(patterns.iter().cloned()),
                Keys::Name(_) | Keys::All => {}
            }
        }
        all.sort_unstable();
        all.dedup();
        if all.len() > MOST_PATTERNS {
            return Err(format!(
                "an object in it has {} patterns of names, and {MOST_PATTERNS} are the limit",
                all.len()
            ));
        }
        let mut groups: Vec<Vec<String>> = Vec::new();
        for pattern in all {
            let mut own = vec![pattern];
            let mut apart = Vec::new();
            for group in groups {
                let mut meets = false;
                for each in &group {
                    meets = meets || !self.patterns.are_apart(each, &own[0])?;
                }
                if meets {
                    own.extend(group);
                } else {
                    apart.push(group);
                }
            }
            apart.push(own);
            groups = apart;
        }
        Ok(groups)
    }
}

/// What members without a name of their own must be, that match patterns of the group, or, if it is empty, none.
fn unnamed<'r>(object: &Object<'r>, group: &[String]) -> Goal<'r> {
    let mut goal = Goal::new();
    for each in &object.members {
        let concerns = match &each.keys {
            Keys::Name(_) => false,
            Keys::Pattern(pattern) => group.contains(pattern),
            Keys::Other(_, own) => group.is_empty() || !group.iter().all(|pattern| own.contains(pattern)),
            Keys::All => true,
        };
        if concerns {
            goal.extend(each.claim.clone());
        }
    }
    for (claim, own) in &object.unevaluated {
        let seen = |keys: &dyn Fn(&Keys) -> bool| {
            object.members.iter().any(|each| each.seers.contains(own) && keys(&each.keys))
        };
        let is = |keys: &Keys, pattern: &String| matches!(keys, Keys::Pattern(own) if own == pattern);
        let by_patterns = !group.is_empty() && group.iter().all(|pattern| seen(&|keys| is(keys, pattern)));
        if !by_patterns && !seen(&|keys| matches!(keys, Keys::All | Keys::Other(..))) {
            goal.push(claim.clone());
        }
    }
    goal
}

/// Arrays of different values of a list.
fn different(values: &[Value], places: &Places) -> Vec<Value> {
    let most = places.most.unwrap_or(usize::MAX).min(values.len());
    if places.least > most {
        return Vec::new();
    }
    if values.len() > MOST_CHOSEN_FROM {
        let size = most.min(MOST_DIFFERENT).max(places.least).max(1);
        let each = values.chunks(values.len().div_ceil(size));
        let first: Vec<_> = each.map(|chunk| json!({"enum": chunk})).collect();
        let most = most.min(first.len());
        if places.least <= most {
            return vec![json!({"type": "array", "prefixItems": first, "items": false, "minItems": places.least,
                               "maxItems": most})];
        }
        let all: Vec<_> = values[..places.least].iter().map(|value| json!({"const": value})).collect();
        return vec![exactly(&all)];
    }
    let mut ways = Vec::new();
    for chosen in 0..1_usize << values.len() {
        let chosen: Vec<_> = (0..values.len())
            .filter(|place| chosen >> place & 1 == 1)
            .map(|place| json!({"const": values[place]}))
            .collect();
        if chosen.len() >= places.least && chosen.len() <= most {
            ways.push(exactly(&chosen));
        }
    }
    ways
}

fn exactly(elements: &[Value]) -> Value {
    let size = elements.len();
    json!({"type": "array", "prefixItems": elements, "items": false, "minItems": size, "maxItems": size})
}

/// With bounds on the number of members: llguidance can count them where each that has a name is there or is not.
fn counted(object: &Object, whole: &Map<String, Value>, optional: &[String], open: bool) -> Vec<Value> {
    let required = object.required.len();
    let least = Some(object.least).filter(|least| *least > required);
    let most = object.most.filter(|most| open || required + optional.len() > *most);
    let variant = |present: &[&String], absent: &[&String]| {
        let size = required + present.len();
        if object.most.is_some_and(|most| size > most) || (!open && size < object.least) {
            return None;
        }
        let mut object_as = whole.clone();
        let names: Vec<_> = object.required.iter().chain(present.iter().copied()).collect();
        object_as.insert("required".into(), json!(names));
        for name in absent {
            object_as["properties"][name.as_str()] = Value::Bool(false);
        }
        if let Some(least) = least.filter(|_| open) {
            object_as.insert("minProperties".into(), json!(least));
        }
        if let Some(most) = most.filter(|_| open) {
            object_as.insert("maxProperties".into(), json!(most));
        }
        Some(Value::Object(object_as))
    };
    if least.is_none() && most.is_none() {
        let mut object_as = whole.clone();
        object_as.insert("required".into(), json!(object.required));
        return vec![Value::Object(object_as)];
    }
    let count = optional.len();
    if count <= MOST_CHOSEN_FROM {
        let chosen = |set: usize, is: usize| {
            let members = optional.iter().enumerate().filter(move |(i, _)| set >> i & 1 == is);
            members.map(|(_, name)| name).collect::<Vec<_>>()
        };
        return (0..1_usize << count).filter_map(|set| variant(&chosen(set, 1), &chosen(set, 0))).collect();
    }
    // Of many, neighbours.
    let runs = (0..=count).map(|size| (0, size)).chain((1..count).map(|from| (from, count)));
    let variants = runs.filter_map(|(from, to)| {
        let inside = |i: usize| (from..to).contains(&i);
        let present: Vec<_> = optional.iter().enumerate().filter(|(i, _)| inside(*i)).map(|(_, name)| name).collect();
        let absent: Vec<_> = optional.iter().enumerate().filter(|(i, _)| !inside(*i)).map(|(_, name)| name).collect();
        variant(&present, &absent)
    });
    variants.collect()
}
