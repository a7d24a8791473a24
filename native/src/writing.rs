//! Values as JSON text, appended to bytes: strings, numbers, decimals, moments, base64.
//!
//! Mirrors `milkrun.encoding.python` to the byte.

use crate::short;
use crate::times::DAY;

/// Append a string as JSON, escaping only what must be (RFC 8259, section 7).
#[inline(always)]
pub fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    if is_plain(text) {
        short::append(text, out);
    } else {
        escaped(text, out);
    }
    out.push(b'"');
}

/// Whether nothing has to be escaped.
#[inline(always)]
fn is_plain(text: &[u8]) -> bool {
    if let Some(&last) = text.last_chunk::<8>() {
        let (words, _) = text.as_chunks::<8>();
        return !words
            .iter()
            .fold(special(u64::from_le_bytes(last)), |any, &word| any | special(u64::from_le_bytes(word)));
    }
    if let (Some(&first), Some(&last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return !special(u64::from(u32::from_le_bytes(first)) << 32 | u64::from(u32::from_le_bytes(last)));
    }
    text.iter().all(|&byte| !is_special(byte))
}

/// Whether any of eight bytes has to be escaped. A byte's highest bit tells, and may be wrong only above one that is right.
#[inline(always)]
fn special(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHEST: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (control | zero(word ^ (ONES * b'"' as u64)) | zero(word ^ (ONES * b'\\' as u64))) & HIGHEST != 0
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[inline(never)]
fn escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(place) = rest.iter().position(|&byte| is_special(byte)) {
        out.extend_from_slice(&rest[..place]);
        escape(rest[place], out);
        rest = &rest[place + 1..];
    }
    out.extend_from_slice(rest);
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        8 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        12 => b'f',
        b'\r' => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend([HEXADECIMAL[usize::from(byte >> 4)], HEXADECIMAL[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend([b'\\', short]);
}

/// A number in binary floating point.
pub trait Floating: zmij::Float + Copy {
    fn wide(self) -> f64;
    /// From here on one digit can only be the shortest where two would be no nearer.
    const PRECISE: f64;
}

impl Floating for f64 {
    fn wide(self) -> f64 {
        self
    }
    const PRECISE: f64 = 1e-300;
}

impl Floating for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    const PRECISE: f64 = 1e-36;
}

/// The fewest digits that give the number back, as Python's `json` or as Java writes them.
#[inline(always)]
pub fn floating<T: Floating>(value: T, java: bool, out: &mut Vec<u8>) {
    let (number, size) = (value.wide(), value.wide().abs());
    if !number.is_finite() {
        let word: &[u8] = if number.is_nan() {
            b"\"NaN\""
        } else if number > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        };
        out.extend_from_slice(word);
        return;
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    // Where all agree: with a point and without an exponent.
    let agreed = if java { (1e-3..1e7).contains(&size) } else { (1e-4..1e15).contains(&size) };
    if agreed || size == 0.0 {
        short::append(text.as_bytes(), out);
    } else if java && size < T::PRECISE && Digits::of(text).used == 1 {
        // Java looks for the nearest number of two digits where one would do: 4.9E-324.
        Digits::of(&format!("{number:.1e}")).java(out);
    } else if java {
        Digits::of(text).java(out);
    } else {
        Digits::of(text).python(out);
    }
}

/// Significant digits, and the power of ten of the first of them.
struct Digits {
    negative: bool,
    digits: [u8; 20],
    used: usize,
    exponent: i32,
}

impl Digits {
    /// Of a finite number that isn't zero, in at most 17 digits and any number of zeros.
    fn of(text: &str) -> Digits {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, power) = text.split_once('e').unwrap_or((text, "0"));
        let whole = mantissa.find('.').unwrap_or(mantissa.len());
        let mut found = Digits { negative, digits: [0; 20], used: 0, exponent: power.parse().unwrap_or(0) };
        found.exponent += whole as i32 - 1;
        let (mut before, mut zeros) = (true, 0);
        for digit in mantissa.bytes().filter(|&byte| byte != b'.') {
            if digit == b'0' {
                if before {
                    found.exponent -= 1;
                } else {
                    zeros += 1;
                }
                continue;
            }
            before = false;
            for _ in 0..zeros {
                found.push(b'0');
            }
            zeros = 0;
            found.push(digit);
        }
        found
    }

    fn push(&mut self, digit: u8) {
        self.digits[self.used] = digit;
        self.used += 1;
    }

    fn python(&self, out: &mut Vec<u8>) {
        if (-4..16).contains(&self.exponent) {
            return self.positional(out);
        }
        self.sign(out);
        out.push(self.digits[0]);
        if self.used > 1 {
            out.push(b'.');
            out.extend_from_slice(&self.digits[1..self.used]);
        }
        out.extend([b'e', if self.exponent < 0 { b'-' } else { b'+' }]);
        if self.exponent.abs() < 10 {
            out.push(b'0');
        }
        integer(self.exponent.unsigned_abs(), out);
    }

    fn java(&self, out: &mut Vec<u8>) {
        if (-3..7).contains(&self.exponent) {
            return self.positional(out);
        }
        self.sign(out);
        out.extend([self.digits[0], b'.']);
        out.extend_from_slice(if self.used > 1 { &self.digits[1..self.used] } else { b"0" });
        out.push(b'E');
        integer(self.exponent, out);
    }

    fn positional(&self, out: &mut Vec<u8>) {
        self.sign(out);
        let digits = &self.digits[..self.used];
        if self.exponent < 0 {
            out.extend_from_slice(b"0.");
            zeros(self.exponent.unsigned_abs() as usize - 1, out);
            return out.extend_from_slice(digits);
        }
        let whole = self.exponent as usize + 1;
        out.extend_from_slice(&digits[..whole.min(digits.len())]);
        zeros(whole.saturating_sub(digits.len()), out);
        out.push(b'.');
        let fraction = digits.get(whole..).filter(|fraction| !fraction.is_empty());
        out.extend_from_slice(fraction.unwrap_or(b"0"));
    }

    fn sign(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
    }
}

fn zeros(count: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + count, b'0');
}

#[inline(always)]
pub fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    short::append(itoa::Buffer::new().format(value).as_bytes(), out);
}

/// A decimal: the bytes of its digits as one integer, lowest first, in two's complement, of which `scale` are after the point.
///
/// In full, or as Java's `BigDecimal.toString` writes it.
pub fn decimal(bytes: &[u8], scale: i32, java: bool, out: &mut Vec<u8>) {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    if negative {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let wide;
    let digits = match i128_of(bytes, negative) {
        Some(number) => buffer.format(number.unsigned_abs()).as_bytes(),
        None => {
            wide = wide_digits(bytes, negative);
            wide.as_bytes()
        }
    };
    let places = scale.unsigned_abs() as usize;
    let adjusted = digits.len() as i32 - 1 - scale;
    if java && (scale < 0 || (scale > 0 && adjusted < -6)) {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'E');
        if adjusted >= 0 {
            out.push(b'+');
        }
        return integer(adjusted, out);
    }
    if scale <= 0 {
        out.extend_from_slice(digits);
        return zeros(if digits == b"0" { 0 } else { places }, out);
    }
    match digits.len().checked_sub(places) {
        None | Some(0) => {
            out.extend_from_slice(b"0.");
            zeros(places - digits.len(), out);
            out.extend_from_slice(digits);
        }
        Some(whole) => {
            out.extend_from_slice(&digits[..whole]);
            out.push(b'.');
            out.extend_from_slice(&digits[whole..]);
        }
    }
}

/// The integer, if it fits: those of 256 bits seldom need all of them.
fn i128_of(bytes: &[u8], negative: bool) -> Option<i128> {
    let sign = if negative { 0xff } else { 0 };
    let (low, high) = bytes.split_at_checked(16).unwrap_or((bytes, &[]));
    let mut all = [sign; 16];
    all[..low.len()].copy_from_slice(low);
    let number = i128::from_le_bytes(all);
    (high.iter().all(|&byte| byte == sign) && (number < 0) == negative).then_some(number)
}

/// The digits, without a sign, of an integer of 256 bits.
fn wide_digits(bytes: &[u8], negative: bool) -> String {
    const CHUNK: u128 = 10_u128.pow(19);
    let mut limbs: Vec<u64> =
        bytes.chunks_exact(8).map(|limb| u64::from_le_bytes(limb.try_into().expect("chunks of eight"))).collect();
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
        }
    }
    let mut chunks = Vec::new();
    while limbs.iter().any(|&limb| limb != 0) {
        let mut remainder = 0;
        for limb in limbs.iter_mut().rev() {
            let part = remainder << 64 | u128::from(*limb);
            *limb = (part / CHUNK) as u64;
            remainder = part % CHUNK;
        }
        chunks.push(remainder as u64);
    }
    let Some(first) = chunks.pop() else { return "0".into() };
    chunks.iter().rev().fold(first.to_string(), |digits, chunk| format!("{digits}{chunk:019}"))
}

/// Days since 1970 as `YYYY-MM-DD`; nothing, and false, outside the years 1 to 9999.
#[inline(always)]
pub fn date(days: i64, out: &mut Vec<u8>) -> bool {
    const FIRST: i64 = -719_162;
    const LAST: i64 = 2_932_896;
    if !(FIRST..=LAST).contains(&days) {
        return false;
    }
    // Years begin in March, so that the leap day is the last one (Hinnant, "chrono-compatible low-level date algorithms").
    let since = days as u32;
    let since = since.wrapping_add(719_468);
    let (era, in_era) = (since / 146_097, since % 146_097);
    let of_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * of_era + of_era / 4 - of_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = of_era + era * 400 + u32::from(month <= 2);
    let [a, b] = two(year / 100);
    let [c, d] = two(year % 100);
    let [e, f] = two(month);
    let [g, h] = two(day);
    out.extend_from_slice(&[a, b, c, d, b'-', e, f, b'-', g, h]);
    true
}

#[inline(always)]
fn two(number: u32) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// A time of day as `hh:mm:ss`, of units of which a second has ten to the `digits`, with so many digits of a fraction; nothing, and
/// false, beyond a day.
#[inline(always)]
pub fn clock(units: i64, digits: u32, out: &mut Vec<u8>) -> bool {
    let per_second = 10_i64.pow(digits);
    if !(0..per_second * (DAY / 1_000_000)).contains(&units) {
        return false;
    }
    let (seconds, fraction) = ((units / per_second) as u32, (units % per_second) as u32);
    let [a, b] = two(seconds / 3_600);
    let [c, d] = two(seconds / 60 % 60);
    let [e, f] = two(seconds % 60);
    out.extend_from_slice(&[a, b, b':', c, d, b':', e, f]);
    if digits > 0 {
        let mut text = [b'0'; 10];
        text[0] = b'.';
        let mut rest = fraction;
        for place in (1..=digits as usize).rev() {
            text[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&text[..=digits as usize]);
    }
    true
}

/// A timestamp of such units since 1970 as `YYYY-MM-DDThh:mm:ss` and a fraction; false outside the years 1 to 9999.
#[inline(always)]
pub fn timestamp(units: i64, digits: u32, out: &mut Vec<u8>) -> bool {
    let per_day = 10_i64.pow(digits) * (DAY / 1_000_000);
    if !date(units.div_euclid(per_day), out) {
        return false;
    }
    out.push(b'T');
    clock(units.rem_euclid(per_day), digits, out)
}

/// A number of units of ten to the `power` of those given, rounded down, or with as many digits after the point as it takes.
pub fn count(value: i64, power: i32, exact: bool, out: &mut Vec<u8>) {
    if power <= 0 {
        return integer(i128::from(value) * 10_i128.pow(power.unsigned_abs()), out);
    }
    let unit = 10_i64.pow(power.unsigned_abs());
    if !exact {
        return integer(value.div_euclid(unit), out);
    }
    if value < 0 {
        out.push(b'-');
    }
    let (size, unit) = (value.unsigned_abs(), unit.unsigned_abs());
    integer(size / unit, out);
    let fraction = size % unit;
    if fraction != 0 {
        let text = format!("{fraction:0width$}", width = power as usize);
        out.push(b'.');
        out.extend_from_slice(text.trim_end_matches('0').as_bytes());
    }
}

/// Bytes in base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let mut text = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
        text[group.len() + 1..].fill(b'=');
        out.extend_from_slice(&text);
    }
}
