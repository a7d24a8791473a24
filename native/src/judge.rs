//! One event at a time against a schema, exactly: appended to the columns, or the first reason why it can't be.
//!
//! Mirrors `milkrun.codecs.json.exact`. What a failed event has left in the columns is the caller's to take back.

use std::borrow::Cow;

use crate::columns::{Column, Full};
use crate::document::{Document, ROOT, Type};
use crate::faults::{Code, Fault, Reason, Step, path_text};
use crate::numbers;
use crate::schema::{Fields, Kind, Leaf, Node, Only};
use crate::times;

/// How names and kinds of values are matched beyond the letter.
#[derive(Clone, Copy, Default)]
pub struct Latitude {
    /// Names match whatever their case.
    pub ignore_case: bool,
    /// Texts of numbers are taken as numbers, and scalars as texts, as ksqlDB does.
    pub coerce: bool,
}

/// Why an event isn't in the columns.
pub enum Verdict {
    Fault(Fault),
    Full,
}

impl From<Full> for Verdict {
    fn from(_: Full) -> Verdict {
        Verdict::Full
    }
}

/// What is learnt of an event on the way.
#[derive(Default)]
pub struct Findings {
    /// Fields the schema lacks that say something: the struct's number, and the name.
    pub unknown: Vec<(u32, String)>,
    /// Keys dropped for a later one of the same name.
    pub duplicates: u64,
    /// Whether there is any field that the schema lacks.
    pub strange: bool,
}

/// Append an event to the columns of its schema.
pub fn append(
    document: &Document,
    root: &Fields,
    columns: &mut [Column],
    row: usize,
    latitude: Latitude,
) -> Result<Findings, Verdict> {
    let findings = Findings { duplicates: document.duplicates, ..Findings::default() };
    let mut judge = Judge { document, latitude, findings, steps: Vec::new() };
    judge.members(ROOT, root, columns, row)?;
    Ok(judge.findings)
}

struct Judge<'d, 'a> {
    document: &'d Document<'a>,
    latitude: Latitude,
    findings: Findings,
    steps: Vec<Step<'a>>,
}

impl Judge<'_, '_> {
    /// The members of an object, in the order of the document, so that the first error is.
    fn members(
        &mut self,
        object: usize,
        fields: &Fields,
        columns: &mut [Column],
        length: usize,
    ) -> Result<(), Verdict> {
        for (member, field) in self.matched(object, fields) {
            self.steps.push(Step::Name(self.document.key(member)));
            match field {
                Some(field) => self.value(member, &fields.nodes[field], &mut columns[field])?,
                None if fields.closed => {
                    return Err(self.fault(Code::UnknownField, "the schema has no such field here", member));
                }
                None => self.note_unknown(member, fields),
            }
            self.steps.pop();
        }
        for (node, column) in fields.nodes.iter().zip(columns) {
            if column.len() > length {
                continue;
            }
            if node.required || node.present {
                self.steps.push(Step::Name(Cow::Owned(node.name.clone())));
                return Err(self.fault(Code::Required, "missing, and the schema requires it", object));
            }
            column.push_null_of(node)?;
        }
        Ok(())
    }

    /// Each member with the field it is; without case, of several members for one field the last.
    fn matched(&mut self, object: usize, fields: &Fields) -> Vec<(usize, Option<usize>)> {
        let members = self.document.below(object);
        if !self.latitude.ignore_case {
            return members.map(|member| (member, fields.named(&self.document.key(member)))).collect();
        }
        let mut matched: Vec<(usize, Option<usize>)> =
            members.map(|member| (member, fields.named_without_case(&self.document.key(member)))).collect();
        let mut taken = vec![false; fields.nodes.len()];
        matched.reverse();
        matched.retain(|(_, field)| {
            let overwritten = field.is_some_and(|field| std::mem::replace(&mut taken[field], true));
            self.findings.duplicates += u64::from(overwritten);
            !overwritten
        });
        matched.reverse();
        matched
    }

    fn note_unknown(&mut self, member: usize, fields: &Fields) {
        self.findings.strange = true;
        if !self.document.says_nothing(member) {
            self.findings.unknown.push((fields.number, self.document.key(member).into_owned()));
        }
    }

    fn value(&mut self, value: usize, node: &Node, column: &mut Column) -> Result<(), Verdict> {
        let kind = self.document.value(value).kind;
        if kind == Type::Null {
            if node.required {
                return Err(self.fault(Code::Required, "null, and the schema requires a value", value));
            }
            if node.no_null {
                return Err(self.fault(Code::Type, "null, which the schema doesn't allow", value));
            }
            return Ok(column.push_null_of(node)?);
        }
        let length = column.len();
        match &node.kind {
            Kind::Leaf(leaf) => {
                if let Err(reason) = self.scalar(value, *leaf, column)? {
                    return Err(self.reason(reason, value));
                }
            }
            Kind::Open(only) => {
                match only {
                    Only::Object => self.demand(Type::Object, value)?,
                    Only::Array => self.demand(Type::Array, value)?,
                    Only::Any => {}
                }
                column.text().push(self.document.text(value))?;
            }
            Kind::Struct(fields) => {
                self.demand(Type::Object, value)?;
                self.members(value, fields, column.members(), length)?;
            }
            Kind::List(item) => {
                self.demand(Type::Array, value)?;
                let (offsets, items) = column.list();
                for (index, each) in self.document.below(value).enumerate() {
                    self.steps.push(Step::Index(index));
                    self.value(each, item, items)?;
                    self.steps.pop();
                }
                offsets.push(items.len())?;
            }
            Kind::Map(inner) => {
                self.demand(Type::Object, value)?;
                let (offsets, entries) = column.map();
                for member in self.document.members_by_first(value) {
                    let key = self.document.key(member);
                    entries.keys.push_text(key.as_bytes())?;
                    self.steps.push(Step::Name(key));
                    self.value(member, inner, &mut entries.values)?;
                    self.steps.pop();
                }
                offsets.push(entries.values.len())?;
            }
        }
        column.valid();
        Ok(())
    }

    fn demand(&self, due: Type, value: usize) -> Result<(), Verdict> {
        let found = self.document.value(value).kind;
        if found == due { Ok(()) } else { Err(self.reason(mismatch(due.text(), found), value)) }
    }

    fn scalar(&self, value: usize, leaf: Leaf, column: &mut Column) -> Result<Result<(), Reason>, Full> {
        let kind = self.document.value(value).kind;
        let number = |due: &str| self.number(value, due);
        let string = |due: &str| match kind {
            Type::String => Ok(self.document.string(value)),
            _ => Err(mismatch(due, kind)),
        };
        Ok(match leaf {
            Leaf::Boolean if kind == Type::Boolean => {
                column.bits().push(self.document.text(value) == b"true");
                Ok(())
            }
            Leaf::Boolean => Err(mismatch("a boolean", kind)),
            Leaf::Text => match self.as_text(value) {
                Ok(string) => Ok(column.text().push(string.as_bytes())?),
                Err(reason) => Err(reason),
            },
            Leaf::Integer { bits } => number("an integer")
                .and_then(|text| numbers::integer(text.as_bytes(), bits))
                .map(|number| column.integers().push(number)),
            Leaf::Double => number("a number")
                .and_then(|text| numbers::double(text.as_bytes()))
                .map(|number| column.doubles().push(number)),
            Leaf::Decimal { precision, scale } => number("a number")
                .and_then(|text| numbers::decimal(text.as_bytes(), precision, scale))
                .map(|number| column.decimals().push(number)),
            Leaf::DecimalText { precision, scale } => string("a string")
                .and_then(|text| numbers::decimal_text(text.as_bytes(), precision, scale))
                .map(|number| column.decimals().push(number)),
            Leaf::Timestamp => string("a timestamp as text")
                .and_then(|text| times::timestamp(text.as_bytes()).ok_or_else(no_timestamp))
                .map(|micros| column.integers().push(micros)),
            Leaf::Epoch { power } => number(&format!("a timestamp as a number ({})", numbers::unit_name(power)))
                .and_then(|text| numbers::epoch(text.as_bytes(), power))
                .map(|micros| column.integers().push(micros)),
            Leaf::Date => string("a date as text")
                .and_then(|text| times::date(text.as_bytes()).ok_or_else(no_date))
                .map(|days| column.days().push(days)),
            Leaf::Time => string("a time of day as text")
                .and_then(|text| times::time(text.as_bytes()).ok_or_else(no_time))
                .map(|micros| column.integers().push(micros)),
        })
    }

    /// The text of a number; where that is allowed, of a string that is one.
    fn number(&self, value: usize, due: &str) -> Result<Cow<'_, str>, Reason> {
        match self.document.value(value).kind {
            Type::Number => Ok(String::from_utf8_lossy(self.document.text(value))),
            Type::String if self.latitude.coerce => {
                let text = self.document.string(value);
                if numbers::is_number(text.as_bytes()) {
                    Ok(text)
                } else {
                    Err(Reason::owned(Code::Format, format!("expected {due}, found a string that is no number")))
                }
            }
            kind => Err(mismatch(due, kind)),
        }
    }

    /// A string; where that is allowed, the text of any other value.
    fn as_text(&self, value: usize) -> Result<Cow<'_, str>, Reason> {
        match self.document.value(value).kind {
            Type::String => Ok(self.document.string(value)),
            _ if self.latitude.coerce => Ok(String::from_utf8_lossy(self.document.text(value))),
            kind => Err(mismatch("a string", kind)),
        }
    }

    fn fault(&self, code: Code, message: &'static str, value: usize) -> Verdict {
        self.reason(Reason::new(code, message), value)
    }

    fn reason(&self, reason: Reason, value: usize) -> Verdict {
        Verdict::Fault(reason.at(path_text(&self.steps), self.document.offset(value)))
    }
}

fn mismatch(due: &str, found: Type) -> Reason {
    Reason::owned(Code::Type, format!("expected {due}, found {}", found.text()))
}

fn no_timestamp() -> Reason {
    Reason::new(Code::Format, "expected an RFC 3339 timestamp with offset, like 2026-11-24T10:00:00Z")
}

fn no_date() -> Reason {
    Reason::new(Code::Format, "expected a date, like 2026-11-24")
}

fn no_time() -> Reason {
    Reason::new(Code::Format, "expected a time of day, like 10:00:00 or 10:00:00+01:00")
}
