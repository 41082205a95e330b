//! An expected failure: what kind, and one sentence for the user.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    InvalidArgument = 1,
    Corrupt = 2,
    Unsupported = 3,
    Exhausted = 4,
    Internal = 5,
}

#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    pub fn corrupt(message: impl Into<String>) -> Self {
        Failure::new(Code::Corrupt, message)
    }
}
