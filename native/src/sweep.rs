//! A whole text checked against RFC 8259 sixty-four bytes at a time, its brackets told to a visitor on the way.
//!
//! The rules are put as relations between places, so that a few operations on masks decide them for a whole block: only brackets,
//! escapes and the words true, false and null are looked at one by one. What isn't taken, a number with an exponent included, is for
//! `scan` or `document` to judge. A text's UTF-8 is not looked at.

use crate::blocks::{BLOCK, Block};
use crate::document::is_white;
use crate::scan::{Bail, Scanner, Step};

/// Who is told of a text's brackets. Until the sweep has come to its end, what is told may yet turn out to be wrong.
pub trait Visitor {
    /// A bracket opens the level `depth`, the first of which is 1.
    fn opened(&mut self, at: usize, depth: usize);
    /// A bracket closes the level above `depth`.
    fn closed(&mut self, at: usize, depth: usize);
    /// Whether it matters what is between the brackets of a level.
    fn minds(&self, depth: usize) -> bool;
    /// Between two brackets, or a bracket and the end of a block, on the level `depth`.
    fn between(&mut self, separators: Separators, depth: usize);
}

/// Colons and commas of one level in a block that begins at `base`.
#[derive(Clone, Copy)]
pub struct Separators {
    pub base: usize,
    pub colons: u64,
    pub commas: u64,
    /// Whether the text has had a backslash so far.
    pub escapes: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kind {
    #[cfg(target_arch = "x86_64")]
    fn here() -> Option<Kind> {
        let product = is_x86_feature_detected!("pclmulqdq") && std::env::var_os("H4_NONE").is_none();
        if product && is_x86_feature_detected!("avx512bw") && std::env::var_os("H4_AVX2").is_none() {
            Some(Kind::Avx512)
        } else if product && is_x86_feature_detected!("avx2") {
            Some(Kind::Avx2)
        } else {
            None
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn here() -> Option<Kind> {
        None
    }
}

/// Levels of which it can be kept in mind which are objects.
const MOST_LEVELS: usize = 128;

/// Sweeps over texts.
pub struct Sweep {
    kind: Kind,
    max_depth: usize,
}

impl Sweep {
    /// None where the processor can't.
    pub fn new(max_depth: usize) -> Option<Sweep> {
        let kind = Kind::here()?;
        Some(Sweep { kind, max_depth: max_depth.min(MOST_LEVELS) })
    }

    /// Check the object or array whose bracket is at `start`, in a text that is the first `length` bytes of `wide`; where it ends.
    ///
    /// With `CHECKED` false the text is known to be right, and only brackets are looked for.
    #[inline(always)]
    pub fn over<V: Visitor, const CHECKED: bool>(
        &self,
        wide: &[u8],
        length: usize,
        start: usize,
        visitor: &mut V,
    ) -> Step<usize> {
        match self.kind {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has been asked.
            Kind::Avx2 => unsafe { avx2::<V, CHECKED>(self.max_depth, wide, length, start, visitor) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has been asked.
            Kind::Avx512 => unsafe { avx512::<V, CHECKED>(self.max_depth, wide, length, start, visitor) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,pclmulqdq,bmi1,bmi2,lzcnt,popcnt")]
fn avx2<V: Visitor, const CHECKED: bool>(
    max_depth: usize,
    wide: &[u8],
    length: usize,
    start: usize,
    visitor: &mut V,
) -> Step<usize> {
    // SAFETY: whoever calls a function with these features has them.
    unsafe { sweep_by::<crate::blocks::Avx2, V, CHECKED>(max_depth, wide, length, start, visitor) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,pclmulqdq,bmi1,bmi2,lzcnt,popcnt")]
fn avx512<V: Visitor, const CHECKED: bool>(
    max_depth: usize,
    wide: &[u8],
    length: usize,
    start: usize,
    visitor: &mut V,
) -> Step<usize> {
    // SAFETY: whoever calls a function with these features has them.
    unsafe { sweep_by::<crate::blocks::Avx512, V, CHECKED>(max_depth, wide, length, start, visitor) }
}

/// What one block leaves for the next, whose first byte is its last once more. Marks of single places are so moved that they fit there.
#[derive(Default)]
struct Carry {
    /// All ones where the first byte is inside of a string.
    string: u64,
    /// The rest of a run of digits from the start of a number.
    integer: u64,
    /// What comes after a comma or an opening brace is still to come.
    member: u64,
    /// The rest of a word.
    word: u64,
    /// Bytes that are escaped, and the place in the text up to which backslashes have been dealt with.
    escaped: u64,
    escapes_end: usize,
    white: WhiteCarry,
}

/// What is still to come behind white space.
#[derive(Default)]
struct WhiteCarry {
    lead: u64,
    opened: u64,
    quoted: u64,
}

/// The places behind the marks, those in `gaps` passed over.
#[inline(always)]
fn behind(marks: u64, gaps: u64, carry: &mut u64) -> u64 {
    // A run of gaps with a one added at its start becomes zeros, and the one moves to the place behind it.
    let (sum, over) = (marks << 1 | *carry).overflowing_add(gaps);
    *carry = u64::from(over);
    sum & !gaps
}

/// Bytes that are new in a block: one fewer than it has.
const STEP: usize = BLOCK - 1;

/// # Safety
/// The processor has what the kind of block needs.
#[inline(always)]
unsafe fn sweep_by<B: Block, V: Visitor, const CHECKED: bool>(
    max_depth: usize,
    wide: &[u8],
    length: usize,
    start: usize,
    visitor: &mut V,
) -> Step<usize> {
    let mut carry = Carry::default();
    let (mut depth, mut open) = (0_usize, 0_u128);
    let mut top = 0_u64;
    let (mut escapes, mut high) = (false, 0);
    let mut fresh = !0_u64;
    let mut base = start;
    while base < length {
        let mut padded = [0; BLOCK];
        let bytes = match wide.get(base..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => bytes,
            None => {
                let rest = &wide[base..];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        // SAFETY: the caller's promise.
        let block = unsafe { B::load(bytes) };
        let mut bad = 0;

        let mut quotes = block.equal(b'"');
        let backslashes = block.equal(b'\\');
        if backslashes | carry.escaped != 0 {
            escapes = true;
            quotes &= !escaped(wide, base, backslashes, &mut carry, &mut bad);
        }
        let string = block.parity(quotes) ^ carry.string;
        carry.string = ((string << 1) as i64 >> 63) as u64;
        let outside = !(string | quotes);
        let opening = block.equal_in(0xdf, b'[') & outside;
        let closing = block.equal_in(0xdf, b']') & outside;
        let colons = block.equal(b':') & outside;
        let (mut commas, mut braces, mut unnamed) = (0, 0, 0);
        if CHECKED {
            high |= block.high();
            commas = block.equal(b',') & outside;
            braces = block.equal_in(0x20, 0x20);
            let space = block.equal(b' ');
            let control = block.between(0, b' ') & !space;
            bad |= string & control;
            let mut white = space & outside;
            if control & outside != 0 {
                white |= (block.equal(b'\n') | block.equal(b'\r') | block.equal(b'\t')) & outside;
            }
            let leads = opening | commas | colons;
            let marks = leads | closing;

            let scalar = outside & !marks & !white;
            let begin = scalar & !(scalar << 1) & fresh;
            let digit = block.between(b'0', b'9') & scalar;
            let minus = block.equal(b'-') & scalar;
            let point = block.equal(b'.') & scalar;
            let mut words = carry.word;
            let letters = begin & !(digit | minus);
            if letters | words != 0 {
                words = self::words(wide, base, letters, &mut carry, &mut bad);
            }
            let signed = minus << 1;
            let whole = begin & digit | signed & digit;
            let (sum, over) = (whole | carry.integer).overflowing_add(digit);
            carry.integer = u64::from(over);
            let zero = (whole & block.equal(b'0')) << 1;
            bad |= scalar & !(digit | minus | point | words)
                | minus & !begin
                | (signed | point << 1) & !digit
                | zero & digit
                | point & !(sum & !digit);

            let operand = quotes & string | begin | opening;
            let strings = quotes & !string;
            let (after_lead, after_opening, after_string) = if white == 0 {
                (leads << 1, opening << 1, strings << 1)
            } else {
                behind_white(leads, opening, strings, white, &mut carry.white)
            };
            let empty = closing & after_opening;
            let member = behind(commas | opening & braces, !marks, &mut carry.member);
            bad |= (operand ^ after_lead) & !(after_lead & empty) | colons & !(after_string & member);
            unnamed = member & !colons & !empty;
            // The first byte is the bracket at the start, or has been judged as the last one of the block before.
            bad &= !1;
        }

        let mut left = fresh;
        let mut brackets = (opening | closing) & fresh;
        while brackets != 0 {
            let upto = brackets ^ (brackets - 1);
            let here = left & upto;
            left = !upto;
            let at = base + brackets.trailing_zeros() as usize;
            let bracket = brackets & brackets.wrapping_neg();
            brackets &= brackets - 1;
            if CHECKED {
                bad |= here & (colons & !top | unnamed & top);
            }
            if visitor.minds(depth) {
                visitor.between(Separators { base, colons: colons & here, commas: commas & here, escapes }, depth);
            }
            if opening & bracket != 0 {
                depth += 1;
                if CHECKED {
                    if depth > max_depth {
                        return Err(Bail);
                    }
                    open = open << 1 | u128::from(braces & bracket != 0);
                    top = if braces & bracket != 0 { !0 } else { 0 };
                }
                visitor.opened(at, depth);
            } else {
                depth = depth.wrapping_sub(1);
                if CHECKED {
                    bad |= bracket & (braces ^ top);
                    open >>= 1;
                    top = (open as u64 & 1).wrapping_neg();
                }
                visitor.closed(at, depth);
                if depth == 0 {
                    let right = at < length
                        && (!CHECKED || bad & upto == 0 && (high == 0 || std::str::from_utf8(&wide[..length]).is_ok()));
                    return if right { Ok(at + 1) } else { Err(Bail) };
                }
            }
        }
        if CHECKED {
            bad |= left & (colons & !top | unnamed & top);
            if bad != 0 {
                return Err(Bail);
            }
        }
        if visitor.minds(depth) {
            visitor.between(Separators { base, colons: colons & left, commas: commas & left, escapes }, depth);
        }
        base += STEP;
        fresh = !1;
    }
    Err(Bail)
}

#[inline(never)]
fn behind_white(leads: u64, opening: u64, strings: u64, white: u64, carry: &mut WhiteCarry) -> (u64, u64, u64) {
    let lead = behind(leads, white, &mut carry.lead);
    let opened = behind(opening, white, &mut carry.opened);
    (lead, opened, behind(strings, white, &mut carry.quoted))
}

/// Check the escapes that begin in a block; which of its bytes are escaped.
#[cold]
fn escaped(wide: &[u8], base: usize, mut backslashes: u64, carry: &mut Carry, bad: &mut u64) -> u64 {
    let mut scanner = Scanner::new(0);
    scanner.start(wide);
    let mut escaped = u128::from(carry.escaped);
    while backslashes != 0 {
        let place = backslashes.trailing_zeros();
        let at = base + place as usize;
        if at >= carry.escapes_end {
            escaped |= 2 << place;
            match scanner.escape(at + 1) {
                Ok((_, end)) => carry.escapes_end = end,
                Err(Bail) => *bad |= 1 << place,
            }
        }
        backslashes &= backslashes - 1;
    }
    carry.escaped = (escaped >> STEP) as u64;
    escaped as u64
}

/// The bytes of the words that begin at the places, each of which must be one.
#[inline(always)]
fn words(wide: &[u8], base: usize, mut begin: u64, carry: &mut Carry, bad: &mut u64) -> u64 {
    let mut bytes = u128::from(carry.word);
    while begin != 0 {
        let place = begin.trailing_zeros();
        match word(&wide[base + place as usize..]) {
            Some(length) => bytes |= ((1 << length) - 1) << place,
            None => *bad |= 1 << place,
        }
        begin &= begin - 1;
    }
    carry.word = (bytes >> STEP) as u64;
    bytes as u64
}

/// How long the word is that a text begins with.
#[inline(always)]
fn word(text: &[u8]) -> Option<usize> {
    let length = match text.first_chunk::<4>()? {
        b"true" | b"null" => 4,
        b"fals" if text.get(4) == Some(&b'e') => 5,
        _ => return None,
    };
    let end = *text.get(length)?;
    (matches!(end, b',' | b'}' | b']') || is_white(end)).then_some(length)
}
