//! What tool calls look like: the definition of a constraint on them, and the grammar of the calls themselves.
//! What stands before and between calls is `tool_places`' matter.

use crate::grammar::WHITE_SPACE;
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{json, Value};
use std::fmt::Write;

pub const PYTHON_TAG: &str = "<|python_tag|>";
const MOST_TOOLS: usize = 1_000;
const LONGEST_NAME: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Hermes,
    Llama3,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Any text, and in it any calls.
    Automatic,
    /// Nothing but calls.
    Required,
    /// No calls.
    None,
}

pub struct Tool {
    pub name: String,
    pub parameters: Value,
}

pub struct ToolCalls {
    pub style: Style,
    pub choice: Choice,
    /// Those that may be called.
    pub tools: Vec<Tool>,
}

impl ToolCalls {
    /// Of {"style", "tools": [{"name", "parameters"}], "tool_choice": "auto", "required", "none" or {"name"}}.
    pub fn read(text: &str) -> Result<Self, String> {
        let all: Value = serde_json::from_str(text).map_err(|e| format!("their definition is not JSON: {e}"))?;
        let style = match all["style"].as_str() {
            Some("hermes") => Style::Hermes,
            Some("llama3") => Style::Llama3,
            Some("json") => Style::Json,
            _ => return Err(r#""style" must be "hermes", "llama3" or "json""#.into()),
        };
        let listed = all["tools"].as_array().ok_or(r#""tools" must be a list"#)?;
        if listed.is_empty() || listed.len() > MOST_TOOLS {
            return Err(format!("there are {} tools; give 1 to {MOST_TOOLS}", listed.len()));
        }
        let mut tools: Vec<Tool> = Vec::new();
        for each in listed {
            let name = each["name"].as_str().unwrap_or("");
            if name.is_empty() || name.len() > LONGEST_NAME {
                return Err(format!(r#"a tool's "name" must be a text of 1 to {LONGEST_NAME} bytes"#));
            }
            if tools.iter().any(|tool| tool.name == name) {
                return Err(format!("there are two tools named {name:?}"));
            }
            tools.push(Tool { name: name.into(), parameters: each["parameters"].clone() });
        }
        let choice = match &all["tool_choice"] {
            Value::String(word) if word == "auto" => Choice::Automatic,
            Value::String(word) if word == "required" => Choice::Required,
            Value::String(word) if word == "none" => Choice::None,
            choice => {
                let name = choice["name"].as_str().ok_or(
                    r#""tool_choice" must be "auto", "required", "none" or an object with the "name" of a tool"#,
                )?;
                tools.retain(|tool| tool.name == name);
                if tools.is_empty() {
                    return Err(format!("the tool that must be called, {name:?}, is not among the tools"));
                }
                Choice::Required
            }
        };
        Ok(ToolCalls { style, choice, tools })
    }

    /// Requires: schemas, one for the arguments of each tool; `tag`: PYTHON_TAG is a token of its own.
    pub fn grammar(&self, schemas: Vec<Value>, tag: bool) -> TopLevelGrammar {
        let mut grammars = vec![GrammarWithLexer::from_lark(self.lark(tag))];
        for (i, schema) in schemas.into_iter().enumerate() {
            let mut arguments = GrammarWithLexer::from_json_schema(schema);
            arguments.name = Some(format!("arguments{i}"));
            grammars.push(arguments);
        }
        TopLevelGrammar { grammars, max_tokens: None }
    }

    /// Around the arguments white space is what it is in them, so that llguidance takes all for one language.
    fn lark(&self, tag: bool) -> String {
        let start = match (self.style, self.choice) {
            (Style::Hermes, Choice::Required) => "call+",
            (Style::Hermes, _) => "call",
            (Style::Llama3, _) => "tag? object (\";\" object)*",
            (Style::Json, _) => "plain | \"```json\" plain \"```\" | \"```\" plain \"```\"",
        };
        let arguments = if self.style == Style::Llama3 { "parameters" } else { "arguments" };
        let tag = if tag { PYTHON_TAG.to_string() } else { json!(PYTHON_TAG).to_string() };
        let mut lark = format!("%llguidance {{\"ignore_once\": true}}\n%ignore /{WHITE_SPACE}/\nstart: {start}\n");
        match self.style {
            Style::Hermes => lark.push_str("call: \"<tool_call>\" object \"</tool_call>\"\n"),
            Style::Llama3 => lark.push_str(&format!("tag: {tag}\n")),
            Style::Json => lark.push_str("plain: object | \"[\" object (\",\" object)* \"]\"\n"),
        }
        lark.push_str("object: \"{\" \"\\\"name\\\"\" \":\" named \"}\"\nnamed: ");
        for (i, tool) in self.tools.iter().enumerate() {
            let name = json!(json!(tool.name).to_string());
            let or = if i > 0 { "\n  | " } else { "" };
            let _ = write!(lark, "{or}{name} \",\" \"\\\"{arguments}\\\"\" \":\" @arguments{i}");
        }
        lark.push('\n');
        lark
    }
}

/// A schema by which arguments are an object, whatever else it says.
pub fn of_an_object(mut schema: Value) -> Result<Value, String> {
    let Value::Object(members) = &mut schema else { return Err("they must be a JSON schema, which is an object".into()) };
    let has_object = match members.get("type") {
        None => true,
        Some(Value::String(only)) => only == "object",
        Some(Value::Array(any)) => any.iter().any(|each| each == "object"),
        Some(_) => true, // refused as a schema
    };
    if !has_object {
        return Err("arguments are an object, which their \"type\" does not allow".into());
    }
    // Beside a reference some drafts see nothing.
    if let Some(reference) = members.shift_remove("$ref") {
        let all = members.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(all) = all {
            all.push(json!({"$ref": reference}));
        }
    }
    if !members.get("type").is_some_and(|kind| !kind.is_string() && !kind.is_array()) {
        members.insert("type".into(), json!("object"));
    }
    Ok(schema)
}
