//! Columns of any type looked at where they are, in Arrow's C data interface, without a copy: `Foreign` and the slices it gives.
//!
//! Every slice is as long as the column says that it is, and nothing is read beyond it. What offsets and indices say isn't trusted:
//! a range that contradicts them is empty.

use std::ffi::CStr;
use std::ops::Range;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::arrow::{Array, Schema};

/// What bytes of any content are a value of.
///
/// # Safety
/// Every pattern of bits is a value, and there is no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers, and arrays of bytes.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl<const SIZE: usize> Plain for [u8; SIZE] {}

/// A column of another library, or the part of it that a parent has.
#[derive(Clone, Copy)]
pub struct Foreign<'a> {
    schema: &'a Schema,
    array: &'a Array,
    /// Where the column begins in its buffers and children.
    first: usize,
    pub length: usize,
}

impl<'a> Foreign<'a> {
    /// A column in full.
    ///
    /// # Safety
    /// Both are as Arrow's C data interface has them, of the same type, and stay as they are for `'a`.
    pub unsafe fn new(schema: &'a Schema, array: &'a Array) -> PyResult<Foreign<'a>> {
        let size = |number: i64| usize::try_from(number).map_err(|_| malformed());
        Ok(Foreign { schema, array, first: size(array.offset)?, length: size(array.length)? })
    }

    /// The type as Arrow's format strings name it; of a dictionary that of its indices.
    pub fn format(&self) -> &'a str {
        // SAFETY: the format is a C string (`Foreign::new`).
        unsafe { CStr::from_ptr(self.schema.format) }.to_str().unwrap_or("")
    }

    /// A buffer as so many values from the column's first one on; empty where there is none.
    fn buffer<T: Plain>(&self, index: usize, start: usize, length: usize) -> PyResult<&'a [T]> {
        if index as i64 >= self.array.n_buffers {
            return Err(malformed());
        }
        // SAFETY: there are so many pointers (`Foreign::new`).
        let buffer = unsafe { *self.array.buffers.add(index) };
        if buffer.is_null() || length == 0 {
            return if length == 0 { Ok(&[]) } else { Err(malformed()) };
        }
        self.slice(buffer.cast::<T>(), start, length)
    }

    fn slice<T: Plain>(&self, buffer: *const T, start: usize, length: usize) -> PyResult<&'a [T]> {
        if !buffer.is_aligned() {
            return Err(PyTypeError::new_err("a column's buffer isn't aligned"));
        }
        // SAFETY: the callers ask for what a column of this format, offset and length has; any bytes are a `T`.
        Ok(unsafe { std::slice::from_raw_parts(buffer.add(start), length) })
    }

    /// Which values count; None where all do.
    pub fn validity(&self) -> PyResult<Option<Bits<'a>>> {
        // SAFETY: a type with buffers has the validity's pointer first; null where there is none.
        let none =
            self.array.null_count == 0 || self.array.n_buffers == 0 || unsafe { (*self.array.buffers).is_null() };
        if none { Ok(None) } else { self.bits(0).map(Some) }
    }

    /// The bits of a column of booleans, or of a validity.
    pub fn bits(&self, buffer: usize) -> PyResult<Bits<'a>> {
        let bytes = self.buffer::<u8>(buffer, 0, (self.first + self.length).div_ceil(8))?;
        Ok(Bits { bytes, first: self.first })
    }

    /// The values of a type with a fixed size. `T` must be as wide as the format's values.
    pub fn values<T: Plain>(&self) -> PyResult<&'a [T]> {
        self.buffer(1, self.first, self.length)
    }

    /// Where each value begins in the data or the child, and where the last one ends.
    pub fn offsets(&self, large: bool) -> PyResult<Offsets<'a>> {
        if self.length == 0 {
            return Ok(Offsets::Small(&[0]));
        }
        if large {
            Ok(Offsets::Large(self.buffer(1, self.first, self.length + 1)?))
        } else {
            Ok(Offsets::Small(self.buffer(1, self.first, self.length + 1)?))
        }
    }

    /// The values of a type of strings.
    pub fn strings(&self, large: bool) -> PyResult<Strings<'a>> {
        let offsets = self.offsets(large)?;
        let data = self.buffer(2, 0, offsets.range(self.length.wrapping_sub(1)).end)?;
        Ok(Strings { offsets, data })
    }

    /// A struct's member, which its own offset shifts too.
    pub fn member(&self, index: usize) -> PyResult<Foreign<'a>> {
        let mut child = self.child(index)?;
        if self.first + self.length > child.length {
            return Err(malformed());
        }
        child.first += self.first;
        child.length = self.length;
        Ok(child)
    }

    /// A list's items, all that there are.
    pub fn child(&self, index: usize) -> PyResult<Foreign<'a>> {
        if index >= self.children() || self.schema.n_children != self.array.n_children {
            return Err(malformed());
        }
        // SAFETY: there are so many children, of the same types (`Foreign::new`).
        unsafe { Foreign::new(&**self.schema.children.add(index), &**self.array.children.add(index)) }
    }

    pub fn children(&self) -> usize {
        usize::try_from(self.array.n_children).unwrap_or(0)
    }

    /// The values that a dictionary's indices lead to; None where the column is no dictionary.
    pub fn dictionary(&self) -> PyResult<Option<Foreign<'a>>> {
        if self.schema.dictionary.is_null() || self.array.dictionary.is_null() {
            return Ok(None);
        }
        // SAFETY: a column with a dictionary has its type and its values (`Foreign::new`).
        unsafe { Foreign::new(&*self.schema.dictionary, &*self.array.dictionary) }.map(Some)
    }
}

/// The error for a column that contradicts itself.
pub fn malformed() -> PyErr {
    PyTypeError::new_err("a column isn't as Arrow's C data interface demands")
}

/// Bits, lowest first in each byte.
#[derive(Clone, Copy)]
pub struct Bits<'a> {
    bytes: &'a [u8],
    first: usize,
}

impl Bits<'_> {
    #[inline(always)]
    pub fn get(&self, row: usize) -> bool {
        let bit = self.first + row;
        self.bytes[bit / 8] >> (bit % 8) & 1 == 1
    }
}

/// Offsets of either width.
#[derive(Clone, Copy)]
pub enum Offsets<'a> {
    Small(&'a [i32]),
    Large(&'a [i64]),
}

impl Offsets<'_> {
    /// Where a value lies; from 0 to 0 where there is no such value.
    #[inline(always)]
    pub fn range(&self, row: usize) -> Range<usize> {
        match self {
            Offsets::Small(offsets) => match offsets.get(row..row.wrapping_add(2)) {
                Some(&[start, end]) => start as usize..end as usize,
                _ => 0..0,
            },
            Offsets::Large(offsets) => match offsets.get(row..row.wrapping_add(2)) {
                Some(&[start, end]) => start as usize..end as usize,
                _ => 0..0,
            },
        }
    }
}

/// Strings or bytes.
#[derive(Clone, Copy)]
pub struct Strings<'a> {
    offsets: Offsets<'a>,
    data: &'a [u8],
}

impl<'a> Strings<'a> {
    #[inline(always)]
    pub fn get(&self, row: usize) -> &'a [u8] {
        self.data.get(self.offsets.range(row)).unwrap_or_default()
    }
}
