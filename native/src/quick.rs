//! One pass over an event straight into its columns: the quick way, taken by every row first.
//!
//! It gives up (`Stop::Bail`) at whatever is wrong or unusual: duplicate keys, escapes in keys, a byte order mark, a value of another
//! kind, unless that is allowed. What it has appended until then is the caller's to take back, and `judge` decides.

use crate::columns::{Column, Stop};
use crate::judge::Latitude;
use crate::numbers;
use crate::scan::{Bail, Scanner, Step, is_utf8};
use crate::schema::{Fields, Kind, Leaf, Node, Only};
use crate::times;

/// A field the schema lacks that says something: the struct's number, and where the name stands.
pub struct Unknown {
    pub number: u32,
    pub start: usize,
    pub end: usize,
}

/// The decoder of one column of events after the other. Only with `LOOSE` has the latitude a say, so that strict reading asks nothing of it.
pub struct Quick<'a, const LOOSE: bool> {
    scanner: Scanner<'a>,
    latitude: Latitude,
    pub unknown: Vec<Unknown>,
    /// Whether there is any field that the schema lacks.
    pub strange: bool,
}

impl<'a, const LOOSE: bool> Quick<'a, LOOSE> {
    pub fn new(max_depth: usize, latitude: Latitude) -> Quick<'a, LOOSE> {
        Quick { scanner: Scanner::new(max_depth), latitude, unknown: Vec::new(), strange: false }
    }

    #[inline(always)]
    fn ignores_case(&self) -> bool {
        LOOSE && self.latitude.ignore_case
    }

    #[inline(always)]
    fn coerces(&self) -> bool {
        LOOSE && self.latitude.coerce
    }

    /// Append an event to the columns, which have `row` values.
    pub fn append(&mut self, text: &'a [u8], root: &Fields, columns: &mut [Column], row: usize) -> Result<(), Stop> {
        self.unknown.clear();
        self.strange = false;
        if !is_utf8(text) {
            return Err(Stop::Bail);
        }
        self.scanner.start(text);
        let at = self.scanner.demand(self.scanner.white(0), b'{')?;
        let end = self.members(at, root, columns, row)?;
        if self.scanner.white(end) == text.len() { Ok(()) } else { Err(Stop::Bail) }
    }

    /// The members of an object from behind its brace; from here on, what is returned is where the value ends.
    #[inline(never)]
    fn members(&mut self, at: usize, fields: &Fields, columns: &mut [Column], length: usize) -> Result<usize, Stop> {
        self.scanner.enter()?;
        let noted = self.scanner.keys();
        let (mut filled, mut expected) = (0, 0);
        let mut at = self.scanner.white(at);
        if self.scanner.peek(at) == b'}' {
            at += 1;
        } else {
            loop {
                let name = self.scanner.demand(at, b'"')?;
                let (found, behind) = self.field(name, fields, expected)?;
                if let Some(index) = found {
                    let (node, column) = (&fields.nodes[index], &mut columns[index]);
                    // The column already has a value of this object: the key is there twice.
                    if column.len() != length {
                        return Err(Stop::Bail);
                    }
                    at = self.value(self.scanner.white(behind), node, column)?;
                    filled += 1;
                    expected = index + 1;
                } else if fields.closed {
                    return Err(Stop::Bail);
                } else {
                    at = self.unknown(name, behind, fields.number)?;
                }
                at = self.scanner.white(at);
                match self.scanner.peek(at) {
                    b',' => at = self.scanner.white(at + 1),
                    b'}' => break,
                    _ => return Err(Stop::Bail),
                }
            }
            at += 1;
            self.scanner.forget_keys(noted)?;
        }
        self.scanner.depth -= 1;
        if filled < columns.len() {
            fill(fields, columns, length)?;
        }
        Ok(at)
    }

    /// The field whose name begins here, and the place behind the colon; or none, and the place behind the name's last letter.
    #[inline(always)]
    fn field(&mut self, at: usize, fields: &Fields, expected: usize) -> Step<(Option<usize>, usize)> {
        if let Some(window) = self.scanner.window(at)
            && let Some((index, length)) = fields.names.at_window(window, expected, self.ignores_case())
        {
            return Ok((Some(index), at + length));
        }
        self.any_field(at, fields)
    }

    fn any_field(&mut self, at: usize, fields: &Fields) -> Step<(Option<usize>, usize)> {
        let end = self.scanner.plain_string(at)?;
        let name = std::str::from_utf8(&self.scanner.text[at..end]).map_err(|_| Bail)?;
        let found = if self.ignores_case() { fields.named_without_case(name) } else { fields.named(name) };
        match found {
            Some(index) => Ok((Some(index), self.scanner.colon(end + 1)?)),
            None => Ok((None, end)),
        }
    }

    /// A field that the schema lacks, between whose name's first and last letter these places are.
    fn unknown(&mut self, start: usize, end: usize, number: u32) -> Step<usize> {
        self.scanner.note_key(start, end);
        let value = self.scanner.colon(end + 1)?;
        let at = self.scanner.skip::<true>(value)?;
        self.strange = true;
        if says_something(&self.scanner.text[value..at]) {
            self.unknown.push(Unknown { number, start, end });
        }
        Ok(at)
    }

    #[inline(always)]
    fn value(&mut self, at: usize, node: &Node, column: &mut Column) -> Result<usize, Stop> {
        if self.scanner.peek(at) == b'n' {
            let end = self.scanner.literal(at, b"null")?;
            if node.required || node.no_null {
                return Err(Stop::Bail);
            }
            column.push_null_of(node)?;
            return Ok(end);
        }
        let length = column.len();
        let end = match &node.kind {
            Kind::Leaf(Leaf::Text) if self.coerces() && self.scanner.peek(at) != b'"' => {
                let end = self.scanner.skip::<true>(at)?;
                column.text().push(&self.scanner.text[at..end])?;
                end
            }
            Kind::Leaf(Leaf::Text) => {
                let text = column.text();
                let end = self.scanner.string(self.scanner.demand(at, b'"')?, &mut text.bytes)?;
                text.end()?;
                end
            }
            Kind::Leaf(Leaf::Integer { bits }) => {
                let start = self.unquoted(at);
                let (value, end) = self.integer(start, *bits)?;
                column.integers().push(value);
                self.close(end, start > at)?
            }
            Kind::Leaf(Leaf::Double) => {
                let start = self.unquoted(at);
                let (value, end) = self.double(start)?;
                column.doubles().push(value);
                self.close(end, start > at)?
            }
            Kind::Struct(fields) => self.members(self.scanner.demand(at, b'{')?, fields, column.members(), length)?,
            Kind::List(item) => {
                let (offsets, items) = column.list();
                let end = self.items(self.scanner.demand(at, b'[')?, item, items)?;
                offsets.push(items.len())?;
                end
            }
            Kind::Map(value) => self.map(self.scanner.demand(at, b'{')?, value, column)?,
            Kind::Leaf(Leaf::Boolean) => {
                let value = self.scanner.peek(at) == b't';
                let end = self.scanner.literal(at, if value { b"true" } else { b"false" })?;
                column.bits().push(value);
                end
            }
            Kind::Leaf(Leaf::Epoch { power }) => {
                let start = self.unquoted(at);
                let (value, end) = self.epoch(start, *power)?;
                column.integers().push(value);
                self.close(end, start > at)?
            }
            Kind::Leaf(Leaf::Decimal { precision, scale }) => {
                let start = self.unquoted(at);
                let end = self.scanner.number(start)?;
                let text = &self.scanner.text[start..end];
                column.decimals().push(numbers::decimal(text, *precision, *scale).map_err(|_| Bail)?);
                self.close(end, start > at)?
            }
            Kind::Leaf(leaf @ (Leaf::Timestamp | Leaf::Date | Leaf::Time | Leaf::DecimalText { .. })) => {
                let start = self.scanner.demand(at, b'"')?;
                let end = self.scanner.plain_string(start)?;
                written(*leaf, &self.scanner.text[start..end], column)?;
                end + 1
            }
            Kind::Open(only) => {
                let first = self.scanner.peek(at);
                if (*only == Only::Object && first != b'{') || (*only == Only::Array && first != b'[') {
                    return Err(Stop::Bail);
                }
                let end = self.scanner.skip::<true>(at)?;
                column.text().push(&self.scanner.text[at..end])?;
                end
            }
        };
        column.valid();
        Ok(end)
    }

    #[inline(never)]
    fn items(&mut self, at: usize, item: &Node, items: &mut Column) -> Result<usize, Stop> {
        self.scanner.enter()?;
        let mut at = self.scanner.white(at);
        if self.scanner.peek(at) != b']' {
            loop {
                at = self.value(at, item, items)?;
                at = self.scanner.white(at);
                match self.scanner.peek(at) {
                    b',' => at = self.scanner.white(at + 1),
                    b']' => break,
                    _ => return Err(Stop::Bail),
                }
            }
        }
        self.scanner.depth -= 1;
        Ok(at + 1)
    }

    /// The members of a map from behind its brace.
    #[inline(never)]
    fn map(&mut self, at: usize, value: &Node, column: &mut Column) -> Result<usize, Stop> {
        let (offsets, entries) = column.map();
        self.scanner.enter()?;
        let noted = self.scanner.keys();
        let mut at = self.scanner.white(at);
        if self.scanner.peek(at) != b'}' {
            loop {
                let start = self.scanner.demand(at, b'"')?;
                let end = self.scanner.plain_string(start)?;
                self.scanner.note_key(start, end);
                entries.keys.push_text(&self.scanner.text[start..end])?;
                at = self.value(self.scanner.colon(end + 1)?, value, &mut entries.values)?;
                at = self.scanner.white(at);
                match self.scanner.peek(at) {
                    b',' => at = self.scanner.white(at + 1),
                    b'}' => break,
                    _ => return Err(Stop::Bail),
                }
            }
            self.scanner.forget_keys(noted)?;
        }
        offsets.push(entries.values.len())?;
        self.scanner.depth -= 1;
        Ok(at + 1)
    }

    /// Where a number begins; behind a quote, where the text of a number will do.
    #[inline(always)]
    fn unquoted(&self, at: usize) -> usize {
        at + usize::from(self.coerces() && self.scanner.peek(at) == b'"')
    }

    /// The end of a number, and of the string it may be in.
    #[inline(always)]
    fn close(&self, end: usize, quoted: bool) -> Step<usize> {
        if quoted { self.scanner.demand(end, b'"') } else { Ok(end) }
    }

    /// Go on with a number whose first digits make `value`; what they make with the next ones, unless they are too many, and where
    /// those end.
    #[inline(always)]
    fn digits(&self, mut at: usize, mut value: u64) -> (u64, usize) {
        loop {
            let digit = self.scanner.peek(at).wrapping_sub(b'0');
            if digit > 9 {
                return (value, at);
            }
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
        }
    }

    /// A whole number of at most 18 digits without a sign, and where it ends.
    #[inline(always)]
    fn plain_integer(&self, at: usize) -> Option<(i64, usize)> {
        let (value, end) = self.digits(at, 0);
        let plain = matches!(end - at, 1..=18) && (self.peek_digit(at) != 0 || end == at + 1);
        (plain && !matches!(self.scanner.peek(end), b'.' | b'e' | b'E')).then_some((value as i64, end))
    }

    #[inline(always)]
    fn peek_digit(&self, at: usize) -> u8 {
        self.scanner.peek(at).wrapping_sub(b'0')
    }

    #[inline(always)]
    fn integer(&self, at: usize, bits: u32) -> Step<(i64, usize)> {
        let negative = self.scanner.peek(at) == b'-';
        if let Some((size, end)) = self.plain_integer(at + usize::from(negative)) {
            let value = if negative { -size } else { size };
            return if numbers::fits(value, bits) { Ok((value, end)) } else { Err(Bail) };
        }
        let end = self.scanner.number(at)?;
        Ok((numbers::integer(&self.scanner.text[at..end], bits).map_err(|_| Bail)?, end))
    }

    #[inline(always)]
    fn double(&self, at: usize) -> Step<(f64, usize)> {
        let negative = self.scanner.peek(at) == b'-';
        let first = at + usize::from(negative);
        let (whole, point) = self.digits(first, 0);
        let plain = point > first && (self.peek_digit(first) != 0 || point == first + 1);
        let fraction = self.scanner.peek(point) == b'.';
        let (mantissa, end) = if fraction { self.digits(point + 1, whole) } else { (whole, point) };
        let places = if fraction { end - point - 1 } else { 0 };
        let exact = end - first <= 19 && mantissa < 1 << 53 && (places > 0 || !fraction);
        if plain && exact && !matches!(self.scanner.peek(end), b'e' | b'E') {
            // Both are exact as doubles, so that the division rounds once (Clinger, "How to read floating point numbers accurately").
            let size = mantissa as f64 / POWERS[places];
            return Ok((if negative && (mantissa > 0 || fraction) { -size } else { size }, end));
        }
        let end = self.scanner.number(at)?;
        Ok((numbers::double(&self.scanner.text[at..end]).map_err(|_| Bail)?, end))
    }

    #[inline(always)]
    fn epoch(&self, at: usize, power: u32) -> Step<(i64, usize)> {
        if let Some((count, end)) = self.plain_integer(at) {
            let micros = count.checked_mul(10_i64.pow(power)).filter(|micros| *micros <= times::LAST);
            return Ok((micros.ok_or(Bail)?, end));
        }
        let end = self.scanner.number(at)?;
        Ok((numbers::epoch(&self.scanner.text[at..end], power).map_err(|_| Bail)?, end))
    }
}

/// A value that is written as a string without escapes.
fn written(leaf: Leaf, text: &[u8], column: &mut Column) -> Step {
    match leaf {
        Leaf::Timestamp => column.integers().push(times::timestamp(text).ok_or(Bail)?),
        Leaf::Date => column.days().push(times::date(text).ok_or(Bail)?),
        Leaf::Time => column.integers().push(times::time(text).ok_or(Bail)?),
        Leaf::DecimalText { precision, scale } => {
            column.decimals().push(numbers::decimal_text(text, precision, scale).map_err(|_| Bail)?);
        }
        _ => return Err(Bail),
    }
    Ok(())
}

/// The powers of ten that doubles hold exactly.
const POWERS: [f64; 20] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19];

/// Nulls for the fields that an object doesn't have.
fn fill(fields: &Fields, columns: &mut [Column], length: usize) -> Result<(), Stop> {
    for (node, column) in fields.nodes.iter().zip(columns) {
        if column.len() == length {
            if node.required || node.present {
                return Err(Stop::Bail);
            }
            column.push_null_of(node)?;
        }
    }
    Ok(())
}

/// Whether a value is anything but null or an empty array.
fn says_something(text: &[u8]) -> bool {
    match text {
        [b'n', ..] => false,
        [b'[', inner @ .., b']'] => !inner.iter().all(u8::is_ascii_whitespace),
        _ => true,
    }
}
