//! A whole text checked against RFC 8259 sixty-four bytes at a time, its brackets told to a visitor on the way.
//!
//! The rules are put as relations between places, so that a few operations on masks decide them for a whole block: only brackets,
//! escapes and the words true, false and null are looked at one by one. What isn't taken, a number with an exponent included, is for
//! `scan` or `document` to judge. A text's UTF-8 is not looked at.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

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

/// Levels of which it can be kept in mind which are objects.
const MOST_LEVELS: usize = 128;

/// Sweeps over texts. That it exists shows that the processor has the instructions.
pub struct Sweep {
    max_depth: usize,
}

impl Sweep {
    /// None where the processor can't.
    #[cfg(target_arch = "x86_64")]
    pub fn new(max_depth: usize) -> Option<Sweep> {
        let can = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        can.then(|| Sweep { max_depth: max_depth.min(MOST_LEVELS) })
    }

    /// None where the processor can't.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn new(_max_depth: usize) -> Option<Sweep> {
        None
    }

    /// Check the object or array whose bracket is at `start`, in a text that is the first `length` bytes of `wide`; where it ends.
    ///
    /// With `CHECKED` false the text is known to be right, and only brackets are looked for.
    #[cfg(target_arch = "x86_64")]
    pub fn over<V: Visitor, const CHECKED: bool>(
        &self,
        wide: &[u8],
        length: usize,
        start: usize,
        visitor: &mut V,
    ) -> Step<usize> {
        // SAFETY: `new` has asked the processor.
        unsafe { by_avx2::<V, CHECKED>(self.max_depth, wide, length, start, visitor) }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn over<V: Visitor, const CHECKED: bool>(&self, _: &[u8], _: usize, _: usize, _: &mut V) -> Step<usize> {
        Err(Bail)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,pclmulqdq,bmi1,bmi2,popcnt")]
fn by_avx2<V: Visitor, const CHECKED: bool>(
    max_depth: usize,
    wide: &[u8],
    length: usize,
    start: usize,
    visitor: &mut V,
) -> Step<usize> {
    // SAFETY: whoever calls a function with these features has them.
    unsafe { sweep_by::<crate::blocks::Avx2, V, CHECKED>(max_depth, wide, length, start, visitor) }
}

/// What one block leaves for the next, whose first byte is its last once more. Marks of single places are so moved that they fit there.
#[derive(Default)]
struct Carry {
    /// All ones where the first byte is inside of a string.
    string: u64,
    /// The rest of a run of digits from the start of a number.
    integer: u64,
    /// A number begins with a zero there.
    zero: u64,
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
    // A run of gaps with a one added at its start becomes zeros, and the one moves to the place behind it; other runs are left as they are.
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
    let mut walk = Walk { max_depth, depth: 0, objects: 0, object: 0, escapes: false };
    let (mut base, mut fresh, mut high) = (start, !0, 0);
    while base < length {
        let mut padded = [0; BLOCK];
        let rest = &wide[base..];
        let bytes = rest.first_chunk().unwrap_or_else(|| {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        // SAFETY: the caller's promise.
        let block = unsafe { B::load(bytes) };
        let mut marks = Marks::default();
        let (quotes, string) = marks.find(block, wide, base, &mut carry);
        walk.escapes |= carry.escapes_end > 0;
        if CHECKED {
            high |= block.high();
            marks.check(block, quotes, string, fresh, wide, base, &mut carry);
        }
        if let Some(end) = walk.on::<V, CHECKED>(&mut marks, base, fresh, visitor)? {
            let right = end <= length && (high == 0 || std::str::from_utf8(&wide[..length]).is_ok());
            return if right { Ok(end) } else { Err(Bail) };
        }
        base += STEP;
        fresh = !1;
    }
    Err(Bail)
}

/// What stands where in a block, outside of strings.
#[derive(Default)]
struct Marks {
    opening: u64,
    closing: u64,
    colons: u64,
    commas: u64,
    /// Curly brackets, and other bytes that are none of the above.
    braces: u64,
    /// What comes after a comma or an opening brace where it shows that no name does: rightly so only in an array.
    unnamed: u64,
    /// Where a rule is broken, at the latest. What comes behind the end of the text may be called bad.
    bad: u64,
}

impl Marks {
    /// Find brackets and colons; the quotes that aren't escaped, and the bytes from an opening one to before the closing one.
    #[inline(always)]
    fn find<B: Block>(&mut self, block: B, wide: &[u8], base: usize, carry: &mut Carry) -> (u64, u64) {
        let mut quotes = block.equal(b'"');
        let backslashes = block.equal(b'\\');
        if backslashes | carry.escaped != 0 {
            quotes &= !escaped(wide, base, backslashes, carry, &mut self.bad);
        }
        let string = block.parity(quotes) ^ carry.string;
        carry.string = ((string << 1) as i64 >> 63) as u64;
        let outside = !(string | quotes);
        self.opening = block.equal_in(0xdf, b'[') & outside;
        self.closing = block.equal_in(0xdf, b']') & outside;
        self.colons = block.equal(b':') & outside;
        (quotes, string)
    }

    /// Check everything but what depends on the brackets around it.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn check<B: Block>(
        &mut self,
        block: B,
        quotes: u64,
        string: u64,
        fresh: u64,
        wide: &[u8],
        base: usize,
        carry: &mut Carry,
    ) {
        let outside = !(string | quotes);
        let space = block.equal(b' ');
        let control = block.between(0, b' ') & !space;
        let mut white = space & outside;
        if control & outside != 0 {
            white |= (block.equal(b'\n') | block.equal(b'\r') | block.equal(b'\t')) & outside;
        }
        self.bad |= string & control;
        self.commas = block.equal(b',') & outside;
        self.braces = block.equal_in(0x20, 0x20);

        let scalar = outside & !(self.opening | self.closing | self.colons | self.commas | white);
        let begin = scalar & !(scalar << 1) & fresh;
        self.scalars(block, scalar, begin, wide, base, carry);
        self.order(quotes & string | begin | self.opening, quotes & !string, white, carry);
        // The first byte is the bracket at the start, or has been judged as the last one of the block before.
        self.bad &= !1;
    }

    /// Check numbers and words, which begin at some of the bytes that are `scalar`.
    #[inline(always)]
    fn scalars<B: Block>(&mut self, block: B, scalar: u64, begin: u64, wide: &[u8], base: usize, carry: &mut Carry) {
        let digit = block.between(b'0', b'9') & scalar;
        let minus = block.equal(b'-') & scalar;
        let point = block.equal(b'.') & scalar;
        let mut words = carry.word;
        let letters = begin & !(digit | minus);
        if letters | words != 0 {
            words = self::words(wide, base, letters, carry, &mut self.bad);
        }
        let (signed, fraction) = (minus << 1, point << 1);
        let whole = (begin | signed) & digit;
        // A run of digits with a one added at its start becomes zeros, and the one moves to the place behind it.
        let (sum, over) = (whole | carry.integer).overflowing_add(digit);
        carry.integer = u64::from(over);
        let zero = whole & block.equal(b'0') | carry.zero;
        carry.zero = zero >> 63;
        self.bad |= scalar & !(digit | minus | point | words)
            | minus & !begin
            | (signed | fraction) & !digit
            | zero << 1 & digit
            | point & !(sum & !digit);
    }

    /// Check that values and separators follow each other as they must; values begin at `operands`, strings end at `string_ends`.
    #[inline(always)]
    fn order(&mut self, operands: u64, string_ends: u64, white: u64, carry: &mut Carry) {
        let leads = self.opening | self.commas | self.colons;
        let (after_lead, after_opening, after_string) = if white == 0 {
            (leads << 1, self.opening << 1, string_ends << 1)
        } else {
            behind_white(leads, self.opening, string_ends, white, &mut carry.white)
        };
        let empty = self.closing & after_opening;
        let others = !(leads | self.closing);
        let member = behind(self.commas | self.opening & self.braces, others, &mut carry.member);
        self.unnamed = member & !self.colons & !empty;
        self.bad |= (operands ^ after_lead) & !(after_lead & empty) | self.colons & !(after_string & member);
    }
}

/// The levels that are open where the sweep has come to.
struct Walk {
    max_depth: usize,
    depth: usize,
    /// Which of them are objects; the lowest bit tells of the innermost.
    objects: u128,
    /// All ones in an object.
    object: u64,
    escapes: bool,
}

impl Walk {
    /// Go from bracket to bracket of a block; where the outermost one closes, if it does.
    #[inline(always)]
    fn on<V: Visitor, const CHECKED: bool>(
        &mut self,
        marks: &mut Marks,
        base: usize,
        fresh: u64,
        visitor: &mut V,
    ) -> Step<Option<usize>> {
        let mut left = fresh;
        let mut brackets = (marks.opening | marks.closing) & fresh;
        while brackets != 0 {
            let upto = brackets ^ (brackets - 1);
            let bracket = brackets & upto;
            let at = base + brackets.trailing_zeros() as usize;
            brackets ^= bracket;
            self.between::<V, CHECKED>(marks, left & upto, base, visitor);
            left = !upto;
            if marks.opening & bracket != 0 {
                self.depth += 1;
                if self.depth > self.max_depth {
                    return Err(Bail);
                }
                self.objects = self.objects << 1 | u128::from(marks.braces & bracket != 0);
                self.object = (self.objects as u64 & 1).wrapping_neg();
                visitor.opened(at, self.depth);
            } else {
                self.depth = self.depth.checked_sub(1).ok_or(Bail)?;
                marks.bad |= bracket & (marks.braces ^ self.object);
                self.objects >>= 1;
                self.object = (self.objects as u64 & 1).wrapping_neg();
                visitor.closed(at, self.depth);
                if self.depth == 0 {
                    return if !CHECKED || marks.bad & upto == 0 { Ok(Some(at + 1)) } else { Err(Bail) };
                }
            }
        }
        self.between::<V, CHECKED>(marks, left, base, visitor);
        if !CHECKED || marks.bad == 0 { Ok(None) } else { Err(Bail) }
    }

    /// What is between two brackets.
    #[inline(always)]
    fn between<V: Visitor, const CHECKED: bool>(&self, marks: &mut Marks, here: u64, base: usize, visitor: &mut V) {
        if CHECKED {
            marks.bad |= here & (marks.colons & !self.object | marks.unnamed & self.object);
        }
        if visitor.minds(self.depth) {
            let (colons, commas) = (marks.colons & here, marks.commas & here);
            visitor.between(Separators { base, colons, commas, escapes: self.escapes }, self.depth);
        }
    }
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
