//! Typed columns to one JSON text a row, straight into one buffer, row by row along the tree of their types.
//!
//! Mirrors `milkrun.encoding.python` to the byte; `milkrun.encoding.forms` says what is written for each kind of value.

use std::borrow::Cow;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::arrow::Array;
use crate::columns::{Column as Texts, Full};
use crate::document::{Document, ROOT, Type};
use crate::short::Piece;
use crate::views::{Bits, Foreign, Offsets, Strings, malformed};
use crate::writing;

/// Levels to which the rest of an event is followed.
const MAX_DEPTH: usize = 1_000;
/// Rows after which the size of all is guessed.
const SAMPLE: usize = 64;

const YEARS: &str = "is not within the years 1 to 9999";
const DAY: &str = "is no time of a day";
const NO_OBJECT: &str = "is no JSON object";

/// How a column is written, as `milkrun.encoding.forms` has it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Form {
    name: String,
    key: String,
    path: String,
    kind: String,
    digits: i32,
    java: bool,
    quoted: bool,
    zoned: bool,
    nulls: bool,
    children: Vec<Form>,
}

/// Why a row has no text.
pub enum Stop<'a> {
    Full,
    /// The value at a path is one for which JSON has none.
    Unfit {
        path: &'a str,
        what: &'static str,
    },
}

impl From<Full> for Stop<'_> {
    fn from(_: Full) -> Self {
        Stop::Full
    }
}

type Step<'a> = Result<(), Stop<'a>>;

/// The texts of a column, null where it is null; the row in which a value is unfit.
pub fn encode<'a>(column: &Column<'a>, rows: usize) -> Result<Array, (usize, Stop<'a>)> {
    let mut texts = Texts::texts();
    for row in 0..rows {
        if row == SAMPLE {
            let text = &mut texts.text().bytes;
            // An eighth more than the first rows had, so that the buffer seldom moves.
            text.reserve_exact(text.len() / SAMPLE * (rows - SAMPLE) / 8 * 9);
        }
        if column.is_null(row) {
            texts.push_null().map_err(|_| (row, Stop::Full))?;
            continue;
        }
        let text = texts.text();
        column.write(row, &mut text.bytes).map_err(|stop| (row, stop))?;
        text.end().map_err(|_| (row, Stop::Full))?;
        texts.valid();
    }
    Ok(texts.finish_scalars())
}

/// A column ready to be written.
pub struct Column<'a> {
    form: &'a Form,
    key: Piece,
    validity: Option<Bits<'a>>,
    source: Source<'a>,
}

/// What is written for the values, and where they are.
enum Source<'a> {
    Null,
    Boolean(Bits<'a>),
    Integer(Integers<'a>),
    Float(&'a [f32]),
    Double(&'a [f64]),
    Decimal(Decimals<'a>),
    Text(Strings<'a>),
    Json(Strings<'a>),
    Bytes(Strings<'a>),
    /// Dates as numbers of which a day has so many, and whether they are written as such.
    Date {
        dates: Integers<'a>,
        per_day: i64,
        days: bool,
    },
    Time(Integers<'a>),
    Timestamp(&'a [i64]),
    Count {
        counts: Integers<'a>,
        exact: bool,
    },
    Struct {
        members: Vec<Column<'a>>,
        rest: Option<Box<Column<'a>>>,
    },
    List(Offsets<'a>, Box<Column<'a>>),
    Map(Offsets<'a>, Strings<'a>, Box<Column<'a>>),
    Dictionary(Integers<'a>, Box<Column<'a>>),
}

/// Integers of any width.
enum Integers<'a> {
    I8(&'a [i8]),
    I16(&'a [i16]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
}

impl<'a> Integers<'a> {
    fn new(column: &Foreign<'a>, format: &str) -> PyResult<Option<Integers<'a>>> {
        Ok(Some(match format {
            "c" => Integers::I8(column.values()?),
            "s" => Integers::I16(column.values()?),
            "i" => Integers::I32(column.values()?),
            "l" => Integers::I64(column.values()?),
            "C" => Integers::U8(column.values()?),
            "S" => Integers::U16(column.values()?),
            "I" => Integers::U32(column.values()?),
            "L" => Integers::U64(column.values()?),
            _ => return Ok(None),
        }))
    }

    /// The number; one of 64 bits without a sign as if it had one.
    #[inline(always)]
    fn get(&self, row: usize) -> i64 {
        match self {
            Integers::I8(values) => values[row].into(),
            Integers::I16(values) => values[row].into(),
            Integers::I32(values) => values[row].into(),
            Integers::I64(values) => values[row],
            Integers::U8(values) => values[row].into(),
            Integers::U16(values) => values[row].into(),
            Integers::U32(values) => values[row].into(),
            Integers::U64(values) => values[row] as i64,
        }
    }

    #[inline(always)]
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Integers::U64(values) => writing::integer(values[row], out),
            _ => writing::integer(self.get(row), out),
        }
    }
}

/// Decimals of any width.
enum Decimals<'a> {
    D32(&'a [[u8; 4]]),
    D64(&'a [[u8; 8]]),
    D128(&'a [[u8; 16]]),
    D256(&'a [[u8; 32]]),
}

impl<'a> Decimals<'a> {
    /// Of a format like `d:9,2` or `d:9,2,256`.
    fn new(column: &Foreign<'a>, format: &str) -> PyResult<Decimals<'a>> {
        Ok(match format.split(',').nth(2).unwrap_or("128") {
            "32" => Decimals::D32(column.values()?),
            "64" => Decimals::D64(column.values()?),
            "128" => Decimals::D128(column.values()?),
            "256" => Decimals::D256(column.values()?),
            _ => return Err(malformed()),
        })
    }

    fn get(&self, row: usize) -> &'a [u8] {
        match self {
            Decimals::D32(values) => &values[row],
            Decimals::D64(values) => &values[row],
            Decimals::D128(values) => &values[row],
            Decimals::D256(values) => &values[row],
        }
    }
}

impl<'a> Column<'a> {
    /// A column and how it is written, which must be of its type.
    pub fn new(form: &'a Form, column: &Foreign<'a>) -> PyResult<Column<'a>> {
        let source = match column.dictionary()? {
            Some(values) => {
                let indices = Integers::new(column, column.format())?.ok_or_else(malformed)?;
                Source::Dictionary(indices, Box::new(Column::new(form, &values)?))
            }
            None => source(form, column)?,
        };
        Ok(Column { form, key: Piece::new(form.key.as_bytes()), validity: column.validity()?, source })
    }

    #[inline(always)]
    fn is_null(&self, row: usize) -> bool {
        if self.validity.is_some_and(|validity| !validity.get(row)) {
            return true;
        }
        match &self.source {
            Source::Null => true,
            Source::Dictionary(indices, values) => values.is_null(indices.get(row) as usize),
            _ => false,
        }
    }

    /// Append a value that isn't null.
    fn write(&self, row: usize, out: &mut Vec<u8>) -> Step<'a> {
        match &self.source {
            Source::Struct { members, rest } => match rest {
                Some(rest) if !rest.is_null(row) => self.object_with_rest(row, members, rest, out),
                _ => {
                    out.push(b'{');
                    self.members(row, members, out)?;
                    close(b'}', out);
                    Ok(())
                }
            },
            Source::List(offsets, item) => {
                out.push(b'[');
                for index in offsets.range(row) {
                    item.write_or_null(index, out)?;
                    out.push(b',');
                }
                close(b']', out);
                Ok(())
            }
            Source::Map(offsets, keys, item) => {
                out.push(b'{');
                for index in offsets.range(row) {
                    writing::string(keys.get(index), out);
                    out.push(b':');
                    item.write_or_null(index, out)?;
                    out.push(b',');
                }
                close(b'}', out);
                Ok(())
            }
            Source::Dictionary(indices, values) => values.write(indices.get(row) as usize, out),
            _ => self.scalar(row, out),
        }
    }

    fn write_or_null(&self, row: usize, out: &mut Vec<u8>) -> Step<'a> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        self.write(row, out)
    }

    /// The members of an object, each with a comma after it.
    fn members(&self, row: usize, members: &[Column<'a>], out: &mut Vec<u8>) -> Step<'a> {
        for member in members {
            if !member.is_null(row) {
                member.key.append(out);
                member.write(row, out)?;
                out.push(b',');
            } else if self.form.nulls {
                member.key.append(out);
                out.extend_from_slice(b"null,");
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn scalar(&self, row: usize, out: &mut Vec<u8>) -> Step<'a> {
        let form = self.form;
        match &self.source {
            Source::Boolean(bits) => out.extend_from_slice(if bits.get(row) { b"true" } else { b"false" }),
            Source::Integer(values) => values.write(row, out),
            Source::Float(values) => writing::floating(values[row], form.java, out),
            Source::Double(values) => writing::floating(values[row], form.java, out),
            Source::Decimal(values) => {
                let write = |out: &mut _| writing::decimal(values.get(row), form.digits, form.java, out);
                if form.quoted { quoted(out, write) } else { write(out) }
            }
            Source::Text(values) => writing::string(values.get(row), out),
            Source::Json(values) => out.extend_from_slice(values.get(row)),
            Source::Bytes(values) => quoted(out, |out| writing::base64(values.get(row), out)),
            Source::Date { dates, per_day, days } => {
                let day = dates.get(row).div_euclid(*per_day);
                if *days {
                    writing::integer(day, out);
                } else if !quoted(out, |out| writing::date(day, out)) {
                    return Err(self.unfit(YEARS));
                }
            }
            Source::Time(values) => {
                let digits = form.digits.unsigned_abs();
                if !quoted(out, |out| writing::clock(values.get(row), digits, out)) {
                    return Err(self.unfit(DAY));
                }
            }
            Source::Timestamp(values) => {
                out.push(b'"');
                if !writing::timestamp(values[row], form.digits.unsigned_abs(), out) {
                    return Err(self.unfit(YEARS));
                }
                out.extend_from_slice(if form.zoned { b"Z\"" } else { b"\"" });
            }
            Source::Count { counts, exact } => writing::count(counts.get(row), form.digits, *exact, out),
            Source::Null | Source::Struct { .. } | Source::List(..) | Source::Map(..) | Source::Dictionary(..) => {
                unreachable!("no scalar")
            }
        }
        Ok(())
    }

    #[cold]
    fn unfit(&self, what: &'static str) -> Stop<'a> {
        Stop::Unfit { path: &self.form.path, what }
    }

    /// An object of which the rest column has more.
    fn object_with_rest(&self, row: usize, members: &[Column<'a>], rest: &Column<'a>, out: &mut Vec<u8>) -> Step<'a> {
        let Source::Json(texts) = &rest.source else { unreachable!("a rest is JSON") };
        let document = Document::read(texts.get(row), MAX_DEPTH).map_err(|_| rest.unfit(NO_OBJECT))?;
        self.object(row, members, &document, ROOT, out)
    }

    fn object(
        &self,
        row: usize,
        members: &[Column<'a>],
        document: &Document,
        rest: usize,
        out: &mut Vec<u8>,
    ) -> Step<'a> {
        let (more, by_name) = (document.members_by_first(rest), Members::of(document, rest));
        out.push(b'{');
        for member in members {
            match by_name.find(member.form.name.as_bytes()) {
                Some(below) if !member.is_null(row) => {
                    member.key.append(out);
                    member.with_rest(row, document, below, out)?;
                    out.push(b',');
                }
                _ => self.members(row, std::slice::from_ref(member), out)?,
            }
        }
        for other in more {
            let name = document.key(other);
            if !members.iter().any(|member| name == member.form.name.as_str()) {
                writing::string(name.as_bytes(), out);
                out.push(b':');
                out.extend_from_slice(document.text(other));
                out.push(b',');
            }
        }
        close(b'}', out);
        Ok(())
    }

    /// A value with its rest, if it is of a kind that has one.
    fn with_rest(&self, row: usize, document: &Document, rest: usize, out: &mut Vec<u8>) -> Step<'a> {
        match &self.source {
            Source::Dictionary(indices, values) => values.with_rest(indices.get(row) as usize, document, rest, out),
            Source::Struct { members, .. } if document.value(rest).kind == Type::Object => {
                self.object(row, members, document, rest, out)
            }
            Source::List(offsets, item) if document.value(rest).kind == Type::Object => {
                let more = Members::of(document, rest);
                out.push(b'[');
                for (place, index) in offsets.range(row).enumerate() {
                    let place = place.to_string();
                    match more.find(place.as_bytes()) {
                        Some(below) if !item.is_null(index) => item.with_rest(index, document, below, out)?,
                        _ => item.write_or_null(index, out)?,
                    }
                    out.push(b',');
                }
                close(b']', out);
                Ok(())
            }
            Source::Map(offsets, keys, item) if document.value(rest).kind == Type::Object => {
                let more = Members::of(document, rest);
                out.push(b'{');
                for index in offsets.range(row) {
                    let key = keys.get(index);
                    writing::string(key, out);
                    out.push(b':');
                    match more.find(key) {
                        Some(below) if !item.is_null(index) => item.with_rest(index, document, below, out)?,
                        _ => item.write_or_null(index, out)?,
                    }
                    out.push(b',');
                }
                close(b'}', out);
                Ok(())
            }
            _ => self.write(row, out),
        }
    }
}

/// The members of an object of the rest, in the order of their names: each is found in a few steps where a list or map has many.
struct Members<'a>(Vec<(Cow<'a, str>, usize)>);

impl<'a> Members<'a> {
    fn of(document: &Document<'a>, object: usize) -> Members<'a> {
        let mut members: Vec<_> = document.below(object).map(|member| (document.key(member), member)).collect();
        members.sort_unstable();
        Members(members)
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let place = self.0.binary_search_by(|(key, _)| key.as_bytes().cmp(name));
        place.ok().map(|place| self.0[place].1)
    }
}

/// End an object or an array: the bracket stands in the place of the last comma.
#[inline(always)]
fn close(bracket: u8, out: &mut Vec<u8>) {
    match out.last_mut() {
        Some(last) if *last == b',' => *last = bracket,
        _ => out.push(bracket),
    }
}

#[inline(always)]
fn quoted<T>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    out.push(b'"');
    let written = write(out);
    out.push(b'"');
    written
}

/// The values of a column that is no dictionary, as its form wants them; refused where it is of another type.
fn source<'a>(form: &'a Form, column: &Foreign<'a>) -> PyResult<Source<'a>> {
    let format = column.format();
    let integers = |format| Integers::new(column, format)?.ok_or_else(malformed);
    let large = matches!(format, "U" | "Z" | "+L");
    let source = match (form.kind.as_str(), format) {
        ("null", "n") => Source::Null,
        ("boolean", "b") => Source::Boolean(column.bits(1)?),
        ("integer", _) => Source::Integer(integers(format)?),
        ("double", "f") => Source::Float(column.values()?),
        ("double", "g") => Source::Double(column.values()?),
        ("decimal", _) if format.starts_with("d:") => Source::Decimal(Decimals::new(column, format)?),
        ("text", "u" | "U") => Source::Text(column.strings(large)?),
        ("json" | "rest", "u" | "U") => Source::Json(column.strings(large)?),
        ("bytes", "z" | "Z") => Source::Bytes(column.strings(large)?),
        (kind @ ("date" | "days"), "tdD") => Source::Date { dates: integers("i")?, per_day: 1, days: kind == "days" },
        (kind @ ("date" | "days"), "tdm") => {
            Source::Date { dates: integers("l")?, per_day: 86_400_000, days: kind == "days" }
        }
        ("time", "tts" | "ttm") => Source::Time(integers("i")?),
        ("time", "ttu" | "ttn") => Source::Time(integers("l")?),
        ("timestamp", _) if format.starts_with("ts") => Source::Timestamp(column.values()?),
        ("count", "tts" | "ttm") => Source::Count { counts: integers("i")?, exact: false },
        ("count", "ttu" | "ttn") => Source::Count { counts: integers("l")?, exact: false },
        (kind @ ("count" | "exact count"), _) if format.starts_with("ts") => {
            Source::Count { counts: integers("l")?, exact: kind == "exact count" }
        }
        ("struct", "+s") => members(form, column)?,
        ("list", "+l" | "+L") => {
            Source::List(column.offsets(large)?, Box::new(Column::new(item(form)?, &column.child(0)?)?))
        }
        ("map", "+m") => {
            let entries = column.child(0)?;
            let keys = entries.member(0)?;
            let keys = keys.strings(keys.format() == "U")?;
            Source::Map(column.offsets(false)?, keys, Box::new(Column::new(item(form)?, &entries.member(1)?)?))
        }
        (kind, format) => {
            return Err(PyTypeError::new_err(format!("a column of the format {format} isn't written as {kind}")));
        }
    };
    Ok(source)
}

fn item(form: &Form) -> PyResult<&Form> {
    form.children.first().ok_or_else(malformed)
}

fn members<'a>(form: &'a Form, column: &Foreign<'a>) -> PyResult<Source<'a>> {
    if column.children() != form.children.len() {
        return Err(malformed());
    }
    let (mut members, mut rest) = (Vec::new(), None);
    for (index, form) in form.children.iter().enumerate() {
        let member = Column::new(form, &column.member(index)?)?;
        if form.kind == "rest" {
            rest = Some(Box::new(member));
        } else {
            members.push(member);
        }
    }
    Ok(Source::Struct { members, rest })
}
