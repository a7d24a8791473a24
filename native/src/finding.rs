//! What `pick` looks for on a sweep: the keys of the objects that its paths lead through, and where their values begin.

use crate::document::is_white;
use crate::picking::Branch;
use crate::sweep::{Separators, Visitor};

const TAIL: usize = 8;

/// A name in its quotes as it mostly stands before a colon.
pub struct Ending {
    quoted: Vec<u8>,
    /// What the eight bytes before the colon must be, as one number, in the bits of the mask.
    tail: u64,
    mask: u64,
}

impl Ending {
    pub fn new(name: &str) -> Ending {
        let quoted = [b"\"", name.as_bytes(), b"\""].concat();
        let (mut tail, mut mask) = ([0; TAIL], [0; TAIL]);
        let kept = quoted.len().min(TAIL);
        tail[TAIL - kept..].copy_from_slice(&quoted[quoted.len() - kept..]);
        mask[TAIL - kept..].fill(0xff);
        Ending { quoted, tail: u64::from_le_bytes(tail), mask: u64::from_le_bytes(mask) }
    }

    /// Whether a text ends with the name, of which text `tail` are the last bytes.
    #[inline(always)]
    fn ends(&self, text: &[u8], tail: u64) -> bool {
        tail & self.mask == self.tail && (self.quoted.len() <= TAIL || text.ends_with(&self.quoted))
    }
}

/// Finds where the scalars of one text after the other begin.
pub struct Finder<'a, 'p> {
    text: &'a [u8],
    root: &'p Branch,
    /// The objects that are open and lead to what is wanted, the outermost first.
    open: Vec<&'p Branch>,
    /// The object that leads to more, where it begins.
    coming: Option<(usize, &'p Branch)>,
    /// Some key has an escape: it may be any name.
    pub obscure: bool,
    /// For each column, where its scalar begins.
    pub found: Vec<Option<usize>>,
}

impl<'a, 'p> Finder<'a, 'p> {
    pub fn new(root: &'p Branch, columns: usize) -> Finder<'a, 'p> {
        Finder { text: &[], root, open: Vec::new(), coming: None, obscure: false, found: vec![None; columns] }
    }

    /// Begin anew with a text.
    pub fn start(&mut self, text: &'a [u8]) {
        self.text = text;
        self.open.clear();
        self.coming = None;
        self.obscure = false;
        self.found.fill(None);
    }

    /// Look at a member by the place of its colon.
    #[inline(always)]
    fn member(&mut self, colon: usize, escapes: bool, branch: &'p Branch) {
        let mut key = &self.text[..colon];
        if key.last() != Some(&b'"') {
            key = trimmed(key);
        }
        if escapes && has_escape(key) {
            self.obscure = true;
        }
        let tail = key.last_chunk::<TAIL>().map_or_else(|| short_tail(key), |tail| u64::from_le_bytes(*tail));
        let Some(index) = branch.endings.iter().position(|ending| ending.ends(key, tail)) else { return };
        let branch = &branch.branches[index];
        // An earlier member of the same name no longer counts.
        branch.all.iter().for_each(|&column| self.found[column] = None);
        let behind = &self.text[colon + 1..];
        let white = behind.iter().take_while(|&&byte| is_white(byte)).count();
        let at = colon + 1 + white;
        match behind.get(white) {
            Some(b'{') if !branch.branches.is_empty() => self.coming = Some((at, branch)),
            Some(b'{' | b'[' | b'n') | None => {}
            Some(_) => branch.columns.iter().for_each(|&column| self.found[column] = Some(at)),
        }
    }
}

#[cold]
fn short_tail(text: &[u8]) -> u64 {
    text.iter().fold(0, |tail, &byte| tail >> 8 | u64::from(byte) << 56)
}

/// The text without white space at its end.
#[cold]
fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| !is_white(byte)).map_or(0, |last| last + 1);
    &text[..end]
}

/// Whether the string that a text ends with has a backslash in it.
#[cold]
fn has_escape(text: &[u8]) -> bool {
    let Some(inner) = text.strip_suffix(b"\"") else { return true };
    // Of an opening quote and one that is escaped, only the latter has a backslash before it.
    match inner.iter().rposition(|&byte| matches!(byte, b'"' | b'\\')) {
        Some(place) => inner[place] == b'\\' || inner[..place].ends_with(b"\\"),
        None => true,
    }
}

impl Visitor for Finder<'_, '_> {
    #[inline(always)]
    fn opened(&mut self, at: usize, depth: usize) {
        if depth == 1 {
            self.open.push(self.root);
        } else if let Some((start, branch)) = self.coming
            && start == at
        {
            self.open.push(branch);
            self.coming = None;
        }
    }

    #[inline(always)]
    fn closed(&mut self, _at: usize, depth: usize) {
        self.open.truncate(depth);
    }

    #[inline(always)]
    fn minds(&self, depth: usize) -> bool {
        depth == self.open.len()
    }

    #[inline(always)]
    fn between(&mut self, separators: Separators, _depth: usize) {
        let Some(&branch) = self.open.last() else { return };
        let mut colons = separators.colons;
        while colons != 0 {
            self.member(separators.base + colons.trailing_zeros() as usize, separators.escapes, branch);
            colons &= colons - 1;
        }
    }
}
