//! A body that holds several events, cut into the bytes of each, which stay as they were sent.
//!
//! Mirrors `milkrun.codecs.json.splitting`: an array's syntax is checked, lines are only cut. An array is swept over where the processor
//! can; what the sweep doesn't take is scanned, which decides.

use crate::arrow::Array;
use crate::blocks::BLOCK;
use crate::columns::{Column, Full};
use crate::document::{BOM, is_white, too_deep};
use crate::faults::{Code, Reason};
use crate::scan::{Bail, Scanner, Step, is_utf8};
use crate::sweep::{Separators, Sweep, Visitor};

/// Levels to which the events of an array are followed, to say of each one whether it is nested too deep.
const MAX_LEVELS: usize = 1_000;

/// The events, faulty ones included, and why some must not be taken.
pub struct Split {
    pub values: Array,
    pub faults: Vec<(usize, Reason)>,
    /// Whether all events but the faulty ones are known to be JSON objects in UTF-8, nested no deeper than allowed.
    pub validated: bool,
}

/// Why a body can't be cut.
pub enum Uncut {
    NoArray,
    TooDeep,
    Full,
}

impl From<Full> for Uncut {
    fn from(_: Full) -> Uncut {
        Uncut::Full
    }
}

/// Cut a body: an event a line, or one event or an array of them.
pub fn split(body: &[u8], lines: bool, max_event_bytes: usize, max_depth: usize) -> Result<Split, Uncut> {
    let body = body.strip_prefix(BOM).unwrap_or(body);
    let (events, validated) = if lines {
        (lines_of(body), false)
    } else if trimmed(body).first() != Some(&b'[') {
        (vec![Event { bytes: body, levels: None }], false)
    } else if let Ok(items) = swept_items_of(body) {
        (items, true)
    } else {
        (items_of(body)?, is_utf8(body))
    };
    let mut values = Column::texts();
    values.text().bytes.reserve(events.iter().map(|event| event.bytes.len()).sum());
    let mut faults = Vec::new();
    for (row, event) in events.into_iter().enumerate() {
        values.push_text(event.bytes)?;
        faults.extend(event.fault(max_event_bytes, max_depth).map(|reason| (row, reason)));
    }
    Ok(Split { values: values.finish_scalars(), faults, validated })
}

/// The bytes of an event, and how deep it is nested where that is known.
struct Event<'a> {
    bytes: &'a [u8],
    levels: Option<usize>,
}

impl Event<'_> {
    fn fault(&self, max_event_bytes: usize, max_depth: usize) -> Option<Reason> {
        if self.bytes.len() > max_event_bytes {
            let message = format!("{} bytes; an event may have at most {max_event_bytes}", self.bytes.len());
            return Some(Reason::owned(Code::TooLarge, message));
        }
        match trimmed(self.bytes).first() {
            Some(b'{') => self
                .is_deeper(max_depth)
                .then(|| Reason::owned(Code::Depth, format!("nested deeper than {max_depth} levels"))),
            Some(_) => Some(Reason::new(Code::NotObject, "expected a JSON object")),
            None => Some(Reason::new(Code::Empty, "expected a JSON object")),
        }
    }

    fn is_deeper(&self, max_depth: usize) -> bool {
        self.levels.map_or_else(|| too_deep(self.bytes, max_depth).is_some(), |levels| levels > max_depth)
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_white(byte)).unwrap_or(text.len());
    &text[start..]
}

fn lines_of(mut body: &[u8]) -> Vec<Event<'_>> {
    let mut lines = Vec::new();
    while !body.is_empty() {
        let end = line_end(body);
        let line = body[..end].strip_suffix(b"\r").unwrap_or(&body[..end]);
        if !trimmed(line).is_empty() {
            lines.push(Event { bytes: line, levels: None });
        }
        body = body.get(end + 1..).unwrap_or_default();
    }
    lines
}

/// Where the first line of a text ends.
fn line_end(text: &[u8]) -> usize {
    // The compiler makes vectors of this: no byte decides whether the next one is looked at.
    let holds = |chunk: &[u8]| chunk.iter().fold(false, |found, &byte| found | (byte == b'\n'));
    let start = text.chunks_exact(BLOCK).take_while(|chunk| !holds(chunk)).count() * BLOCK;
    let found = text[start..].iter().position(|&byte| byte == b'\n');
    found.map_or(text.len(), |place| start + place)
}

/// The events of an array of objects and arrays; others, and arrays that aren't right, are for `items_of`.
fn swept_items_of(body: &[u8]) -> Step<Vec<Event<'_>>> {
    let start = body.len() - trimmed(body).len();
    let sweep = Sweep::new(MAX_LEVELS).ok_or(Bail)?;
    let mut cutter = Cutter { body, items: Vec::new(), start: 0, deepest: 0, commas: 0 };
    let end = sweep.over::<_, true>(body, body.len(), start, &mut cutter)?;
    // Every comma of the array stands between two items: were one of them a scalar, there would be more.
    if cutter.items.len() == cutter.commas + 1 && trimmed(&body[end..]).is_empty() {
        Ok(cutter.items)
    } else {
        Err(Bail)
    }
}

/// Cuts an array at the brackets of its items.
struct Cutter<'a> {
    body: &'a [u8],
    items: Vec<Event<'a>>,
    /// Where the last item began, and the level of the array it has reached.
    start: usize,
    deepest: usize,
    commas: usize,
}

impl Visitor for Cutter<'_> {
    #[inline(always)]
    fn opened(&mut self, at: usize, depth: usize) {
        if depth == 2 {
            self.start = at;
            self.deepest = depth;
        }
        self.deepest = self.deepest.max(depth);
    }

    #[inline(always)]
    fn closed(&mut self, at: usize, depth: usize) {
        if depth == 1 {
            let bytes = self.body.get(self.start..=at).unwrap_or_default();
            self.items.push(Event { bytes, levels: Some(self.deepest - 1) });
        }
    }

    #[inline(always)]
    fn minds(&self, depth: usize) -> bool {
        depth == 1
    }

    #[inline(always)]
    fn between(&mut self, separators: Separators, _depth: usize) {
        self.commas += separators.commas.count_ones() as usize;
    }
}

fn items_of(body: &[u8]) -> Result<Vec<Event<'_>>, Uncut> {
    let mut scanner = Scanner::new(MAX_LEVELS);
    scanner.start(body);
    let mut items = Vec::new();
    match cut(&mut scanner, &mut items) {
        Ok(()) => Ok(items),
        Err(Bail) if scanner.depth > MAX_LEVELS => Err(Uncut::TooDeep),
        Err(Bail) => Err(Uncut::NoArray),
    }
}

fn cut<'a>(scanner: &mut Scanner<'a>, items: &mut Vec<Event<'a>>) -> Step {
    let body = scanner.text;
    let mut at = scanner.white(scanner.demand(scanner.white(0), b'[')?);
    if scanner.peek(at) != b']' {
        loop {
            scanner.deepest = 0;
            let end = scanner.skip::<false>(at)?;
            items.push(Event { bytes: &body[at..end], levels: Some(scanner.deepest) });
            at = scanner.white(end);
            match scanner.peek(at) {
                b',' => at = scanner.white(at + 1),
                b']' => break,
                _ => return Err(Bail),
            }
        }
    }
    if scanner.white(at + 1) == body.len() { Ok(()) } else { Err(Bail) }
}
