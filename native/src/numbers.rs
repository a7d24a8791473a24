//! Numbers from their text, exactly: integers, decimals, counts of time units; doubles rounded once, to the nearest.

use crate::faults::{Code, Reason};
use crate::scan::Scanner;
use crate::times;

/// A number as digits times a power of ten.
pub struct Scientific {
    negative: bool,
    /// Significant digits, without zeros before or after; none for zero.
    digits: Vec<u8>,
    exponent: i64,
}

/// Python's `Decimal`, which the other engine reads numbers by, goes no further.
const LARGEST_EXPONENT: i128 = 999_999_999_999_999_999;
const SMALLEST_EXPONENT: i128 = -1_999_999_999_999_999_997;

impl Scientific {
    /// Read the text of a JSON number.
    pub fn read(text: &[u8]) -> Result<Scientific, Reason> {
        let (negative, text) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, power) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(place) => (&text[..place], read_power(&text[place + 1..])),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
            Some(place) => (&mantissa[..place], &mantissa[place + 1..]),
            None => (mantissa, &mantissa[..0]),
        };
        let mut digits: Vec<u8> = whole.iter().chain(fraction).copied().skip_while(|&digit| digit == b'0').collect();
        let exponent = power - fraction.len() as i128;
        let adjusted = exponent + digits.len().max(1) as i128 - 1;
        if adjusted > LARGEST_EXPONENT || exponent < SMALLEST_EXPONENT {
            return Err(Reason::new(Code::Range, "the number's exponent is out of range"));
        }
        let mut exponent = exponent as i64;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        Ok(Scientific { negative, digits, exponent })
    }

    fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// The power of ten of the first digit.
    fn adjusted(&self) -> i64 {
        self.exponent + self.digits.len() as i64 - 1
    }

    /// The number times a power of ten, rounded down, and whether that is exact. It must have at most 38 digits.
    fn scaled(&self, power: i64) -> (i128, bool) {
        let exponent = self.exponent + power;
        let kept = (self.digits.len() as i64 + exponent.min(0)).max(0) as usize;
        let read = self.digits[..kept].iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
        let size = if self.is_zero() { 0 } else { read * 10_i128.pow(exponent.max(0) as u32) };
        let exact = kept == self.digits.len();
        let value = if !self.negative {
            size
        } else if exact {
            -size
        } else {
            -size - 1
        };
        (value, exact)
    }
}

fn read_power(text: &[u8]) -> i128 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let limit = 10_i128.pow(30);
    let size = digits.iter().fold(0, |size, digit| (size * 10 + i128::from(digit - b'0')).min(limit));
    if negative { -size } else { size }
}

/// A whole number, however it is spelt, that fits into `bits`.
pub fn integer(text: &[u8], bits: u32) -> Result<i64, Reason> {
    let misfit = || Reason::owned(Code::Range, format!("the integer doesn't fit into {bits} bits"));
    let number = Scientific::read(text)?;
    if number.is_zero() {
        return Ok(0);
    }
    if number.adjusted() > 19 {
        return Err(misfit());
    }
    if number.exponent < 0 {
        return Err(Reason::new(Code::Type, "expected an integer, found a number with a fraction"));
    }
    let (value, _) = number.scaled(0);
    match i64::try_from(value) {
        Ok(value) if fits(value, bits) => Ok(value),
        _ => Err(misfit()),
    }
}

#[inline(always)]
pub fn fits(value: i64, bits: u32) -> bool {
    let unused = 64 - bits;
    value << unused >> unused == value
}

/// The nearest double, which must be finite. An integer has no negative zero.
pub fn double(text: &[u8]) -> Result<f64, Reason> {
    if text == b"-0" {
        return Ok(0.0);
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    match number {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(Reason::new(Code::Range, "the number is beyond the range of a double")),
    }
}

/// The number times ten to the `scale`, exactly, within `precision` digits.
pub fn decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, Reason> {
    let number = Scientific::read(text)?;
    exact_decimal(&number, precision, scale).ok_or_else(|| inexact(precision, scale))
}

/// As `decimal`, where the text is an event's string.
pub fn decimal_text(text: &[u8], precision: u8, scale: i8) -> Result<i128, Reason> {
    if !is_number(text) {
        return Err(Reason::new(Code::Format, "expected a decimal number as text, like 12.50"));
    }
    let number = Scientific::read(text).map_err(|_| inexact(precision, scale))?;
    exact_decimal(&number, precision, scale).ok_or_else(|| inexact(precision, scale))
}

fn exact_decimal(number: &Scientific, precision: u8, scale: i8) -> Option<i128> {
    let (precision, scale) = (i64::from(precision), i64::from(scale));
    if number.is_zero() {
        return Some(0);
    }
    if number.adjusted() >= precision - scale || number.exponent < -scale {
        return None;
    }
    Some(number.scaled(scale).0)
}

fn inexact(precision: u8, scale: i8) -> Reason {
    Reason::owned(
        Code::Range,
        format!("the number is not exact in a decimal of {precision} digits, {scale} after the point"),
    )
}

/// Whether the whole text is a JSON number.
pub fn is_number(text: &[u8]) -> bool {
    let mut scanner = Scanner::new(0);
    scanner.start(text);
    scanner.number(0).is_ok_and(|end| end == text.len())
}

/// Microseconds since 1970, rounded down, of a count of units, each of ten to the `power` microseconds.
pub fn epoch(text: &[u8], power: u32) -> Result<i64, Reason> {
    let number = Scientific::read(text)?;
    let micros = if number.is_zero() {
        Some(0)
    } else if number.adjusted() > 18 {
        None
    } else {
        i64::try_from(number.scaled(i64::from(power)).0).ok()
    };
    micros.filter(|micros| (times::FIRST..=times::LAST).contains(micros)).ok_or_else(|| {
        let unit = unit_name(power);
        Reason::owned(Code::Range, format!("the number, as {unit} since 1970, is not within the years 1 to 9999"))
    })
}

pub fn unit_name(power: u32) -> &'static str {
    match power {
        6 => "s",
        3 => "ms",
        _ => "us",
    }
}
