//! Scalars at a few paths, straight from the bytes, each row checked in full on the way unless that has been done before.
//!
//! Strings come as they are, numbers and booleans as their text; of equal keys the last counts. A row is swept over where the processor
//! can; what the sweep doesn't take is scanned, and what the scan doesn't take is read into a tree, which decides.

use std::collections::BTreeMap;

use pyo3::prelude::*;

use crate::arrow::{Array, BinaryColumn};
use crate::columns::{Column, Full};
use crate::decoding::Errors;
use crate::document::{Document, ROOT, Type};
use crate::finding::{Ending, Finder};
use crate::scan::{Bail, Scanner, Step, is_utf8};
use crate::schema::Names;
use crate::sweep::Sweep;

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
pub struct Branch {
    pub columns: Vec<usize>,
    /// Columns of this branch and of those below it.
    pub all: Vec<usize>,
    names: Names,
    /// The names again, to be found by where they end.
    pub endings: Vec<Ending>,
    pub branches: Vec<Branch>,
}

impl Branch {
    fn new(paths: &[Vec<String>], all: Vec<usize>, depth: usize) -> Branch {
        let (columns, longer): (Vec<usize>, Vec<usize>) = all.iter().partition(|&&column| paths[column].len() == depth);
        let mut below: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        for column in longer {
            below.entry(&paths[column][depth]).or_default().push(column);
        }
        let names = Names::new(below.keys().map(|&name| name.clone()).collect());
        let endings = below.keys().map(|name| Ending::new(name)).collect();
        let branches = below.into_values().map(|columns| Branch::new(paths, columns, depth + 1)).collect();
        Branch { columns, all, names, endings, branches }
    }
}

/// A column of strings for each path, and the errors of rows that are no JSON objects.
pub struct Picked {
    pub columns: Vec<Array>,
    pub errors: Array,
}

/// Pick from a column; `validated` says that each of its values is known to be a JSON object.
pub fn pick(values: &BinaryColumn, paths: &Paths, max_depth: usize, validated: bool) -> Result<Picked, Full> {
    let mut columns: Vec<Column> = paths.paths.iter().map(|_| Column::texts()).collect();
    let mut errors = Errors::new();
    let mut picker = Picker::new(&paths.root, columns.len(), max_depth);
    for row in 0..values.len() {
        let Some(value) = values.get(row) else {
            columns.iter_mut().try_for_each(Column::push_null)?;
            continue;
        };
        if picker.row(value, values.onwards(row), validated).is_ok() {
            for (index, column) in columns.iter_mut().enumerate() {
                picker.push(picker.finder.found[index], column)?;
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

struct Picker<'a, 'p> {
    scanner: Scanner<'a>,
    sweep: Option<Sweep>,
    finder: Finder<'a, 'p>,
    root: &'p Branch,
}

impl<'a, 'p> Picker<'a, 'p> {
    fn new(root: &'p Branch, columns: usize, max_depth: usize) -> Picker<'a, 'p> {
        let finder = Finder::new(root, columns);
        Picker { scanner: Scanner::new(max_depth), sweep: Sweep::new(max_depth), finder, root }
    }

    /// Find the scalars of a row, with which the bytes `onwards` begin.
    fn row(&mut self, text: &'a [u8], onwards: &'a [u8], validated: bool) -> Step {
        self.scanner.start(text);
        let start = self.scanner.white(0);
        let inner = self.scanner.demand(start, b'{')?;
        let swept = self.swept(onwards, text.len(), start, validated);
        let end = swept.or_else(|Bail| self.scanned(text, inner))?;
        if self.scanner.white(end) == text.len() { Ok(()) } else { Err(Bail) }
    }

    /// Find them by a sweep; where the event ends.
    fn swept(&mut self, onwards: &'a [u8], length: usize, start: usize, validated: bool) -> Step<usize> {
        self.finder.start(onwards);
        let sweep = self.sweep.as_ref().ok_or(Bail)?;
        let end = if validated {
            sweep.over::<_, false>(onwards, length, start, &mut self.finder)?
        } else {
            sweep.over::<_, true>(onwards, length, start, &mut self.finder)?
        };
        if self.finder.obscure { Err(Bail) } else { Ok(end) }
    }

    /// Find them byte by byte from behind the event's brace; where it ends.
    fn scanned(&mut self, text: &'a [u8], at: usize) -> Step<usize> {
        if !is_utf8(text) {
            return Err(Bail);
        }
        self.finder.start(text);
        self.members(at, self.root)
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
            && let Some((index, length)) = branch.names.at_window(window, 0, false)
        {
            return Ok((Some(index), at + length));
        }
        let end = self.scanner.plain_string(at)?;
        let found = std::str::from_utf8(&self.scanner.text[at..end]).ok().and_then(|name| branch.names.find(name));
        Ok((found, self.scanner.colon(end + 1)?))
    }

    fn value(&mut self, at: usize, branch: &Branch) -> Step<usize> {
        // An earlier member of the same name no longer counts.
        branch.all.iter().for_each(|&column| self.finder.found[column] = None);
        match self.scanner.peek(at) {
            b'{' if !branch.branches.is_empty() => self.members(at + 1, branch),
            b'{' | b'[' | b'n' => self.scanner.skip::<false>(at),
            _ => {
                let end = self.scanner.skip::<false>(at)?;
                branch.columns.iter().for_each(|&column| self.finder.found[column] = Some(at));
                Ok(end)
            }
        }
    }

    /// Append the scalar that begins at a place; none, should the text not be what it was said to be.
    fn push(&self, found: Option<usize>, column: &mut Column) -> Result<(), Full> {
        let Some(start) = found else { return column.push_null() };
        if self.scanner.peek(start) != b'"' {
            return match self.scanner.scalar(start) {
                Ok(end) => column.push_text(&self.scanner.text[start..end]),
                Err(Bail) => column.push_null(),
            };
        }
        let text = column.text();
        let length = text.bytes.len();
        if self.scanner.string(start + 1, &mut text.bytes).is_err() {
            text.bytes.truncate(length);
            return column.push_null();
        }
        text.end()?;
        column.valid();
        Ok(())
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
