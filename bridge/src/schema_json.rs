//! JSON in which no name stands twice in one object. Of two members with one name programs take the first, the last or
//! both; where that is a schema, it says different things.

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::Deserializer;
use serde_json::{Map, Number, Value};
use std::fmt;

/// Errors: the end of a sentence.
pub fn read(text: &str) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Unambiguous.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|e| not_json(&e))
}

fn not_json(error: &serde_json::Error) -> String {
    let all = error.to_string();
    let said = all.split(" at line ").next().unwrap_or("");
    let place = format!("line {}, column {}", error.line(), error.column());
    if said.starts_with("recursion limit") {
        return format!("it is nested deeper than 127 levels ({place}); make it flatter");
    }
    match error.classify() {
        serde_json::error::Category::Data => format!("{said} ({place}); keep one of them"),
        _ => format!("it is not JSON: {said} ({place})"),
    }
}

struct Unambiguous;

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = elements.next_element_seed(Unambiguous)? {
            all.push(element);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format!("an object in it has two members named {name:?}")));
            }
            all.insert(name, members.next_value_seed(Unambiguous)?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_that_comes_twice_is_refused() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,0.5,1e3,"\u0061"],"b":{"a":{}}}"#;
        assert_eq!(read(text), Ok(json!({"a": [null, true, -1, u64::MAX, 0.5, 1000.0, "a"], "b": {"a": {}}})));
        let twice = read("{\"x\":{\"type\":\"string\",\n\"\\u0074ype\":\"integer\"}}").unwrap_err();
        assert_eq!(twice, "an object in it has two members named \"type\" (line 2, column 11); keep one of them");
        assert_eq!(read("{} {}").unwrap_err(), "it is not JSON: trailing characters (line 1, column 4)");
        assert_eq!(read("").unwrap_err(), "it is not JSON: EOF while parsing a value (line 1, column 0)");
        assert!(read(&"[".repeat(200)).unwrap_err().starts_with("it is nested deeper than 127 levels"));
    }
}
