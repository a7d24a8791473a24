//! One text judged to the letter, or read into a flat tree: what the quick way falls back to.
//!
//! Mirrors `milkrun.codecs.json.text`: the same checks in the same order, and for broken syntax the words and places of CPython's
//! `json` (before 3.13, whose further messages the other engine translates). Nothing recurses with the text.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::faults::{Code, Fault, Reason};
use crate::scan::Scanner;

pub const BOM: &[u8] = b"\xef\xbb\xbf";
const FEW: usize = 16;

/// What JSON calls a value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Type {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl Type {
    /// With its article.
    pub fn text(self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Boolean => "a boolean",
            Type::Number => "a number",
            Type::String => "a string",
            Type::Array => "an array",
            Type::Object => "an object",
        }
    }
}

/// A value: where its text begins and ends, and, of the values listed in the order they begin, the first one after it.
#[derive(Debug)]
pub struct Value {
    pub kind: Type,
    pub start: usize,
    pub end: usize,
    next: usize,
    key: Option<Key>,
}

/// The key of a member.
#[derive(Clone, Debug)]
struct Key {
    /// The text between the quotes.
    start: usize,
    end: usize,
    /// A later member has the same key.
    dropped: bool,
    /// The first member of this key.
    first: usize,
}

/// A text that is a JSON object.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a [u8],
    /// Bytes before the text: those of a byte order mark.
    skipped: usize,
    values: Vec<Value>,
    /// How many members have a key that a later one of their object has, too.
    pub duplicates: u64,
}

/// The object that a document is.
pub const ROOT: usize = 0;

impl<'a> Document<'a> {
    /// Read a text, or say what is wrong with it.
    pub fn read(value: &'a [u8], max_depth: usize) -> Result<Document<'a>, Fault> {
        let text = value.strip_prefix(BOM).unwrap_or(value);
        let skipped = value.len() - text.len();
        if text.iter().all(|byte| is_white(*byte)) {
            let reason = Reason::new(Code::Empty, "expected a JSON object, found nothing");
            return Err(reason.at(String::new(), value.len()));
        }
        match read_checked(text, max_depth) {
            Ok((values, duplicates)) => Ok(Document { text, skipped, values, duplicates }),
            Err((reason, offset)) => Err(reason.at(String::new(), skipped + offset)),
        }
    }

    pub fn value(&self, value: usize) -> &Value {
        &self.values[value]
    }

    /// The value's text as it is written.
    pub fn text(&self, value: usize) -> &'a [u8] {
        let Value { start, end, .. } = self.values[value];
        &self.text[start..end]
    }

    /// Where the value begins, in bytes of the row.
    pub fn offset(&self, value: usize) -> usize {
        self.skipped + self.values[value].start
    }

    /// A string's characters.
    pub fn string(&self, value: usize) -> Cow<'a, str> {
        let Value { start, end, .. } = self.values[value];
        unescaped(&self.text[start + 1..end - 1])
    }

    /// A member's key.
    pub fn key(&self, value: usize) -> Cow<'a, str> {
        self.values[value].key.as_ref().map_or(Cow::Borrowed(""), |key| unescaped(&self.text[key.start..key.end]))
    }

    /// The items of an array, or the members of an object, of equal keys the last.
    pub fn below(&self, value: usize) -> impl Iterator<Item = usize> {
        let end = self.values[value].next;
        let mut at = value + 1;
        std::iter::from_fn(move || {
            while at < end {
                let found = at;
                at = self.values[found].next;
                if !self.values[found].key.as_ref().is_some_and(|key| key.dropped) {
                    return Some(found);
                }
            }
            None
        })
    }

    /// The members of an object, of equal keys the last in the place of the first.
    pub fn members_by_first(&self, value: usize) -> Vec<usize> {
        let mut members: Vec<usize> = self.below(value).collect();
        members.sort_by_key(|&member| self.values[member].key.as_ref().map_or(member, |key| key.first));
        members
    }

    /// Whether a value is null or an empty array: as the value of a field it says nothing of the field's type.
    pub fn says_nothing(&self, value: usize) -> bool {
        let Value { kind, next, .. } = self.values[value];
        kind == Type::Null || (kind == Type::Array && next == value + 1)
    }
}

pub fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

type Wrong = (Reason, usize);

fn read_checked(text: &[u8], max_depth: usize) -> Result<(Vec<Value>, u64), Wrong> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err((Reason::new(Code::Utf8, "not valid UTF-8"), error.valid_up_to()));
    }
    if let Some(place) = too_deep(text, max_depth) {
        return Err((Reason::owned(Code::Depth, format!("nested deeper than {max_depth} levels")), place));
    }
    let mut reader = Reader { text, at: 0, values: Vec::new() };
    reader.document()?;
    let Reader { mut values, .. } = reader;
    if let Some(place) = half_of_a_pair(text) {
        return Err((Reason::new(Code::Utf8, "an escape is half of a surrogate pair"), place));
    }
    let root = &values[ROOT];
    if root.kind != Type::Object {
        let message = format!("expected a JSON object, found {}", root.kind.text());
        return Err((Reason::owned(Code::NotObject, message), root.start));
    }
    let duplicates = drop_duplicates(text, &mut values);
    Ok((values, duplicates))
}

/// Where brackets outside of strings first nest deeper than allowed, whatever else is wrong with the text.
pub fn too_deep(text: &[u8], max_depth: usize) -> Option<usize> {
    if text.len() <= max_depth || opened(text) <= max_depth {
        return None;
    }
    let (mut depth, mut at) = (0_i64, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += 1 + usize::from(text[at] == b'\\');
                }
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth as i64 {
                    return Some(at);
                }
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// How many brackets open, those in strings included.
fn opened(text: &[u8]) -> usize {
    // Counted in bytes, of which a vector has most, for as many as a byte can count.
    let count = |chunk: &[u8]| chunk.iter().map(|&byte| u8::from(byte | 0x20 == b'{')).sum::<u8>();
    text.chunks(128).map(|chunk| usize::from(count(chunk))).sum()
}

/// Where, in a text of right syntax, an escape of a surrogate stands that has no other half.
fn half_of_a_pair(text: &[u8]) -> Option<usize> {
    let mut high: Option<usize> = None;
    let mut at = 0;
    while let Some(found) = text[at..].iter().position(|&byte| byte == b'\\') {
        let start = at + found;
        let unit = if text[start + 1] == b'u' { hexadecimal(&text[start + 2..start + 6]).unwrap_or(0) } else { 0 };
        at = start + if text[start + 1] == b'u' { 6 } else { 2 };
        match (high, unit) {
            (Some(before), 0xdc00..=0xdfff) if before + 6 == start => high = None,
            (Some(before), _) => return Some(before),
            (None, 0xd800..=0xdbff) => high = Some(start),
            (None, 0xdc00..=0xdfff) => return Some(start),
            _ => {}
        }
    }
    high
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | (digit as char).to_digit(16)?))
}

/// Reads a text of JSON of right UTF-8 and bounded depth.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    values: Vec<Value>,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), Wrong> {
        if self.text.starts_with(BOM) {
            return Err(syntax("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0));
        }
        self.white();
        self.value()?;
        self.white();
        if self.at < self.text.len() { Err(syntax("Extra data", self.at)) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn white(&mut self) {
        while self.peek().is_some_and(is_white) {
            self.at += 1;
        }
    }

    /// A value and all within it.
    fn value(&mut self) -> Result<(), Wrong> {
        let mut open: Vec<usize> = Vec::new();
        let mut key = None;
        loop {
            let start = self.at;
            let place = self.values.len();
            let kind = self.begin()?;
            self.values.push(Value { kind, start, end: self.at, next: place + 1, key: key.take() });
            let mut begun = matches!(kind, Type::Object | Type::Array);
            if begun {
                open.push(place);
            }
            // A value may end all that is open; an object or array just begun may end at once.
            loop {
                let Some(&innermost) = open.last() else { return Ok(()) };
                let object = self.values[innermost].kind == Type::Object;
                let bracket = if object { b'}' } else { b']' };
                self.white();
                if self.peek() == Some(bracket) {
                    self.at += 1;
                    let next = self.values.len();
                    let value = &mut self.values[innermost];
                    (value.end, value.next) = (self.at, next);
                    open.pop();
                    begun = false;
                    continue;
                }
                if !begun {
                    if self.peek() != Some(b',') {
                        return Err(syntax("Expecting ',' delimiter", self.at));
                    }
                    self.at += 1;
                    self.white();
                }
                if object {
                    key = Some(self.key()?);
                }
                break;
            }
        }
    }

    fn key(&mut self) -> Result<Key, Wrong> {
        if self.peek() != Some(b'"') {
            return Err(syntax("Expecting property name enclosed in double quotes", self.at));
        }
        let start = self.at + 1;
        self.string()?;
        let end = self.at - 1;
        self.white();
        if self.peek() != Some(b':') {
            return Err(syntax("Expecting ':' delimiter", self.at));
        }
        self.at += 1;
        self.white();
        Ok(Key { start, end, dropped: false, first: self.values.len() })
    }

    /// A scalar, or the bracket that opens an object or array.
    fn begin(&mut self) -> Result<Type, Wrong> {
        let rest = &self.text[self.at..];
        for (word, kind) in [("null", Type::Null), ("true", Type::Boolean), ("false", Type::Boolean)] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(kind);
            }
        }
        if [&b"NaN"[..], b"Infinity", b"-Infinity"].iter().any(|word| rest.starts_with(word)) {
            return Err(syntax("NaN and infinities are no numbers", self.at));
        }
        match rest.first() {
            Some(b'"') => self.string().map(|()| Type::String),
            Some(b'{') => {
                self.at += 1;
                Ok(Type::Object)
            }
            Some(b'[') => {
                self.at += 1;
                Ok(Type::Array)
            }
            _ => self.number().map(|()| Type::Number),
        }
    }

    fn digits(&self, from: usize) -> usize {
        self.text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// The longest number that begins here.
    fn number(&mut self) -> Result<(), Wrong> {
        let mut at = self.at + usize::from(self.peek() == Some(b'-'));
        match self.text.get(at) {
            Some(b'0') => at += 1,
            Some(b'1'..=b'9') => at += self.digits(at),
            _ => return Err(syntax("Expecting value", self.at)),
        }
        if self.text.get(at) == Some(&b'.') {
            let digits = self.digits(at + 1);
            at += if digits > 0 { 1 + digits } else { 0 };
        }
        if matches!(self.text.get(at), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(self.text.get(at + 1), Some(b'+' | b'-')));
            let digits = self.digits((at + 1 + signed).min(self.text.len()));
            at += if digits > 0 { 1 + signed + digits } else { 0 };
        }
        self.at = at;
        Ok(())
    }

    /// A string, from its opening quote to behind its closing one.
    fn string(&mut self) -> Result<(), Wrong> {
        let unterminated = || syntax("Unterminated string starting at", self.at);
        let mut at = self.at + 1;
        loop {
            match self.text.get(at) {
                None => return Err(unterminated()),
                Some(b'"') => break,
                Some(b'\\') => at = self.escape(at)?.ok_or_else(unterminated)?,
                Some(0..0x20) => return Err(syntax("Invalid control character at", at)),
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(())
    }

    /// Where an escape ends; None where the text does first.
    fn escape(&self, backslash: usize) -> Result<Option<usize>, Wrong> {
        match self.text.get(backslash + 1) {
            None => Ok(None),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(Some(backslash + 2)),
            Some(b'u') => {
                let digits = self.text.get(backslash + 2..backslash + 6);
                // The string's end must follow: four digits at the end of the text are too few, too.
                if backslash + 6 >= self.text.len() || digits.and_then(hexadecimal).is_none() {
                    return Err(syntax("Invalid \\uXXXX escape", backslash + 1));
                }
                Ok(Some(backslash + 6))
            }
            Some(_) => Err(syntax("Invalid \\escape", backslash)),
        }
    }
}

fn syntax(what: &str, place: usize) -> Wrong {
    (Reason::owned(Code::Syntax, format!("not RFC 8259 JSON: {what}")), place)
}

/// Of the members of an object that have equal keys, mark all but the last as dropped; how many that are.
fn drop_duplicates(text: &[u8], values: &mut [Value]) -> u64 {
    let mut dropped = 0;
    for object in 0..values.len() {
        if values[object].kind != Type::Object {
            continue;
        }
        let mut members = Vec::new();
        let mut at = object + 1;
        while at < values[object].next {
            members.push(at);
            at = values[at].next;
        }
        for (earlier, later) in repeated(text, values, &members) {
            let first = values[earlier].key.as_ref().map_or(earlier, |key| key.first);
            if let Some(key) = &mut values[earlier].key {
                key.dropped = true;
            }
            if let Some(key) = &mut values[later].key {
                key.first = first;
            }
            dropped += 1;
        }
    }
    dropped
}

/// Pairs of members of one object that have the same key, none of that key between them; in the order of the later.
fn repeated(text: &[u8], values: &[Value], members: &[usize]) -> Vec<(usize, usize)> {
    let key = |member: usize| -> Cow<'_, str> {
        values[member].key.as_ref().map_or(Cow::Borrowed(""), |key| unescaped(&text[key.start..key.end]))
    };
    let keys: Vec<Cow<'_, str>> = members.iter().map(|&member| key(member)).collect();
    let mut pairs = Vec::new();
    if members.len() <= FEW {
        for later in 1..keys.len() {
            if let Some(earlier) = keys[..later].iter().rposition(|key| *key == keys[later]) {
                pairs.push((members[earlier], members[later]));
            }
        }
        return pairs;
    }
    let mut last: HashMap<&str, usize> = HashMap::with_capacity(keys.len());
    for (key, &member) in keys.iter().zip(members) {
        if let Some(earlier) = last.insert(key, member) {
            pairs.push((earlier, member));
        }
    }
    pairs
}

/// The characters of a string's text, which is valid.
fn unescaped(text: &[u8]) -> Cow<'_, str> {
    if !text.contains(&b'\\') {
        return String::from_utf8_lossy(text);
    }
    let mut quoted = text.to_vec();
    quoted.push(b'"');
    let mut scanner = Scanner::new(0);
    scanner.start(&quoted);
    let mut characters = Vec::with_capacity(text.len());
    scanner.string(0, &mut characters).expect("a string that has been checked");
    Cow::Owned(String::from_utf8(characters).expect("a string that has been checked"))
}
