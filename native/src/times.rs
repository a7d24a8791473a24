//! Timestamps, dates and times of day from their text, to the letter of RFC 3339 (section 5.6).
//!
//! Years 0001 to 9999 in UTC; second 60 is refused; digits of a fraction beyond microseconds are cut off.

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;

/// The first and last microsecond, since 1970, of what a timestamp may be.
pub const FIRST: i64 = -719_162 * DAY;
pub const LAST: i64 = 2_932_897 * DAY - 1;

/// Microseconds since 1970 UTC.
#[inline(always)]
pub fn timestamp(text: &[u8]) -> Option<i64> {
    let (day, text) = text.split_at_checked(10)?;
    let (separator, text) = text.split_first()?;
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (clock, zone) = clock(text)?;
    let ahead = match zone {
        [b'Z' | b'z'] => 0,
        _ => offset(zone)?,
    };
    let micros = i64::from(date(day)?) * DAY + clock - ahead;
    (FIRST..=LAST).contains(&micros).then_some(micros)
}

/// Days since 1970 of a date.
#[inline(always)]
pub fn date(text: &[u8]) -> Option<i32> {
    let &[a, b, c, d, b'-', e, f, b'-', g, h] = text else { return None };
    let year = two(a, b)? * 100 + two(c, d)?;
    let (month, day) = (two(e, f)?, two(g, h)?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) {
        return None;
    }
    // Years are counted from March, so that the leap day is the last one (Hinnant, "chrono-compatible low-level date algorithms").
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468)
}

/// Microseconds since midnight, in UTC where the text has an offset.
pub fn time(text: &[u8]) -> Option<i64> {
    let (clock, zone) = clock(text)?;
    let ahead = match zone {
        [] | [b'Z' | b'z'] => 0,
        _ => offset(zone)?,
    };
    Some((clock - ahead).rem_euclid(DAY))
}

/// Microseconds of `hh:mm:ss` with an optional fraction, and what comes after it.
#[inline(always)]
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (&[a, b, b':', c, d, b':', e, f], mut rest) = text.split_first_chunk::<8>()? else { return None };
    let (hour, minute, second) = (two(a, b)?, two(c, d)?, two(e, f)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut micros = i64::from((hour * 60 + minute) * 60 + second) * 1_000_000;
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let mut unit = 100_000;
        for digit in &fraction[..digits.min(6)] {
            micros += i64::from(digit - b'0') * unit;
            unit /= 10;
        }
        rest = &fraction[digits..];
    }
    Some((micros, rest))
}

fn offset(text: &[u8]) -> Option<i64> {
    let &[sign, a, b, b':', c, d] = text else { return None };
    let (hours, minutes) = (two(a, b)?, two(c, d)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = i64::from(hours * 60 + minutes) * 60_000_000;
    match sign {
        b'+' => Some(ahead),
        b'-' => Some(-ahead),
        _ => None,
    }
}

#[inline(always)]
fn two(tens: u8, ones: u8) -> Option<i32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i32::from(tens * 10 + ones))
}

fn days_of(year: i32, month: i32) -> i32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}
