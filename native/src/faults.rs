//! Why a row fails, in the codes and words of `milkrun.codecs.json.faults`, and the paths that lead to a value.

use std::borrow::Cow;

/// The codes as the errors table has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    Empty,
    Utf8,
    Syntax,
    Depth,
    NotObject,
    Type,
    Range,
    Format,
    Required,
    UnknownField,
    TooLarge,
}

impl Code {
    pub fn text(self) -> &'static str {
        match self {
            Code::Empty => "empty",
            Code::Utf8 => "utf8",
            Code::Syntax => "syntax",
            Code::Depth => "depth",
            Code::NotObject => "not_object",
            Code::Type => "type",
            Code::Range => "range",
            Code::Format => "format",
            Code::Required => "required",
            Code::UnknownField => "unknown_field",
            Code::TooLarge => "too_large",
        }
    }
}

/// What is wrong with a value, wherever it stands.
#[derive(Debug)]
pub struct Reason {
    pub code: Code,
    pub message: Cow<'static, str>,
}

impl Reason {
    pub fn new(code: Code, message: &'static str) -> Reason {
        Reason { code, message: Cow::Borrowed(message) }
    }

    pub fn owned(code: Code, message: String) -> Reason {
        Reason { code, message: Cow::Owned(message) }
    }

    /// This reason at a place: the path to it, and its bytes from the row's first.
    pub fn at(self, path: String, offset: usize) -> Fault {
        Fault { reason: self, path, offset }
    }
}

/// What is wrong with a row.
#[derive(Debug)]
pub struct Fault {
    pub reason: Reason,
    pub path: String,
    pub offset: usize,
}

/// A step on the way to a value.
pub enum Step<'a> {
    Name(Cow<'a, str>),
    Index(usize),
}

const LONGEST_NAME: usize = 100;

/// The steps as people write them; long names are cut.
pub fn path_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Index(index) => text += &format!("[{index}]"),
            Step::Name(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                match name.char_indices().nth(LONGEST_NAME) {
                    Some((end, _)) => {
                        text += &name[..end];
                        text.push('…');
                    }
                    None => text += name,
                }
            }
        }
    }
    text
}
