//! Chat templates: Jinja as Hugging Face's transformers sets it up, with hard limits.

mod functions;
mod guard;
mod meter;
mod namespace;
mod python;

use crate::abi::panic_text;
use crate::failure::{Code, Failure};
use functions::Refusal;
use minijinja::machinery::{self, CodeGenerator, Vm, WhitespaceConfig};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use regex::Regex;
use serde_json::Value as Json;

/// Deeply nested values and expressions take stack to walk and to drop; limits elsewhere keep both
/// below this much, which is reserved, not used.
const STACK: usize = 256 << 20;
const LONGEST_SOURCE: usize = 256 << 10;
const NAME: &str = "chat_template";

pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, Failure> {
        if source.len() > LONGEST_SOURCE {
            let message = format!("the chat template has {} bytes; the limit is {LONGEST_SOURCE}", source.len());
            return Err(Failure::new(Code::Unsupported, message));
        }
        let template = ChatTemplate {
            environment: functions::environment(),
            source: without_generation_marks(source),
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        };
        on_large_stack(|| compile(&template.source).map(drop).map_err(|e| failure(&e)))?;
        Ok(template)
    }

    /// context: a JSON object.
    pub fn render(&self, context: &[u8]) -> Result<String, Failure> {
        on_large_stack(|| {
            let root = self.root(context)?;
            meter::fill(context.len());
            let _empty_at_end = namespace::EmptyAtEnd;
            self.run(root).map_err(|e| failure(&e))
        })
    }

    fn root(&self, context: &[u8]) -> Result<Value, Failure> {
        let invalid = |message: String| Failure::new(Code::InvalidArgument, message);
        let json: Json =
            serde_json::from_slice(context).map_err(|e| invalid(format!("the conversation is not valid JSON: {e}")))?;
        let Json::Object(mut json) = json else {
            return Err(invalid("the conversation must be a JSON object with an array \"messages\"".into()));
        };
        if !json.get("messages").is_some_and(Json::is_array) {
            return Err(invalid("the conversation has no array \"messages\"".into()));
        }
        for (name, text) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            json.entry(name).or_insert_with(|| text.as_str().into());
        }
        Ok(Value::from_serialize(json))
    }

    fn run(&self, root: Value) -> Result<String, Error> {
        let (instructions, blocks) = compile(&self.source)?;
        let mut text = String::new();
        let mut output = machinery::make_string_output(&mut text);
        Vm::new(&self.environment).eval(&instructions, root, &blocks, &mut output, AutoEscape::None)?;
        Ok(text)
    }
}

type Compiled<'s> = (machinery::Instructions<'s>, std::collections::BTreeMap<&'s str, machinery::Instructions<'s>>);

/// Cheap (0.1 ms) beside what it makes possible: nothing here borrows from itself.
fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let whitespace = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let tree = guard::statement(&machinery::parse(source, NAME, Default::default(), whitespace)?);
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&tree);
    Ok(generator.finish())
}

/// `{% generation %}` marks what a model wrote, for training; it prints as if it were not there.
fn without_generation_marks(source: &str) -> String {
    let mark = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a constant pattern compiles");
    let plain = |found: &regex::Captures| {
        let tag = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {tag} {}%}}", &found[1], &found[3])
    };
    mark.replace_all(source, plain).into_owned()
}

fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let no_thread =
        |e| Failure::new(Code::Exhausted, format!("no thread could be started to render the chat template: {e}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).map_err(no_thread)?;
        thread.join().unwrap_or_else(|panic| {
            let message = format!("the template library failed inside: {}", panic_text(&*panic));
            Err(Failure::new(Code::Internal, message))
        })
    })
}

fn failure(error: &Error) -> Failure {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(at) = cause {
        if let Some(Refusal(message)) = at.downcast_ref() {
            return Failure::new(Code::InvalidArgument, format!("the chat template refuses: {message}"));
        }
        if let Some(stopped) = at.downcast_ref::<Error>().filter(|e| e.kind() == ErrorKind::OutOfFuel) {
            let why = stopped.detail().unwrap_or("it takes too many steps");
            let line = stopped.line().map_or(String::new(), |line| format!(" in line {line}"));
            return Failure::new(Code::Exhausted, format!("the chat template was stopped{line}: {why}"));
        }
        cause = at.source();
    }
    Failure::new(Code::InvalidArgument, format!("the chat template fails: {error}"))
}
