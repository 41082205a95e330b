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

#[test]
fn numbers_that_no_double_tells_are_refused_wherever_they_count() {
    let number = "123456789012345678901234567890";
    for schema in [
        r#"{"const":N}"#,
        r#"{"const":-N}"#,
        r#"{"enum":["a",[1,{"b":N}]]}"#,
        r#"{"enum":[18446744073709551617]}"#,
        r#"{"const":1152921504606846976}"#,
        r#"{"const":9007199254740993.0}"#,
        r#"{"const":{"default":N}}"#,
        r#"{"type":"number","minimum":-N}"#,
        r#"{"type":"number","maximum":N}"#,
        r#"{"type":"integer","minimum":N}"#,
        r#"{"type":"number","exclusiveMinimum":-N}"#,
        r#"{"type":"number","exclusiveMaximum":N}"#,
        r#"{"type":"number","multipleOf":N}"#,
        r#"{"properties":{"default":{"const":N}}}"#,
        r##"{"x":{"default":{"const":N}},"$ref":"#/x/default"}"##,
    ] {
        let said = refusal(&Source::JsonSchema(&schema.replace('N', number)));
        assert!(said.ends_with("too large to be told from the next number; keep below 2^53"), "{schema}: {said}");
    }
    let tools = json!({"style": "json", "tool_choice": "required", "tools": [{"name": "f", "parameters": {}}]});
    let tools = tools.to_string().replace("\"parameters\":{}", &format!(r#""parameters":{{"const":{number}}}"#));
    let said = grammars().compile_tool_calls(&tools).err().map_or(String::new(), |failure| failure.message);
    assert!(said.contains("too large to be told"), "{said}");
    let notes = r#"{"type":"integer","maximum":N,"default":N,"examples":[N],"properties":{"n":{"default":N}}}"#;
    let follower = grammars().compile(&Source::JsonSchema(&notes.replace('N', number))).unwrap();
    assert!(accepts(&follower, "9223372036854775807") && !accepts(&follower, "9223372036854775808"));
    let follower = grammars().compile(&Source::JsonSchema(r#"{"enum":[9007199254740992]}"#)).unwrap();
    assert!(accepts(&follower, "9007199254740992"));
}

// What is too much to follow, or told too narrowly, need not be empty.
#[test]
fn that_nothing_is_valid_is_said_only_where_it_is_sure() {
    let complex = "a pattern in it is too complex to be combined";
    let not_found = "no value is found that is valid by it: what a negated";
    for (schema, sentence) in [
        (r#"{"type":"string","pattern":"^a*b{1,150}$","minLength":200,"maxLength":300}"#, complex),
        (r#"{"type":"string","pattern":"^a*b{1,150}$","minLength":200}"#, complex),
        (
            r#"{"patternProperties":{"b$":{}},"additionalProperties":false,"not":{"additionalProperties":false}}"#,
            not_found,
        ),
        (
            r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^[A-Z]$",
                "not":{"pattern":"[A-Y]"},"allOf":[{"maxLength":1},{"pattern":"^[^Z]$|^Z$"}]}},
                "not":{"patternProperties":{"^x":{"type":"string"}}},"additionalProperties":false}"#,
            not_found,
        ),
        (
            r#"{"oneOf":[{"type":"object","properties":{"p1":{}},"additionalProperties":false},
                {"type":"object","properties":{"p2":{}},"additionalProperties":false}]}"#,
            not_found,
        ),
    ] {
        let said = refusal(&Source::JsonSchema(schema));
        is_ours(&said);
        assert!(said.starts_with(&format!("the JSON schema cannot be used: {sentence}")), "{schema}: {said}");
    }
    let said = refusal(&Source::JsonSchema(r#"{"type":"object","minProperties":1,"additionalProperties":{"not":{}}}"#));
    assert!(said.ends_with("no value is valid by it"), "{said}");
}

#[test]
fn an_optional_part_that_cannot_be_is_left_out() {
    let impossible = r#"{"type":"object","properties":{"c":{"anyOf":[{"type":"string","pattern":"^\\d{2}$",
        "maxLength":1}]},"d":{"oneOf":[{"not":{}}]}},"required":["c"]}"#;
    let compile = |schema: &str| grammars().compile(&Source::JsonSchema(&schema.replace("NO", impossible)));
    let follower = compile(r#"{"properties":{"a":NO,"b":{"items":NO}},"type":"object"}"#).unwrap();
    for good in ["{}", r#"{"b":1}"#, r#"{"b":[]}"#, r#"{"c":{"c":""}}"#] {
        assert!(accepts(&follower, good), "{good}");
    }
    for bad in [r#"{"a":1}"#, r#"{"a":{"c":""}}"#, r#"{"b":[1]}"#] {
        assert!(!accepts(&follower, bad), "{bad}");
    }
    // What no other member may be called says nothing of those that have a name.
    let named = r#"{"patternProperties":{"a":{"required":["x"]}},"const":{"ab":1},"not":{"const":2}}"#;
    let follower = compile(named).unwrap();
    assert!(accepts(&follower, r#"{"ab":1}"#) && !accepts(&follower, r#"{"a":1}"#));
    let follower = compile(r#"{"anyOf":[NO,{"type":"integer"}]}"#).unwrap();
    assert!(accepts(&follower, "1") && !accepts(&follower, r#"{"c":""}"#));
    let none = "the JSON schema cannot be used: no value is valid by it";
    for schema in ["NO", r#"{"type":"object","properties":{"a":NO},"required":["a"]}"#, r#"{"anyOf":[NO,NO]}"#] {
        assert_eq!(compile(schema).err().map(|failure| failure.message).as_deref(), Some(none), "{schema}");
    }
    let own = |i: usize| format!(r#""p{i}":{}"#, impossible.replace("\"d\"", &format!("\"d{i}\"")));
    let many = (0..20).map(own).collect::<Vec<_>>().join(",");
    let said = refusal(&Source::JsonSchema(&format!(r#"{{"properties":{{{many}}}}}"#)));
    assert!(said.ends_with("it has more parts that no value is valid by than can be left out of it; leave them out"), "{said}");
}

#[test]
fn alternatives_that_overlap_are_counted_first() {
    let part = |i: usize| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}});
    let all = |size: usize| json!({"oneOf": (0..size).map(part).collect::<Vec<_>>()}).to_string();
    assert!(grammars().compile(&Source::JsonSchema(&all(40))).is_ok());
    let before = std::time::Instant::now();
    let said = refusal(&Source::JsonSchema(&all(200)));
    assert!(said.ends_with("its alternatives are too many to be taken apart; make it simpler"), "{said}");
    // To do it takes three.
    assert!(before.elapsed() < std::time::Duration::from_secs(1), "{:?}", before.elapsed());
}

#[test]
fn what_is_wrong_in_gbnf_is_told_in_its_own_words() {
    let cases = [
        ("root ::= \"x\" foo\n", r#"in line 1, there is no rule "foo"; define it"#),
        ("# a\nroot ::= \"x\" |\n  my-Rule\n", r#"in line 3, there is no rule "my-Rule"; define it"#),
        ("root ::= a\na ::= \"b\"\n\na ::= \"c\"\n", r#"in line 4, "a" is defined twice"#),
        ("foo ::= \"x\"\n", "it has no rule named root; name the first one so"),
        ("foo ::= \"x\"\nroot ::= foo\n\n  | (\"a\"\n", "in line 4, something else is expected there"),
        ("root ::= \"\u{e9}\"\n  foo\nfoo ::=\n \"a\" )\n", "in line 4, something else is expected there"),
        ("foo ::= \"x\"\nroot ::= foo\n foo{5,2}\n", "in line 2, a range must begin at 0 or later"),
        ("root ::= root\n", "no text matches it"),
    ];
    for (grammar, sentence) in cases {
        let said = refusal(&Source::Lark(grammar));
        is_ours(&said);
        assert!(said.starts_with(&format!("the grammar cannot be used: {sentence}")), "{grammar}: {said}");
    }
}
