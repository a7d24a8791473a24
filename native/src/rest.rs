//! What a schema doesn't name, as the JSON of the rest column, values byte for byte as the producer wrote them.
//!
//! Mirrors `milkrun.codecs.json.rest`: nested fields by their path, list items by index, values of maps by key, of equal keys the last
//! value in the place of the first.

use crate::document::{Document, ROOT, Type};
use crate::judge::Latitude;
use crate::schema::{Fields, Kind, Node};
use crate::writing::string;

/// Append the object of the fields that the schema lacks; nothing where there are none. Whether there are any.
pub fn append(document: &Document, root: &Fields, latitude: Latitude, out: &mut Vec<u8>) -> bool {
    object(document, ROOT, root, latitude, out)
}

fn object(document: &Document, value: usize, fields: &Fields, latitude: Latitude, out: &mut Vec<u8>) -> bool {
    let mut written = Members::new(out);
    for member in document.members_by_first(value) {
        let name = document.key(member);
        let field = if latitude.ignore_case { fields.named_without_case(&name) } else { fields.named(&name) };
        written.member(&name, |out| match field {
            None => {
                out.extend_from_slice(document.text(member));
                true
            }
            Some(field) => below(document, member, &fields.nodes[field], latitude, out),
        });
    }
    written.end()
}

fn below(document: &Document, value: usize, node: &Node, latitude: Latitude, out: &mut Vec<u8>) -> bool {
    match (&node.kind, document.value(value).kind) {
        (Kind::Struct(fields), Type::Object) => object(document, value, fields, latitude, out),
        (Kind::Map(inner), Type::Object) if is_nested(inner) => {
            let mut written = Members::new(out);
            for member in document.members_by_first(value) {
                let key = document.key(member);
                written.member(&key, |out| below(document, member, inner, latitude, out));
            }
            written.end()
        }
        (Kind::List(item), Type::Array) if is_nested(item) => {
            let mut written = Members::new(out);
            for (index, each) in document.below(value).enumerate() {
                written.member(&index.to_string(), |out| below(document, each, item, latitude, out));
            }
            written.end()
        }
        _ => false,
    }
}

fn is_nested(node: &Node) -> bool {
    matches!(node.kind, Kind::Struct(_) | Kind::List(_) | Kind::Map(_))
}

/// An object being written, of which nothing stays if it gets no members.
struct Members<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    any: bool,
}

impl<'o> Members<'o> {
    fn new(out: &'o mut Vec<u8>) -> Members<'o> {
        let start = out.len();
        Members { out, start, any: false }
    }

    /// Write a member, unless `value` says that it has written none.
    fn member(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>) -> bool) {
        let before = self.out.len();
        self.out.push(if self.any { b',' } else { b'{' });
        string(name.as_bytes(), self.out);
        self.out.push(b':');
        if value(self.out) {
            self.any = true;
        } else {
            self.out.truncate(before);
        }
    }

    fn end(self) -> bool {
        if self.any {
            self.out.push(b'}');
        } else {
            self.out.truncate(self.start);
        }
        self.any
    }
}
