//! Scalars at a few paths, straight from the bytes, each row checked in full on the way.
//!
//! Strings come as they are, numbers and booleans as their text; of equal keys the last counts. Rows with anything unusual are read
//! into a tree first.

use std::collections::BTreeMap;

use pyo3::prelude::*;

use crate::arrow::{Array, BinaryColumn};
use crate::columns::{Column, Full};
use crate::decoding::Errors;
use crate::document::{Document, ROOT, Type};
use crate::scan::{Bail, Scanner, Step};
use crate::schema::Names;

/// The paths of one `pick`, each a sequence of names.
#[pyclass(frozen, module = "milkrun_native")]
pub struct Paths {
    paths: Vec<Vec<String>>,
    root: Branch,
}

#[pymethods]
impl Paths {
    #[new]
    fn new(paths: Vec<Vec<String>>) -> Paths {
        let columns = (0..paths.len()).filter(|&column| !paths[column].is_empty()).collect();
        let root = Branch::new(&paths, columns, 0);
        Paths { paths, root }
    }
}

/// What stands at a name: columns that want its scalar, and what may stand below it.
struct Branch {
    columns: Vec<usize>,
    /// Columns of this branch and of those below it.
    all: Vec<usize>,
    names: Names,
    branches: Vec<Branch>,
}

impl Branch {
    fn new(paths: &[Vec<String>], all: Vec<usize>, depth: usize) -> Branch {
        let (columns, longer): (Vec<usize>, Vec<usize>) = all.iter().partition(|&&column| paths[column].len() == depth);
        let mut below: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        for column in longer {
            below.entry(&paths[column][depth]).or_default().push(column);
        }
        let names = Names::new(below.keys().map(|&name| name.clone()).collect());
        let branches = below.into_values().map(|columns| Branch::new(paths, columns, depth + 1)).collect();
        Branch { columns, all, names, branches }
    }
}

/// A column of strings for each path, and the errors of rows that are no JSON objects.
pub struct Picked {
    pub columns: Vec<Array>,
    pub errors: Array,
}

/// Pick from a column.
pub fn pick(values: &BinaryColumn, paths: &Paths, max_depth: usize) -> Result<Picked, Full> {
    let mut columns: Vec<Column> = paths.paths.iter().map(|_| Column::texts()).collect();
    let mut errors = Errors::new();
    let mut picker = Picker { scanner: Scanner::new(max_depth), found: vec![None; columns.len()] };
    for row in 0..values.len() {
        let Some(value) = values.get(row) else {
            columns.iter_mut().try_for_each(Column::push_null)?;
            continue;
        };
        if picker.row(value, &paths.root).is_ok() {
            for (column, found) in columns.iter_mut().zip(&picker.found) {
                picker.push(*found, column)?;
            }
            continue;
        }
        match Document::read(value, max_depth) {
            Ok(document) => {
                for (column, path) in columns.iter_mut().zip(&paths.paths) {
                    push_at(&document, path, column)?;
                }
            }
            Err(fault) => {
                errors.push(row, &fault)?;
                columns.iter_mut().try_for_each(Column::push_null)?;
            }
        }
    }
    Ok(Picked { columns: columns.into_iter().map(Column::finish_scalars).collect(), errors: errors.finish() })
}

struct Picker<'a> {
    scanner: Scanner<'a>,
    /// For each column, where its scalar begins and ends.
    found: Vec<Option<(usize, usize)>>,
}

impl<'a> Picker<'a> {
    fn row(&mut self, text: &'a [u8], root: &Branch) -> Step {
        if !text.is_ascii() && std::str::from_utf8(text).is_err() {
            return Err(Bail);
        }
        self.found.fill(None);
        self.scanner.start(text);
        let at = self.scanner.demand(self.scanner.white(0), b'{')?;
        let end = self.members(at, root)?;
        if self.scanner.white(end) == text.len() { Ok(()) } else { Err(Bail) }
    }

    /// The members of an object from behind its brace; where it ends.
    fn members(&mut self, at: usize, branch: &Branch) -> Step<usize> {
        self.scanner.enter()?;
        let mut at = self.scanner.white(at);
        if self.scanner.peek(at) != b'}' {
            loop {
                let name = self.scanner.demand(at, b'"')?;
                at = match self.branch(name, branch)? {
                    (Some(index), value) => self.value(self.scanner.white(value), &branch.branches[index])?,
                    (None, value) => self.scanner.skip::<false>(self.scanner.white(value))?,
                };
                at = self.scanner.white(at);
                match self.scanner.peek(at) {
                    b',' => at = self.scanner.white(at + 1),
                    b'}' => break,
                    _ => return Err(Bail),
                }
            }
        }
        self.scanner.depth -= 1;
        Ok(at + 1)
    }

    /// The branch whose name begins here, and the place behind the colon.
    #[inline(always)]
    fn branch(&self, at: usize, branch: &Branch) -> Step<(Option<usize>, usize)> {
        if let Some(window) = self.scanner.window(at)
            && let Some((index, length)) = branch.names.at_window(window, 0)
        {
            return Ok((Some(index), at + length));
        }
        let end = self.scanner.plain_string(at)?;
        let found = std::str::from_utf8(&self.scanner.text[at..end]).ok().and_then(|name| branch.names.find(name));
        Ok((found, self.scanner.colon(end + 1)?))
    }

    fn value(&mut self, at: usize, branch: &Branch) -> Step<usize> {
        // An earlier member of the same name no longer counts.
        branch.all.iter().for_each(|&column| self.found[column] = None);
        match self.scanner.peek(at) {
            b'{' if !branch.branches.is_empty() => self.members(at + 1, branch),
            b'{' | b'[' | b'n' => self.scanner.skip::<false>(at),
            _ => {
                let end = self.scanner.skip::<false>(at)?;
                branch.columns.iter().for_each(|&column| self.found[column] = Some((at, end)));
                Ok(end)
            }
        }
    }

    fn push(&self, found: Option<(usize, usize)>, column: &mut Column) -> Result<(), Full> {
        match found {
            None => column.push_null(),
            Some((start, _)) if self.scanner.peek(start) == b'"' => {
                let text = column.text();
                self.scanner.string(start + 1, &mut text.bytes).expect("a string that has been checked");
                text.end()?;
                column.valid();
                Ok(())
            }
            Some((start, end)) => column.push_text(&self.scanner.text[start..end]),
        }
    }
}

/// Append the scalar at a path of a document.
fn push_at(document: &Document, path: &[String], column: &mut Column) -> Result<(), Full> {
    let value = path.iter().try_fold(ROOT, |value, name| {
        let object = document.value(value).kind == Type::Object;
        object.then(|| document.below(value).find(|&member| document.key(member) == name.as_str())).flatten()
    });
    match value.map(|value| (value, document.value(value).kind)) {
        Some((value, Type::String)) => column.push_text(document.string(value).as_bytes()),
        Some((value, Type::Number | Type::Boolean)) => column.push_text(document.text(value)),
        _ => column.push_null(),
    }
}
