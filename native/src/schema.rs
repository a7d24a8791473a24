//! An event schema as Python describes it, made ready for decoding: a tree that never changes, shared by all threads.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::scan::WINDOW;

/// A field as Python describes it; `size` and `scale` are a type's bits, precision and scale, or a time unit's power of ten.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Described {
    name: String,
    kind: String,
    required: bool,
    no_null: bool,
    present: bool,
    closed: bool,
    only: String,
    size: u32,
    scale: i8,
    /// The number of a struct, by which its unknown fields are told.
    number: u32,
    children: Vec<Described>,
}

/// A field, a list's item, a map's value, or the event itself.
pub struct Node {
    pub name: String,
    pub kind: Kind,
    pub required: bool,
    pub no_null: bool,
    pub present: bool,
}

pub enum Kind {
    Leaf(Leaf),
    /// Kept as JSON text; where `Only` says so, only an object or only an array.
    Open(Only),
    Struct(Fields),
    List(Box<Node>),
    /// An object of any names, whose members are all of this node.
    Map(Box<Node>),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Only {
    Any,
    Object,
    Array,
}

#[derive(Clone, Copy)]
pub enum Leaf {
    Boolean,
    Text,
    Integer {
        bits: u32,
    },
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    /// A decimal written as a string.
    DecimalText {
        precision: u8,
        scale: i8,
    },
    Timestamp,
    /// A timestamp written as a count of units, each of ten to the `power` microseconds.
    Epoch {
        power: u32,
    },
    Date,
    Time,
}

/// The fields of a struct.
pub struct Fields {
    pub number: u32,
    pub nodes: Vec<Node>,
    pub closed: bool,
    pub names: Names,
    by_folded_name: HashMap<String, usize>,
}

impl Fields {
    pub fn new(number: u32, nodes: Vec<Node>, closed: bool) -> Fields {
        let names = Names::new(nodes.iter().map(|node| node.name.clone()).collect());
        // Of fields that differ only in case the first one takes what no field has exactly.
        let folded = nodes.iter().enumerate().rev();
        let by_folded_name = folded.map(|(index, node)| (node.name.to_lowercase(), index)).collect();
        Fields { number, nodes, closed, names, by_folded_name }
    }

    /// The field of this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.names.find(name)
    }

    /// The field of this name, whatever its case.
    pub fn named_without_case(&self, name: &str) -> Option<usize> {
        self.named(name).or_else(|| self.by_folded_name.get(&name.to_lowercase()).copied())
    }
}

/// Names of members, to be found where they stand in a text.
pub struct Names {
    names: Vec<String>,
    keys: Vec<Key>,
    /// As they stand in either case; none for a name that differs from another in case alone.
    loose_keys: Vec<Key>,
    by_name: HashMap<String, usize>,
}

/// A name as it mostly stands in an event, with the quote and the colon after it: what a window must have in the bits of the mask.
/// Names that don't fit in a window, or that JSON text may only have escaped, have no bits that any window can have.
struct Key {
    pattern: u128,
    mask: u128,
    length: usize,
}

impl Key {
    fn never() -> Key {
        Key { pattern: 1, mask: 0, length: 0 }
    }

    fn new(name: &str) -> Key {
        let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
        if name.len() + 2 > WINDOW || !plain {
            return Key::never();
        }
        let mut pattern = [0; WINDOW];
        let mut mask = [0; WINDOW];
        pattern[..name.len()].copy_from_slice(name.as_bytes());
        pattern[name.len()..name.len() + 2].copy_from_slice(b"\":");
        mask[..name.len() + 2].fill(0xff);
        Key { pattern: u128::from_le_bytes(pattern), mask: u128::from_le_bytes(mask), length: name.len() + 2 }
    }

    /// A key that stands for the name in either case.
    fn loose(name: &str) -> Key {
        let mut key = Key::new(name);
        if !name.is_ascii() {
            return Key::never();
        }
        let (mut pattern, mut mask) = (key.pattern.to_le_bytes(), key.mask.to_le_bytes());
        for (pattern, mask) in pattern.iter_mut().zip(&mut mask).filter(|(pattern, _)| pattern.is_ascii_alphabetic()) {
            // The bit by which a small letter differs from its capital.
            *pattern &= !0x20;
            *mask &= !0x20;
        }
        (key.pattern, key.mask) = (u128::from_le_bytes(pattern), u128::from_le_bytes(mask));
        key
    }

    #[inline(always)]
    fn stands_in(&self, window: u128) -> bool {
        window & self.mask == self.pattern
    }
}

/// Up to so many fields are tried one after the other.
const FEW: usize = 12;

impl Names {
    pub fn new(names: Vec<String>) -> Names {
        let keys = names.iter().map(|name| Key::new(name)).collect();
        let mut folded: HashMap<String, usize> = HashMap::new();
        for name in &names {
            *folded.entry(name.to_lowercase()).or_default() += 1;
        }
        let loose = |name: &String| if folded[&name.to_lowercase()] == 1 { Key::loose(name) } else { Key::never() };
        let loose_keys = names.iter().map(loose).collect();
        let by_name = names.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        Names { names, keys, loose_keys, by_name }
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        if self.names.len() <= FEW {
            return self.names.iter().position(|each| each == name);
        }
        self.by_name.get(name).copied()
    }

    /// The name that stands at the start of a window with its quote and colon, and the length of all that; tried first is the one
    /// `expected`, then, of few, all. With `ignore_case`, a name in another case is found, too.
    #[inline(always)]
    pub fn at_window(&self, window: &[u8; WINDOW], expected: usize, ignore_case: bool) -> Option<(usize, usize)> {
        let window = u128::from_le_bytes(*window);
        let keys = if ignore_case { &self.loose_keys } else { &self.keys };
        let likely = keys.get(expected)?;
        if likely.stands_in(window) {
            return Some((expected, likely.length));
        }
        if keys.len() > FEW {
            return None;
        }
        let found = keys.iter().position(|key| key.stands_in(window))?;
        Some((found, keys[found].length))
    }
}

/// An event schema.
#[pyclass(frozen, module = "milkrun_native")]
pub struct Plan {
    pub root: Fields,
}

#[pymethods]
impl Plan {
    #[new]
    fn new(root: Described) -> PyResult<Plan> {
        Ok(Plan { root: fields(root)? })
    }
}

fn fields(described: Described) -> PyResult<Fields> {
    let nodes = described.children.into_iter().map(node).collect::<PyResult<Vec<Node>>>()?;
    Ok(Fields::new(described.number, nodes, described.closed))
}

fn node(described: Described) -> PyResult<Node> {
    let name = described.name.clone();
    let (required, no_null, present) = (described.required, described.no_null, described.present);
    Ok(Node { name, kind: kind(described)?, required, no_null, present })
}

fn kind(mut described: Described) -> PyResult<Kind> {
    let (size, scale) = (described.size, described.scale);
    let precision = size as u8;
    Ok(Kind::Leaf(match described.kind.as_str() {
        "boolean" => Leaf::Boolean,
        "string" => Leaf::Text,
        "integer" if matches!(size, 8 | 16 | 32 | 64) => Leaf::Integer { bits: size },
        "double" => Leaf::Double,
        "decimal" if (1..=38).contains(&size) => Leaf::Decimal { precision, scale },
        "decimal text" if (1..=38).contains(&size) => Leaf::DecimalText { precision, scale },
        "timestamp" => Leaf::Timestamp,
        "epoch" if matches!(size, 0 | 3 | 6) => Leaf::Epoch { power: size },
        "date" => Leaf::Date,
        "time" => Leaf::Time,
        "json" => {
            return Ok(Kind::Open(match described.only.as_str() {
                "object" => Only::Object,
                "array" => Only::Array,
                _ => Only::Any,
            }));
        }
        "struct" => return Ok(Kind::Struct(fields(described)?)),
        "list" if described.children.len() == 1 => {
            return Ok(Kind::List(Box::new(node(described.children.remove(0))?)));
        }
        "map" if described.children.len() == 1 => {
            return Ok(Kind::Map(Box::new(node(described.children.remove(0))?)));
        }
        other => return Err(PyValueError::new_err(format!("no such type: {other} of size {size}"))),
    }))
}
