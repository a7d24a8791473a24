//! JSON to Arrow columns and back for Milkrun, without Python objects on the way and without the interpreter's lock.
//!
//! The same answers as the package's plain-Python engine (`milkrun.codecs.json`) on every input. The Python side chooses between the two.

mod arrow;
mod blocks;
mod columns;
mod decoding;
mod document;
mod encoding;
mod faults;
mod finding;
mod judge;
mod numbers;
mod picking;
mod quick;
mod rest;
mod scan;
mod schema;
mod short;
mod splitting;
mod sweep;
mod times;
mod views;
mod writing;

use pyo3::exceptions::{PyOverflowError, PyRecursionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::arrow::Imported;
use crate::columns::Full;
use crate::encoding::{Form, Stop};
use crate::judge::Latitude;
use crate::picking::Paths;
use crate::schema::Plan;
use crate::splitting::Uncut;

/// Grows with every change of what Python and this module say to each other.
const INTERFACE: u32 = 3;

type Capsule<'py> = Bound<'py, PyCapsule>;

fn full(_: Full) -> PyErr {
    PyOverflowError::new_err("a column would hold more than 2 GiB; decode fewer rows at once")
}

/// Decode a column of binary values by a plan.
///
/// Returns two Arrow arrays of structs as capsules, the columns (with `rest` one more, of the fields the plan lacks) and the
/// errors; how often unknown fields came, as (number of the struct, name, count); and how many duplicate keys were dropped.
#[pyfunction]
#[pyo3(signature = (plan, values, *, rest, max_depth, ignore_case, coerce))]
#[allow(clippy::type_complexity)]
fn decode<'py>(
    py: Python<'py>,
    plan: &Bound<'py, Plan>,
    values: &Bound<'py, PyAny>,
    rest: bool,
    max_depth: usize,
    ignore_case: bool,
    coerce: bool,
) -> PyResult<(Capsule<'py>, Capsule<'py>, Vec<(u32, String, u64)>, u64)> {
    let imported = Imported::new(values)?;
    let (column, root) = (imported.binary()?, &plan.get().root);
    let options = decoding::Options { rest, max_depth, latitude: Latitude { ignore_case, coerce } };
    let decoded = py.detach(|| decoding::decode(&column, root, &options)).map_err(full)?;
    Ok((decoded.columns.into_capsule(py)?, decoded.errors.into_capsule(py)?, decoded.unknown, decoded.duplicates))
}

/// The scalars at paths as columns of strings: a capsule for each path, and one of the errors.
///
/// Each row is checked in full, unless all are known to be `validated`.
#[pyfunction]
#[pyo3(signature = (paths, values, max_depth, *, validated))]
fn pick<'py>(
    py: Python<'py>,
    paths: &Bound<'py, Paths>,
    values: &Bound<'py, PyAny>,
    max_depth: usize,
    validated: bool,
) -> PyResult<(Vec<Capsule<'py>>, Capsule<'py>)> {
    let imported = Imported::new(values)?;
    let (column, paths) = (imported.binary()?, paths.get());
    let picked = py.detach(|| picking::pick(&column, paths, max_depth, validated)).map_err(full)?;
    let columns = picked.columns.into_iter().map(|column| column.into_capsule(py)).collect::<PyResult<_>>()?;
    Ok((columns, picked.errors.into_capsule(py)?))
}

/// Cut a body into its events: a column of their bytes as a capsule, why some must not be taken (row, code, message), and whether
/// the others have been checked in full.
///
/// Raises ValueError where the body is no JSON array, RecursionError where something in it is nested too deep to say.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn split<'py>(
    py: Python<'py>,
    body: &[u8],
    lines: bool,
    max_event_bytes: usize,
    max_depth: usize,
) -> PyResult<(Capsule<'py>, Vec<(usize, &'static str, String)>, bool)> {
    let cut = py.detach(|| splitting::split(body, lines, max_event_bytes, max_depth));
    let cut = cut.map_err(|uncut| match uncut {
        Uncut::NoArray => PyValueError::new_err("no JSON array"),
        Uncut::TooDeep => PyRecursionError::new_err("nested too deep"),
        Uncut::Full => full(Full),
    })?;
    let faults = cut.faults.into_iter().map(|(row, reason)| (row, reason.code.text(), reason.message.into_owned()));
    Ok((cut.values.into_capsule(py)?, faults.collect(), cut.validated))
}

/// Write columns as JSON, one text a row, by a form (`milkrun.encoding.forms`) that is of their type.
///
/// Returns the texts as a capsule of a column of binary values, or the first value that JSON has no text for: its row, its path, and
/// what is wrong with it.
#[pyfunction]
#[allow(clippy::type_complexity)]
fn encode<'py>(
    py: Python<'py>,
    form: Form,
    values: &Bound<'py, PyAny>,
) -> PyResult<(Option<Capsule<'py>>, Option<(usize, String, &'static str)>)> {
    let imported = Imported::new(values)?;
    let values = imported.foreign()?;
    let column = encoding::Column::new(&form, &values)?;
    match py.detach(|| encoding::encode(&column, values.length)) {
        Ok(texts) => Ok((Some(texts.into_capsule(py)?), None)),
        Err((row, Stop::Unfit { path, what })) => Ok((None, Some((row, path.to_owned(), what)))),
        Err((_, Stop::Full)) => {
            Err(PyOverflowError::new_err("the texts would be more than 2 GiB; encode fewer rows at once"))
        }
    }
}

#[pymodule]
fn milkrun_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Plan>()?;
    module.add_class::<Paths>()?;
    module.add_function(wrap_pyfunction!(decode, module)?)?;
    module.add_function(wrap_pyfunction!(encode, module)?)?;
    module.add_function(wrap_pyfunction!(pick, module)?)?;
    module.add_function(wrap_pyfunction!(split, module)?)?;
    Ok(())
}
