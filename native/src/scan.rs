//! The bytes of one JSON text: strings, numbers and white space recognised quickly, and values skipped with their syntax checked.
//!
//! Everything here works on a text that is known to be UTF-8, accepts exactly RFC 8259, and gives up (`Bail`) at whatever is unusual
//! or wrong; `document` says afterwards what it was. Nothing recurses with the text.

/// The text isn't what the quick way takes. What it is instead is for the exact way to say.
#[derive(Debug)]
pub struct Bail;

pub type Step<T = ()> = Result<T, Bail>;

#[inline(always)]
pub fn is_utf8(text: &[u8]) -> bool {
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// Bytes that are looked at together.
pub const WINDOW: usize = 16;

/// For each byte of a window, lowest bit first: whether it ends a run of plain text in a string (quote, backslash, control character).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn special(window: &[u8; WINDOW]) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_max_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86_64, and the load, which needs no alignment, reads the sixteen bytes of the window.
    unsafe {
        let bytes = _mm_loadu_si128(window.as_ptr().cast::<__m128i>());
        let last_control = _mm_set1_epi8(0x1f);
        let control = _mm_cmpeq_epi8(_mm_max_epu8(bytes, last_control), last_control);
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        _mm_movemask_epi8(_mm_or_si128(control, _mm_or_si128(quote, backslash))) as u32
    }
}

/// As above, for processors without SSE2.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn special(window: &[u8; WINDOW]) -> u32 {
    let mut mask = 0;
    for (place, &byte) in window.iter().enumerate() {
        mask |= u32::from(byte < 0x20 || byte == b'"' || byte == b'\\') << place;
    }
    mask
}

#[derive(Clone, Copy)]
struct Frame {
    object: bool,
    /// Where this object's keys begin among `Scanner::keys`.
    keys: usize,
}

impl Frame {
    #[inline(always)]
    fn closing(self) -> u8 {
        if self.object { b'}' } else { b']' }
    }
}

/// A text, and the objects and arrays of it that are open.
///
/// Places are handed from call to call, not kept here: so they stay in registers, and a step needn't wait for the last one's store.
pub struct Scanner<'a> {
    pub text: &'a [u8],
    pub depth: usize,
    /// The most levels there have been in what was skipped.
    pub deepest: usize,
    max_depth: usize,
    frames: Vec<Frame>,
    /// Digests of the keys of the objects that are open, of each object its own after those of the objects around it.
    keys: Vec<u64>,
}

impl<'a> Scanner<'a> {
    pub fn new(max_depth: usize) -> Self {
        Scanner { text: &[], depth: 0, deepest: 0, max_depth, frames: Vec::new(), keys: Vec::new() }
    }

    /// Begin anew with a text.
    pub fn start(&mut self, text: &'a [u8]) {
        self.text = text;
        self.depth = 0;
        self.frames.clear();
        self.keys.clear();
    }

    /// The byte at a place; at the end 0, which is nowhere right.
    #[inline(always)]
    pub fn peek(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub fn demand(&self, at: usize, byte: u8) -> Step<usize> {
        if self.peek(at) == byte { Ok(at + 1) } else { Err(Bail) }
    }

    #[inline(always)]
    pub fn white(&self, at: usize) -> usize {
        // In most texts there is none.
        if self.peek(at) > b' ' { at } else { self.skip_white(at) }
    }

    #[cold]
    fn skip_white(&self, mut at: usize) -> usize {
        while matches!(self.peek(at), b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
        }
        at
    }

    /// The colon after a key, and the white space around it.
    #[inline(always)]
    pub fn colon(&self, at: usize) -> Step<usize> {
        Ok(self.white(self.demand(self.white(at), b':')?))
    }

    /// One level deeper.
    #[inline(always)]
    pub fn enter(&mut self) -> Step {
        self.depth += 1;
        if self.depth > self.max_depth { Err(Bail) } else { Ok(()) }
    }

    /// The next sixteen bytes, where the text has them.
    #[inline(always)]
    pub fn window(&self, at: usize) -> Option<&'a [u8; WINDOW]> {
        self.text.get(at..)?.first_chunk()
    }

    /// The next byte that `special` tells; 0 at the end.
    #[inline(always)]
    fn run(&self, mut at: usize) -> (u8, usize) {
        while let Some(window) = self.window(at) {
            let mask = special(window);
            if mask != 0 {
                let place = mask.trailing_zeros() as usize;
                return (window[place], at + place);
            }
            at += WINDOW;
        }
        while !matches!(self.peek(at), 0..0x20 | b'"' | b'\\') {
            at += 1;
        }
        (self.peek(at), at)
    }

    /// The rest of a string from behind its opening quote, appended to `out` without its escapes.
    #[inline(always)]
    pub fn string(&self, mut at: usize, out: &mut Vec<u8>) -> Step<usize> {
        loop {
            let end = loop {
                let Some(window) = self.window(at) else {
                    let (end, place) = self.run(at);
                    out.extend_from_slice(&self.text[at..place]);
                    at = place;
                    break end;
                };
                // Copied whole before it is known how much of it belongs to the string: a copy of fixed size costs least.
                out.extend_from_slice(window);
                let mask = special(window);
                if mask != 0 {
                    let plain = mask.trailing_zeros() as usize;
                    out.truncate(out.len() - WINDOW + plain);
                    at += plain;
                    break window[plain];
                }
                at += WINDOW;
            };
            match end {
                b'"' => return Ok(at + 1),
                b'\\' => {
                    let (character, behind) = self.escape(at + 1)?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    at = behind;
                }
                _ => return Err(Bail),
            }
        }
    }

    /// The rest of a string from behind its opening quote, checked.
    #[inline(always)]
    pub fn skip_string(&self, mut at: usize) -> Step<usize> {
        loop {
            match self.run(at) {
                (b'"', end) => return Ok(end + 1),
                (b'\\', end) => at = self.escape(end + 1)?.1,
                _ => return Err(Bail),
            }
        }
    }

    /// The place of the quote that ends a string without escapes.
    #[inline(always)]
    pub fn plain_string(&self, at: usize) -> Step<usize> {
        match self.run(at) {
            (b'"', end) => Ok(end),
            _ => Err(Bail),
        }
    }

    /// The character of an escape from behind its backslash; half of a surrogate pair is none.
    #[cold]
    pub fn escape(&self, at: usize) -> Step<(char, usize)> {
        let character = match self.peek(at) {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.units(at + 1),
            _ => return Err(Bail),
        };
        Ok((character, at + 1))
    }

    fn units(&self, at: usize) -> Step<(char, usize)> {
        let (unit, at) = self.unit(at)?;
        if !(0xd800..0xdc00).contains(&unit) {
            return Ok((char::from_u32(unit).ok_or(Bail)?, at));
        }
        let (low, at) = self.unit(self.demand(self.demand(at, b'\\')?, b'u')?)?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(Bail);
        }
        let character = char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
        Ok((character.ok_or(Bail)?, at))
    }

    fn unit(&self, at: usize) -> Step<(u32, usize)> {
        let mut unit = 0;
        for place in at..at + 4 {
            unit = unit << 4 | (self.peek(place) as char).to_digit(16).ok_or(Bail)?;
        }
        Ok((unit, at + 4))
    }

    #[inline(always)]
    pub fn literal(&self, at: usize, word: &[u8]) -> Step<usize> {
        let end = at + word.len();
        if self.text.get(at..end) == Some(word) { Ok(end) } else { Err(Bail) }
    }

    #[inline(always)]
    fn digits(&self, mut at: usize) -> usize {
        while self.peek(at).is_ascii_digit() {
            at += 1;
        }
        at
    }

    /// Where a number ends.
    #[inline(always)]
    pub fn number(&self, start: usize) -> Step<usize> {
        let first = start + usize::from(self.peek(start) == b'-');
        let mut at = self.digits(first);
        if at == first || (self.peek(first) == b'0' && at > first + 1) {
            return Err(Bail);
        }
        if self.peek(at) == b'.' {
            let end = self.digits(at + 1);
            if end == at + 1 {
                return Err(Bail);
            }
            at = end;
        }
        if matches!(self.peek(at), b'e' | b'E') {
            let power = at + 1 + usize::from(matches!(self.peek(at + 1), b'+' | b'-'));
            at = self.digits(power);
            if at == power {
                return Err(Bail);
            }
        }
        Ok(at)
    }

    /// Where a number, true or false ends.
    pub fn scalar(&self, at: usize) -> Step<usize> {
        match self.peek(at) {
            b't' => self.literal(at, b"true"),
            b'f' => self.literal(at, b"false"),
            _ => self.number(at),
        }
    }

    /// Skip a value, checked. With `KEYS`, an object that has a key twice isn't taken (nor one with an escape in a key).
    pub fn skip<const KEYS: bool>(&mut self, mut at: usize) -> Step<usize> {
        let mut inner = Frame { object: false, keys: 0 };
        let mut open = 0_usize;
        loop {
            match self.peek(at) {
                b'"' => at = self.skip_string(at + 1)?,
                bracket @ (b'{' | b'[') => {
                    self.enter()?;
                    self.deepest = self.deepest.max(self.depth);
                    self.frames.push(inner);
                    inner = Frame { object: bracket == b'{', keys: self.keys.len() };
                    open += 1;
                    at = self.white(at + 1);
                    if self.peek(at) != inner.closing() {
                        if inner.object {
                            at = self.key::<KEYS>(at)?;
                        }
                        continue;
                    }
                }
                b'n' => at = self.literal(at, b"null")?,
                b't' => at = self.literal(at, b"true")?,
                b'f' => at = self.literal(at, b"false")?,
                _ => at = self.number(at)?,
            }
            // A value has ended, or an empty object or array is about to: so does all that ends with it.
            loop {
                if open == 0 {
                    return Ok(at);
                }
                at = self.white(at);
                let byte = self.peek(at);
                if byte == b',' {
                    at = self.white(at + 1);
                    if inner.object {
                        at = self.key::<KEYS>(at)?;
                    }
                    break;
                }
                if byte != inner.closing() {
                    return Err(Bail);
                }
                at += 1;
                open -= 1;
                self.depth -= 1;
                if KEYS && inner.object {
                    self.forget_keys(inner.keys)?;
                }
                inner = self.frames.pop().ok_or(Bail)?;
            }
        }
    }

    #[inline(always)]
    fn key<const KEYS: bool>(&mut self, at: usize) -> Step<usize> {
        let start = self.demand(at, b'"')?;
        if !KEYS {
            return self.colon(self.skip_string(start)?);
        }
        let end = self.plain_string(start)?;
        self.note_key(start, end);
        self.colon(end + 1)
    }

    /// How many keys of open objects are noted.
    #[inline(always)]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Note a key of the innermost object.
    #[inline(always)]
    pub fn note_key(&mut self, start: usize, end: usize) {
        self.keys.push(digest(&self.text[start..end]));
    }

    /// Forget the keys noted since there were `count`: those of one object, of which no two may be equal.
    #[inline(always)]
    pub fn forget_keys(&mut self, count: usize) -> Step {
        let keys = &mut self.keys[count..];
        let unique = keys.len() < 2 || all_differ(keys);
        self.keys.truncate(count);
        if unique { Ok(()) } else { Err(Bail) }
    }
}

/// Whether all digests differ. Different keys with the same digest only lead to the exact way, which compares the keys.
fn all_differ(digests: &mut [u64]) -> bool {
    if digests.len() <= 12 {
        return digests.iter().enumerate().all(|(place, digest)| !digests[..place].contains(digest));
    }
    digests.sort_unstable();
    digests.windows(2).all(|pair| pair[0] != pair[1])
}

#[inline(always)]
fn digest(key: &[u8]) -> u64 {
    let mut digest = key.len() as u64;
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        digest = mixed(digest, u64::from_le_bytes(word.try_into().expect("a chunk of eight")));
    }
    let last = words.remainder().iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    mixed(digest, last)
}

#[inline(always)]
fn mixed(digest: u64, word: u64) -> u64 {
    // An odd constant with bits in all places (the golden ratio), then the high bits, which all bits reach, to the low ones.
    let product = (digest.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}
