//! Sentences and limits of constraints, as whole.

use crate::grammar::{Follower, Grammars, Source};
use serde_json::json;
use toktrie::ApproximateTokEnv;

fn accepts(follower: &Follower, text: &str) -> bool {
    let mut at = follower.clone();
    let ids: Vec<u32> = text.bytes().map(u32::from).collect();
    at.consume(&ids).is_ok() && at.accepts().unwrap_or(false)
}

fn grammars() -> Grammars {
    Grammars::new(ApproximateTokEnv::single_byte_env()).unwrap()
}

// Bounds of both kinds on both sides, among them 0, against ways to write numbers.
#[test]
fn numbers_keep_to_their_bounds() {
    let grammars = grammars();
    let bounds = [-5.0, -1.25, -1.0, -0.5, 0.0, 0.25, 1.0, 1.25, 1.5, 12.5];
    let texts = [
        "0", "-0", "0.0", "-0.0", "-0.00", "-0e5", "0e5", "-0.0e1", "-0.1", "0.1", "-1", "1", "-1.0", "1.0", "-5",
        "-5.0", "5", "12", "12.0", "-0.5", "0.25", "0.250", "1e1", "-1e1", "-1.25", "1.25", "1.250", "12.5", "1.5",
    ];
    let sides = |word: &str, exclusive: &str| {
        let each = bounds.iter().flat_map(|b| [(word.to_string(), *b), (exclusive.to_string(), *b)]);
        [None].into_iter().chain(each.map(Some)).collect::<Vec<_>>()
    };
    for kind in ["number", "integer"] {
        for low in sides("minimum", "exclusiveMinimum") {
            for high in sides("maximum", "exclusiveMaximum") {
                let bounds: Vec<_> = [&low, &high].into_iter().flatten().collect();
                let mut whole = json!({"type": kind});
                bounds.iter().for_each(|(word, bound)| whole[word.as_str()] = json!(bound));
                let parts = bounds.iter().map(|(word, bound)| json!({"type": kind, word: bound}));
                let parts = json!({"type": kind, "allOf": parts.collect::<Vec<_>>()});
                for schema in [whole, parts] {
                    let Ok(follower) = grammars.compile(&Source::JsonSchema(&schema.to_string())) else { continue };
                    for text in texts {
                        let value: f64 = text.parse().unwrap();
                        let within = |(word, bound): &&(String, f64)| match word.as_str() {
                            "minimum" => value >= *bound,
                            "maximum" => value <= *bound,
                            "exclusiveMinimum" => value > *bound,
                            _ => value < *bound,
                        };
                        let valid = bounds.iter().all(within) && (kind == "number" || value.fract() == 0.0);
                        assert!(valid || !accepts(&follower, text), "{schema} accepts {text}");
                    }
                }
            }
        }
    }
}

fn refusal(source: &Source) -> String {
    match grammars().compile(source) {
        Ok(_) => {
            let (Source::JsonSchema(text) | Source::Lark(text) | Source::Regex(text)) = source else { unreachable!() };
            panic!("{text} is taken")
        }
        Err(failure) => failure.message,
    }
}

// What libraries below say has words that help nobody who wrote a schema or a grammar.
fn is_ours(sentence: &str) {
    for word in [
        "llguidance",
        "lexer",
        "parser",
        "Unsatisfiable",
        "retriever",
        "Unknown",
        "regex parse",
        "error:",
        "(in regex)",
        "not supported yet",
        "expected token",
        "Expected",
        "Failed",
        "fuel",
        "panic",
        "ff_tokens",
        "Regex",
        "$defs/0",
        "invalid",
        "^^",
        "\n",
        "overflow",
        "Some(",
    ] {
        assert!(!sentence.contains(word), "{word:?} in {sentence:?}");
    }
    assert!(sentence.contains(" cannot be used: "), "{sentence}");
}

#[test]
fn what_is_wrong_in_a_schema_is_told_with_its_place() {
    let cases = [
        ("{", r#"it is not JSON: EOF while parsing an object (line 1, column 1)"#),
        (
            r#"{"type":"string","type":"integer"}"#,
            r#"an object in it has two members named "type" (line 1, column 23)"#,
        ),
        ("[1]", r#"it must be a schema: an object, true or false"#),
        (r#"{"properties":{"a/b":{"minimum":"1"}}}"#, r#"#/properties/a~1b/minimum must be a number"#),
        (r#"{"anyOf":[{},{"exclusiveMaximum":"1"}]}"#, r#"#/anyOf/1/exclusiveMaximum must be a number"#),
        (r#"{"multipleOf":0}"#, r#"#/multipleOf must be a number above 0"#),
        (r#"{"type":"number","multipleOf":1e-300}"#, r#"#/multipleOf must be a number of at most nine digits"#),
        (r#"{"minItems":-1}"#, r#"#/minItems must be a whole number that is not negative"#),
        (r#"{"minLength":0.5}"#, r#"#/minLength must be a whole number that is not negative"#),
        (r#"{"minLength":1000000}"#, r#"#/minLength must be at most 20000"#),
        (r#"{"pattern":1}"#, r#"#/pattern must be a string"#),
        (r#"{"format":1}"#, r#"#/format must be a string"#),
        (r#"{"$ref":1}"#, r#"#/$ref must be a string"#),
        (r#"{"uniqueItems":1}"#, r#"#/uniqueItems must be true or false"#),
        (r#"{"enum":1}"#, r#"#/enum must be a list of values"#),
        (r#"{"required":"a"}"#, r#"#/required must be a list of names"#),
        (r#"{"dependentRequired":{"a":1}}"#, r#"#/dependentRequired must be an object of lists of names"#),
        (r#"{"allOf":{}}"#, r#"#/allOf must be a list of schemas"#),
        (r#"{"properties":3}"#, r#"#/properties must be an object of schemas"#),
        (r#"{"items":{"additionalProperties":4}}"#, r#"#/items/additionalProperties must be a schema"#),
        (r#"{"type":"text"}"#, r#"#/type must be one of null, boolean"#),
        (r#"{"$schema":"http://example.com"}"#, r#"#/$schema is "http://example.com", and must be the address of"#),
        (
            r#"{"items":{"pattern":"(?=a)b"}}"#,
            r#"#/items/pattern cannot be used: at character 1 ((?=a)b) it looks around"#,
        ),
        (
            r#"{"patternProperties":{"(a":{}}}"#,
            r#"#/patternProperties/(a cannot be used: at character 1 ((a) it opens"#,
        ),
        (r#"{"pattern":"a^b"}"#, r#"#/pattern cannot be used: it has a ^ where text comes before it"#),
        (r#"{"pattern":"^(a{1000}){1000}"}"#, r#"#/pattern cannot be used: with its repetitions written out"#),
        (r#"{"type":"string","pattern":"^(a?){200}a{200}$"}"#, r#"its repetitions and alternatives come to more"#),
        (r#"{"x-guidance":{"lenient":true}}"#, r#"#/x-guidance/lenient is none of whitespace_flexible"#),
        (r#"{"x-guidance":{"item_separator":";"}}"#, r#"#/x-guidance/item_separator must be a comma"#),
        (r#"{"x-guidance":{"key_separator":1}}"#, r#"#/x-guidance/key_separator must be a colon"#),
        (r#"{"x-guidance":{"whitespace_flexible":1}}"#, r#"#/x-guidance/whitespace_flexible must be true or false"#),
        (r#"{"x-guidance":1}"#, r#"#/x-guidance must be an object"#),
        (r#"{"$ref":"other.json"}"#, r#"a reference in it leads nowhere: "other.json" would have to be fetched"#),
        (
            r##"{"$ref":"#/$defs/x"}"##,
            r##"the "$ref" "#/$defs/x" in it leads nowhere: there is nothing at "/$defs/x""##,
        ),
        (r##"{"$ref":"#x"}"##, r##"the "$ref" "#x" in it leads nowhere: there is no anchor "x""##),
        (r#"{"$ref":"http://[/"}"#, r#"a reference in it leads nowhere: it is no address"#),
        (r#"{"$id":"http://[/"}"#, r#"its "$id" "http://[/" is no address"#),
        (r##"{"$ref":"#"}"##, r#"no text matches it"#),
        (
            r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##,
            r#"no text matches it"#,
        ),
        (r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##, r#"no text matches it"#),
        (r##"{"type":"array","items":{"$ref":"#"},"minItems":1}"##, r#"no text matches it"#),
        (r#"{"type":"integer","minimum":5,"maximum":3}"#, r#"no value is valid by it"#),
        (r#"{"type":"integer","exclusiveMinimum":3,"exclusiveMaximum":4}"#, r#"no value is valid by it"#),
        (r#"{"type":"string","minLength":5,"maxLength":3}"#, r#"no value is valid by it"#),
        (r#"{"type":"string","pattern":"^a$","minLength":5}"#, r#"no value is valid by it"#),
        (r#"{"type":"string","pattern":"^[]$"}"#, r#"no value is valid by it"#),
        (r#"{"type":"object","properties":{"a":false},"required":["a"]}"#, r#"no value is valid by it"#),
        (r#"{"enum":[]}"#, r#"no value is valid by it"#),
        (r#"{"type":"string","not":{"format":"date"}}"#, r#"no value is found that is valid by it"#),
        (r#"{"type":"integer","minimum":1e300}"#, r#"1e+300 in it is too large"#),
        (r#"{"type":"number","minimum":1e17,"maximum":1e30}"#, "1e+17 in it is too large to be told"),
    ];
    for (schema, sentence) in cases {
        let said = refusal(&Source::JsonSchema(schema));
        is_ours(&said.replace("EOF while parsing", ""));
        assert!(said.starts_with(&format!("the JSON schema cannot be used: {sentence}")), "{schema}: {said}");
    }
}

#[test]
fn what_is_wrong_in_a_grammar_is_told_with_its_place() {
    let cases = [
        ("start: missing", r#"in line 1, column 8, there is no rule or terminal "missing"; define it"#),
        ("start: \"a", "in line 1, column 10, no word of a grammar begins like that"),
        ("start: /(/", "in line 1, column 8, the regular expression is not valid"),
        ("start: /a\\bc/", "in line 1, column 8, the regular expression is not valid"),
        ("start: /[^\\s\\S]/", "no text matches it"),
        ("start: start", "no text matches it"),
        ("start: a\na: \"x\" a", "no text matches it"),
        ("%import common.FOO\nstart: FOO", "in line 1, column 1, there is no such terminal to import"),
        ("start: %json {\"type\":\"foo\"}", "in line 1, column 8, the JSON schema cannot be used"),
        ("start: %json {\"type\"}", "something else is expected there"),
        ("start: \"a\"{5,2}", "in line 1, column 8, a range must begin at 0 or later"),
        ("start: \"a\"{100000}", "its rules can be followed in too many ways"),
        ("start: A\nA: B\nB: A", r#"in line 3, column 4, the terminal "A" is defined by itself"#),
        ("start: <foo>", r#"in line 1, column 8, the vocabulary has no control token "<foo>""#),
        ("start: <[5-3]>", "in line 1, column 8, the range of tokens is empty"),
        ("start: <[99999999]>", "it takes more than the limits allow to compile"),
        ("start: %regex {}", "in line 1, column 8, %regex takes one of the members"),
        ("start: $", "in line 1, column 8, no word of a grammar begins like that"),
        ("a: \"b\"", "it has no rule named start"),
        ("start: \"a\"\nstart: \"b\"", r#"in line 2, column 8, "start" is defined twice"#),
        ("start: \"x\"..\"abc\"", "in line 1, column 8, a range is of single characters"),
        ("start: \"z\"..\"a\"", "in line 1, column 8, a range must"),
        ("start: @foo", "it refers to another grammar"),
        ("start: %lark { start: \"a\" ", "in line 1, column"),
        ("%declare A\nstart: A", "in line 1, column 1, %declare is not supported"),
        ("%override start: \"a\"", "in line 1, column"),
        ("start: A\nA: b\nb: \"x\"", "in line 2, column"),
        ("start[foo=1]: \"a\"", "in line 1, column"),
        ("start[stop=\"a\", suffix=\"b\"]: /a/", "in line 1, column"),
        ("start: (\"a\"", "in line 1, column 12, something else is expected there"),
        ("start.5: \"a\"", "in line 1, column"),
        ("start{x}: \"a\"", "in line 1, column"),
        ("", "it has no rule named start"),
    ];
    for (grammar, sentence) in cases {
        let said = refusal(&Source::Lark(&format!("{grammar}\n")));
        is_ours(&said);
        assert!(said.starts_with(&format!("the grammar cannot be used: {sentence}")), "{grammar}: {said}");
    }
}

#[test]
fn what_would_end_within_a_reply_is_refused_before_it() {
    let endless =
        ["(a?){200}a{200}", "a{100000}", "(a{1,1000}){1,1000}", "((a{1,100}b?){1,100}c?){1,100}", "[^\\s\\S]"];
    endless.iter().for_each(|pattern| is_ours(&refusal(&Source::Regex(pattern))));
    for pattern in ["[0-9]{1000}", "a{20000}", "(a{1,30}){1,30}", "[a-z ]{0,20000}"] {
        assert!(grammars().compile(&Source::Regex(pattern)).is_ok(), "{pattern}");
    }
}
