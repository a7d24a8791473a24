//! A column of events to typed columns: each row the quick way, and the exact way where that gives up.

use std::collections::HashMap;

use crate::arrow::{Array, BinaryColumn};
use crate::columns::{Column, Full, Stop};
use crate::document::Document;
use crate::faults::Fault;
use crate::judge::{self, Latitude, Verdict};
use crate::quick::Quick;
use crate::rest;
use crate::schema::Fields;

/// How a column is decoded.
pub struct Options {
    pub rest: bool,
    pub max_depth: usize,
    pub latitude: Latitude,
}

/// What a column of events decodes to.
pub struct Decoded {
    /// A struct of the schema's fields, and of the rest column where that was asked for.
    pub columns: Array,
    /// A struct of row, code, path, message and byte offset.
    pub errors: Array,
    /// How often fields came that the schema lacks: the struct's number, and the name.
    pub unknown: Vec<(u32, String, u64)>,
    pub duplicates: u64,
}

/// Decode a column.
pub fn decode(values: &BinaryColumn, root: &Fields, options: &Options) -> Result<Decoded, Full> {
    let rows = values.len();
    let mut decoder = Decoder {
        root,
        options,
        columns: root.nodes.iter().map(|node| Column::new(node, rows)).collect(),
        rest: options.rest.then(Column::texts),
        errors: Errors::new(),
        unknown: HashMap::new(),
        duplicates: 0,
    };
    if options.latitude.ignore_case || options.latitude.coerce {
        decoder.all::<true>(values)?;
    } else {
        decoder.all::<false>(values)?;
    }
    Ok(decoder.finish(rows))
}

struct Decoder<'s> {
    root: &'s Fields,
    options: &'s Options,
    columns: Vec<Column>,
    rest: Option<Column>,
    errors: Errors,
    unknown: HashMap<(u32, String), u64>,
    duplicates: u64,
}

impl Decoder<'_> {
    fn all<const LOOSE: bool>(&mut self, values: &BinaryColumn) -> Result<(), Full> {
        let mut quick = Quick::<LOOSE>::new(self.options.max_depth, self.options.latitude);
        for row in 0..values.len() {
            match values.get(row) {
                None => self.null_row()?,
                Some(value) => {
                    if !self.quickly(&mut quick, value, row)? {
                        self.exactly(value, row)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Append a row the quick way; false where it must go the exact way.
    fn quickly<'v, const LOOSE: bool>(
        &mut self,
        quick: &mut Quick<'v, LOOSE>,
        value: &'v [u8],
        row: usize,
    ) -> Result<bool, Full> {
        match quick.append(value, self.root, &mut self.columns, row) {
            Ok(()) => {}
            Err(Stop::Full) => return Err(Full),
            Err(Stop::Bail) => {
                self.take_back(row);
                return Ok(false);
            }
        }
        for unknown in &quick.unknown {
            let name = String::from_utf8_lossy(&value[unknown.start..unknown.end]);
            *self.unknown.entry((unknown.number, name.into_owned())).or_default() += 1;
        }
        let document = (quick.strange && self.rest.is_some())
            .then(|| Document::read(value, self.options.max_depth).ok())
            .flatten();
        self.push_rest(document.as_ref())?;
        Ok(true)
    }

    /// Append a row, or the reason why it fails.
    fn exactly(&mut self, value: &[u8], row: usize) -> Result<(), Full> {
        let document = match Document::read(value, self.options.max_depth) {
            Ok(document) => document,
            Err(fault) => return self.fail(row, &fault),
        };
        match judge::append(&document, self.root, &mut self.columns, row, self.options.latitude) {
            Err(Verdict::Full) => Err(Full),
            Err(Verdict::Fault(fault)) => {
                self.take_back(row);
                self.fail(row, &fault)
            }
            Ok(findings) => {
                self.duplicates += findings.duplicates;
                for unknown in findings.unknown {
                    *self.unknown.entry(unknown).or_default() += 1;
                }
                self.push_rest(Some(&document).filter(|_| findings.strange || self.options.latitude.ignore_case))
            }
        }
    }

    fn push_rest(&mut self, document: Option<&Document>) -> Result<(), Full> {
        let Some(column) = &mut self.rest else { return Ok(()) };
        let mut text = Vec::new();
        match document {
            Some(document) if rest::append(document, self.root, self.options.latitude, &mut text) => {
                column.push_text(&text)
            }
            _ => column.push_null(),
        }
    }

    fn take_back(&mut self, row: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(row));
    }

    fn fail(&mut self, row: usize, fault: &Fault) -> Result<(), Full> {
        self.errors.push(row, fault)?;
        self.null_row()
    }

    fn null_row(&mut self) -> Result<(), Full> {
        for (column, node) in self.columns.iter_mut().zip(&self.root.nodes) {
            column.push_null_of(node)?;
        }
        self.rest.as_mut().map_or(Ok(()), Column::push_null)
    }

    fn finish(self, rows: usize) -> Decoded {
        let fields = self.columns.into_iter().zip(&self.root.nodes).map(|(column, node)| column.finish(node));
        let columns = fields.chain(self.rest.map(Column::finish_scalars)).collect();
        let unknown = self.unknown.into_iter().map(|((number, name), count)| (number, name, count));
        Decoded {
            columns: Array::new(rows, 0, None, vec![], columns),
            errors: self.errors.finish(),
            unknown: unknown.collect(),
            duplicates: self.duplicates,
        }
    }
}

/// The errors table under construction.
pub struct Errors {
    rows: Column,
    codes: Column,
    paths: Column,
    messages: Column,
    offsets: Column,
}

impl Errors {
    pub fn new() -> Errors {
        Errors {
            rows: Column::counts(),
            codes: Column::texts(),
            paths: Column::texts(),
            messages: Column::texts(),
            offsets: Column::counts(),
        }
    }

    pub fn push(&mut self, row: usize, fault: &Fault) -> Result<(), Full> {
        self.rows.push_integer(row as i64);
        self.codes.push_text(fault.reason.code.text().as_bytes())?;
        self.paths.push_text(fault.path.as_bytes())?;
        self.messages.push_text(fault.reason.message.as_bytes())?;
        self.offsets.push_integer(fault.offset as i64);
        Ok(())
    }

    pub fn finish(self) -> Array {
        let rows = self.rows.len();
        let columns = [self.rows, self.codes, self.paths, self.messages, self.offsets];
        Array::new(rows, 0, None, vec![], columns.map(Column::finish_scalars).into())
    }
}
