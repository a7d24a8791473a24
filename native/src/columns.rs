//! Columns under construction: a tree beside the schema's. `truncate` takes back what a failed row has left behind.
//!
//! Offsets are 32 bits wide; what would not fit is refused (`Full`) before anything of it is appended.

use crate::arrow::{Array, Buffer};
use crate::scan::Bail;
use crate::schema::{Kind, Leaf, Node};

/// Bits, lowest first in each byte.
#[derive(Default)]
pub struct Bits {
    bytes: Vec<u8>,
    length: usize,
}

impl Bits {
    #[inline(always)]
    pub fn push(&mut self, bit: bool) {
        if self.length.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.length % 8);
        }
        self.length += 1;
    }

    fn ones(length: usize) -> Bits {
        let mut bytes = vec![0xff; length / 8];
        if !length.is_multiple_of(8) {
            bytes.push((1 << (length % 8)) - 1);
        }
        Bits { bytes, length }
    }

    fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length.div_ceil(8));
        if !length.is_multiple_of(8)
            && let Some(last) = self.bytes.last_mut()
        {
            *last &= (1 << (length % 8)) - 1;
        }
        self.length = length;
    }

    fn zeros(&self) -> usize {
        self.length - self.bytes.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
    }
}

/// A column holds more bytes or items than 32-bit offsets can tell.
#[derive(Debug)]
pub struct Full;

/// Why nothing was appended to a column.
pub enum Stop {
    Bail,
    Full,
}

impl From<Bail> for Stop {
    fn from(_: Bail) -> Stop {
        Stop::Bail
    }
}

impl From<Full> for Stop {
    fn from(_: Full) -> Stop {
        Stop::Full
    }
}

/// Where each item ends, and before the first a zero.
pub struct Offsets(Vec<i32>);

impl Default for Offsets {
    fn default() -> Offsets {
        Offsets(vec![0])
    }
}

impl Offsets {
    #[inline(always)]
    pub fn push(&mut self, end: usize) -> Result<(), Full> {
        self.0.push(i32::try_from(end).map_err(|_| Full)?);
        Ok(())
    }

    fn truncate(&mut self, items: usize) -> usize {
        self.0.truncate(items + 1);
        self.0.last().map_or(0, |&end| end as usize)
    }
}

/// Texts, each ended by an offset.
#[derive(Default)]
pub struct Text {
    offsets: Offsets,
    /// The texts so far, and what has been appended of the next one.
    pub bytes: Vec<u8>,
}

impl Text {
    #[inline(always)]
    pub fn end(&mut self) -> Result<(), Full> {
        self.offsets.push(self.bytes.len())
    }

    pub fn push(&mut self, text: &[u8]) -> Result<(), Full> {
        self.bytes.extend_from_slice(text);
        self.end()
    }
}

/// A column's values, nulls included. Integers of all widths, timestamps and times of day are kept in 64 bits until the end.
pub enum Values {
    Bits(Bits),
    Integers(Vec<i64>),
    Doubles(Vec<f64>),
    Decimals(Vec<i128>),
    Days(Vec<i32>),
    Text(Text),
    Struct(Vec<Column>),
    List(Offsets, Box<Column>),
    Map(Offsets, Box<Entries>),
}

/// What all maps of a column hold, one after the other: as many keys as values.
pub struct Entries {
    pub keys: Column,
    pub values: Column,
}

/// A column: its values, and which of them count.
pub struct Column {
    values: Values,
    length: usize,
    /// Kept from the first null on.
    validity: Option<Bits>,
}

impl Column {
    pub fn new(node: &Node, rows: usize) -> Column {
        let values = match &node.kind {
            Kind::Leaf(Leaf::Boolean) => Values::Bits(Bits::default()),
            Kind::Leaf(Leaf::Text) | Kind::Open(_) => Values::Text(Text::default()),
            Kind::Leaf(Leaf::Double) => Values::Doubles(Vec::with_capacity(rows)),
            Kind::Leaf(Leaf::Decimal { .. } | Leaf::DecimalText { .. }) => Values::Decimals(Vec::with_capacity(rows)),
            Kind::Leaf(Leaf::Date) => Values::Days(Vec::with_capacity(rows)),
            Kind::Leaf(Leaf::Integer { .. } | Leaf::Timestamp | Leaf::Epoch { .. } | Leaf::Time) => {
                Values::Integers(Vec::with_capacity(rows))
            }
            Kind::Struct(fields) => Values::Struct(fields.nodes.iter().map(|node| Column::new(node, rows)).collect()),
            Kind::List(item) => Values::List(Offsets::default(), Box::new(Column::new(item, rows))),
            Kind::Map(value) => {
                let entries = Entries { keys: Column::texts(), values: Column::new(value, rows) };
                Values::Map(Offsets::default(), Box::new(entries))
            }
        };
        Column::of(values)
    }

    fn of(values: Values) -> Column {
        Column { values, length: 0, validity: None }
    }

    /// A column of texts outside of any schema.
    pub fn texts() -> Column {
        Column::of(Values::Text(Text::default()))
    }

    /// A column of 64-bit integers outside of any schema.
    pub fn counts() -> Column {
        Column::of(Values::Integers(Vec::new()))
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.length
    }

    /// The values of a column of booleans; the caller knows from the column's node that it is one.
    #[inline(always)]
    pub fn bits(&mut self) -> &mut Bits {
        match &mut self.values {
            Values::Bits(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn integers(&mut self) -> &mut Vec<i64> {
        match &mut self.values {
            Values::Integers(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn doubles(&mut self) -> &mut Vec<f64> {
        match &mut self.values {
            Values::Doubles(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn decimals(&mut self) -> &mut Vec<i128> {
        match &mut self.values {
            Values::Decimals(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn days(&mut self) -> &mut Vec<i32> {
        match &mut self.values {
            Values::Days(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn text(&mut self) -> &mut Text {
        match &mut self.values {
            Values::Text(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn members(&mut self) -> &mut [Column] {
        match &mut self.values {
            Values::Struct(values) => values,
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn list(&mut self) -> (&mut Offsets, &mut Column) {
        match &mut self.values {
            Values::List(offsets, items) => (offsets, items),
            _ => misfit(),
        }
    }

    #[inline(always)]
    pub fn map(&mut self) -> (&mut Offsets, &mut Entries) {
        match &mut self.values {
            Values::Map(offsets, entries) => (offsets, entries),
            _ => misfit(),
        }
    }

    /// Count a value that has been appended to `values`.
    #[inline(always)]
    pub fn valid(&mut self) {
        if let Some(validity) = &mut self.validity {
            validity.push(true);
        }
        self.length += 1;
    }

    pub fn push_text(&mut self, text: &[u8]) -> Result<(), Full> {
        self.text().push(text)?;
        self.valid();
        Ok(())
    }

    pub fn push_integer(&mut self, value: i64) {
        self.integers().push(value);
        self.valid();
    }

    /// Append a null to a column of scalars.
    pub fn push_null(&mut self) -> Result<(), Full> {
        self.invalid();
        self.pad_scalar()
    }

    /// Append a null of the node's type.
    pub fn push_null_of(&mut self, node: &Node) -> Result<(), Full> {
        self.invalid();
        self.pad(node)
    }

    fn invalid(&mut self) {
        let length = self.length;
        self.validity.get_or_insert_with(|| Bits::ones(length)).push(false);
        self.length += 1;
    }

    /// What stands, unseen, below a null. A required field has no nulls of its own, not even there.
    fn push_hidden(&mut self, node: &Node) -> Result<(), Full> {
        if !node.required {
            return self.push_null_of(node);
        }
        if let Kind::Open(_) = node.kind {
            self.text().push(b"null")?;
        } else {
            self.pad(node)?;
        }
        self.valid();
        Ok(())
    }

    fn pad(&mut self, node: &Node) -> Result<(), Full> {
        let Kind::Struct(fields) = &node.kind else { return self.pad_scalar() };
        for (column, node) in self.members().iter_mut().zip(&fields.nodes) {
            column.push_hidden(node)?;
        }
        Ok(())
    }

    fn pad_scalar(&mut self) -> Result<(), Full> {
        match &mut self.values {
            Values::Bits(bits) => bits.push(false),
            Values::Integers(values) => values.push(0),
            Values::Doubles(values) => values.push(0.0),
            Values::Decimals(values) => values.push(0),
            Values::Days(values) => values.push(0),
            Values::Text(text) => text.end()?,
            Values::Struct(_) => {}
            Values::List(offsets, item) => offsets.push(item.len())?,
            Values::Map(offsets, entries) => offsets.push(entries.values.len())?,
        }
        Ok(())
    }

    /// Back to so many values, whatever a failed row has left behind.
    pub fn truncate(&mut self, length: usize) {
        match &mut self.values {
            Values::Bits(bits) => bits.truncate(length),
            Values::Integers(values) => values.truncate(length),
            Values::Doubles(values) => values.truncate(length),
            Values::Decimals(values) => values.truncate(length),
            Values::Days(values) => values.truncate(length),
            Values::Text(text) => {
                let end = text.offsets.truncate(length);
                text.bytes.truncate(end);
            }
            Values::Struct(columns) => columns.iter_mut().for_each(|column| column.truncate(length)),
            Values::List(offsets, item) => {
                let end = offsets.truncate(length);
                item.truncate(end);
            }
            Values::Map(offsets, entries) => {
                let end = offsets.truncate(length);
                entries.keys.truncate(end);
                entries.values.truncate(end);
            }
        }
        if let Some(validity) = &mut self.validity {
            validity.truncate(length);
        }
        self.length = length;
    }

    /// The column as Arrow has it, integers in the width of their type.
    pub fn finish(self, node: &Node) -> Array {
        match (self.values, &node.kind) {
            (Values::Struct(columns), Kind::Struct(fields)) => {
                let children = columns.into_iter().zip(&fields.nodes).map(|(column, node)| column.finish(node));
                array(self.length, self.validity, vec![], children.collect())
            }
            (Values::List(offsets, item), Kind::List(inner)) => {
                array(self.length, self.validity, vec![Buffer::new(offsets.0)], vec![item.finish(inner)])
            }
            (Values::Map(offsets, entries), Kind::Map(inner)) => {
                let Entries { keys, values } = *entries;
                let entries =
                    Array::new(keys.len(), 0, None, vec![], vec![keys.finish_scalars(), values.finish(inner)]);
                array(self.length, self.validity, vec![Buffer::new(offsets.0)], vec![entries])
            }
            (Values::Integers(values), Kind::Leaf(Leaf::Integer { bits })) if *bits < 64 => {
                array(self.length, self.validity, vec![narrowed(values, *bits)], vec![])
            }
            (values, _) => array(self.length, self.validity, buffers(values), vec![]),
        }
    }

    /// A column outside of any schema as Arrow has it.
    pub fn finish_scalars(self) -> Array {
        array(self.length, self.validity, buffers(self.values), vec![])
    }
}

#[cold]
fn misfit() -> ! {
    unreachable!("a column is made for its node")
}

fn narrowed(values: Vec<i64>, bits: u32) -> Buffer {
    match bits {
        8 => Buffer::new(values.into_iter().map(|value| value as i8).collect()),
        16 => Buffer::new(values.into_iter().map(|value| value as i16).collect()),
        _ => Buffer::new(values.into_iter().map(|value| value as i32).collect()),
    }
}

fn buffers(values: Values) -> Vec<Buffer> {
    match values {
        Values::Bits(bits) => vec![Buffer::new(bits.bytes)],
        Values::Integers(values) => vec![Buffer::new(values)],
        Values::Doubles(values) => vec![Buffer::new(values)],
        Values::Decimals(values) => vec![Buffer::new(values)],
        Values::Days(values) => vec![Buffer::new(values)],
        Values::Text(text) => vec![Buffer::new(text.offsets.0), Buffer::new(text.bytes)],
        Values::Struct(_) | Values::List(..) | Values::Map(..) => vec![],
    }
}

fn array(length: usize, validity: Option<Bits>, values: Vec<Buffer>, children: Vec<Array>) -> Array {
    let nulls = validity.as_ref().map_or(0, Bits::zeros);
    let validity = validity.filter(|_| nulls > 0).map(|bits| Buffer::new(bits.bytes));
    Array::new(length, nulls, validity, values, children)
}
