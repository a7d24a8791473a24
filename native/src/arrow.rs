//! Arrow's C data interface (arrow.apache.org/docs/format/CDataInterface.html): columns in and out without a copy.
//!
//! An exported array owns its buffers and gives them back when its consumer releases it. An imported one is only looked at while
//! the capsule it came in is held.

use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods, PyTuple};

use crate::views::{Foreign, malformed};

/// `struct ArrowArray`.
#[repr(C)]
pub struct Array {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *mut *const c_void,
    pub children: *mut *mut Array,
    pub dictionary: *mut Array,
    release: Option<unsafe extern "C" fn(*mut Array)>,
    private_data: *mut c_void,
}

// SAFETY: what an array points to is owned by it alone and not bound to a thread (`Buffer` and `Held` are `Send`).
unsafe impl Send for Array {}

/// `struct ArrowSchema`, of which format, children and dictionary are read.
#[repr(C)]
pub struct Schema {
    pub format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    pub n_children: i64,
    pub children: *mut *mut Schema,
    pub dictionary: *mut Schema,
    release: Option<unsafe extern "C" fn(*mut Schema)>,
    private_data: *mut c_void,
}

/// A buffer of an exported array.
pub struct Buffer {
    start: *const c_void,
    owner: Box<dyn Any + Send>,
}

// SAFETY: the pointer is into the owner, which is `Send`.
unsafe impl Send for Buffer {}

impl Buffer {
    /// The values as a buffer. A vector's memory stays where it is when the vector is moved into its box.
    pub fn new<T: Send + 'static>(values: Vec<T>) -> Buffer {
        Buffer { start: values.as_ptr().cast(), owner: Box::new(values) }
    }
}

/// What an exported array owns: its private data. The vectors that its pointers lead to are never changed.
struct Held {
    pointers: Vec<*const c_void>,
    children: Vec<*mut Array>,
    _owners: Vec<Box<dyn Any + Send>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        for &child in &self.children {
            // SAFETY: `Array::new` made each of these of a box, and nobody else frees them: a consumer that moves a child out
            // leaves the struct itself, marked as released.
            drop(unsafe { Box::from_raw(child) });
        }
    }
}

impl Array {
    /// An array of these buffers, without offset. They must be those of its type, in Arrow's order.
    pub fn new(
        length: usize,
        nulls: usize,
        validity: Option<Buffer>,
        values: Vec<Buffer>,
        children: Vec<Array>,
    ) -> Array {
        let mut pointers = vec![validity.as_ref().map_or(ptr::null(), |buffer| buffer.start)];
        pointers.extend(values.iter().map(|buffer| buffer.start));
        let owners = validity.into_iter().chain(values).map(|buffer| buffer.owner).collect();
        let children = children.into_iter().map(|child| Box::into_raw(Box::new(child))).collect();
        let mut held = Box::new(Held { pointers, children, _owners: owners });
        Array {
            length: length as i64,
            null_count: nulls as i64,
            offset: 0,
            n_buffers: held.pointers.len() as i64,
            n_children: held.children.len() as i64,
            buffers: held.pointers.as_mut_ptr(),
            children: held.children.as_mut_ptr(),
            dictionary: ptr::null_mut(),
            release: Some(release),
            private_data: Box::into_raw(held).cast(),
        }
    }

    /// A capsule that gives the array to whoever takes it, and frees it if nobody does.
    pub fn into_capsule(self, py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
        PyCapsule::new_with_value(py, self, c"arrow_array")
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: an array with a release callback hasn't been released, and the callback is called once, as it clears itself.
            unsafe { release(self) };
        }
    }
}

/// The release callback of exported arrays.
unsafe extern "C" fn release(array: *mut Array) {
    // SAFETY: Arrow's contract: called once, with the array or a moved copy of it, whose private data is the box of `Array::new`.
    unsafe {
        drop(Box::from_raw((*array).private_data.cast::<Held>()));
        (*array).release = None;
    }
}

/// A column of binary values with 32-bit offsets, of which each may be null.
pub struct BinaryColumn<'a> {
    offsets: &'a [i32],
    data: &'a [u8],
    validity: Option<&'a [u8]>,
    /// Where the column begins in the validity's bits.
    first: usize,
}

/// The capsules of a column, as `__arrow_c_array__` gives them; held while the column is read.
pub struct Imported<'py> {
    schema: Bound<'py, PyCapsule>,
    array: Bound<'py, PyCapsule>,
}

impl<'py> Imported<'py> {
    /// Ask a column for its capsules.
    pub fn new(column: &Bound<'py, PyAny>) -> PyResult<Imported<'py>> {
        let pair = column.call_method0("__arrow_c_array__")?.cast_into::<PyTuple>()?;
        let (schema, array) = pair.extract::<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)>()?;
        Ok(Imported { schema, array })
    }

    /// The column, whatever its type.
    pub fn foreign(&self) -> PyResult<Foreign<'_>> {
        let schema = self.schema.pointer_checked(Some(c"arrow_schema"))?.cast::<Schema>();
        let array = self.array.pointer_checked(Some(c"arrow_array"))?.cast::<Array>();
        // SAFETY: capsules of these names hold these structs (Arrow PyCapsule interface), of one type and alive as long as the
        // capsules, which `self` holds.
        let (schema, array) = unsafe { (schema.as_ref(), array.as_ref()) };
        if array.release.is_none() {
            return Err(malformed());
        }
        // SAFETY: as above; the array isn't released.
        unsafe { Foreign::new(schema, array) }
    }

    /// The column, if it is one of binary values.
    pub fn binary(&self) -> PyResult<BinaryColumn<'_>> {
        let schema = self.schema.pointer_checked(Some(c"arrow_schema"))?.cast::<Schema>();
        let array = self.array.pointer_checked(Some(c"arrow_array"))?.cast::<Array>();
        // SAFETY: capsules of these names hold these structs (Arrow PyCapsule interface), alive as long as the capsules, which
        // `self` holds. The format is a C string.
        let (array, binary) = unsafe { (array.as_ref(), CStr::from_ptr(schema.as_ref().format) == c"z") };
        if !binary || array.n_buffers != 3 || array.release.is_none() {
            return Err(PyTypeError::new_err("expected a column of binary values"));
        }
        let (length, first) = (array.length as usize, array.offset as usize);
        if length == 0 {
            return Ok(BinaryColumn { offsets: &[0], data: &[], validity: None, first: 0 });
        }
        // SAFETY: an array of format "z" has three buffers: validity or null, offset + length + 1 offsets, and data up to the last
        // of those. All stay as they are while the array isn't released.
        unsafe {
            let [validity, offsets, data] = *array.buffers.cast::<[*const c_void; 3]>();
            let offsets = std::slice::from_raw_parts(offsets.cast::<i32>().add(first), length + 1);
            let size = usize::try_from(offsets[length]).map_err(|_| PyValueError::new_err("an offset below zero"))?;
            let data = if data.is_null() { &[] } else { std::slice::from_raw_parts(data.cast::<u8>(), size) };
            let bits = (first + length).div_ceil(8);
            let validity = (!validity.is_null()).then(|| std::slice::from_raw_parts(validity.cast::<u8>(), bits));
            Ok(BinaryColumn { offsets, data, validity, first })
        }
    }
}

impl<'a> BinaryColumn<'a> {
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// A value; None for a null. Offsets that contradict each other make an empty one.
    #[inline(always)]
    pub fn get(&self, row: usize) -> Option<&'a [u8]> {
        if let Some(validity) = self.validity {
            let bit = self.first + row;
            if validity[bit / 8] >> (bit % 8) & 1 == 0 {
                return None;
            }
        }
        let (start, end) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        Some(self.data.get(start..end).unwrap_or_default())
    }

    /// A value together with the values behind it: all bytes from its first on. Offsets that contradict each other make it empty.
    #[inline(always)]
    pub fn onwards(&self, row: usize) -> &'a [u8] {
        self.data.get(self.offsets[row] as usize..).unwrap_or_default()
    }
}
