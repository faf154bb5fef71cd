//! Where any of many texts stand in a text: the automaton of Aho and Corasick ("Efficient string matching", 1975), run
//! backwards.
//!
//! Reading a text from its end, it knows at each byte the longest of its texts that begins there, and from a text the
//! next shorter one that begins at the same byte: the one that begins the text itself. The time is linear in the text,
//! however many texts there are and however they repeat themselves.

/// No node and no text.
const NONE: u32 = u32::MAX;

/// A beginning of a reversed text. The root, node 0, is the empty one.
#[derive(Debug, Clone)]
struct Node {
    byte: u8,
    child: u32,
    sibling: u32,
    /// The node of the longest proper end of this beginning.
    fail: u32,
    /// The longest text that ends here.
    longest: u32,
}

/// Finds texts, numbered from 0.
#[derive(Debug, Clone)]
pub(super) struct Finder {
    nodes: Vec<Node>,
    /// Children of the root, where most of a text is read.
    root: Box<[u32; 256]>,
    /// For each text the longest other one that begins it.
    shorter: Vec<u32>,
}

impl Default for Finder {
    /// Finds nothing.
    fn default() -> Self {
        Finder::new(std::iter::empty())
    }
}

impl Finder {
    /// For these texts, none of them empty; of equal ones the first is found. Some 20 bytes of memory for each of their bytes.
    pub(super) fn new<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Self {
        let root = Node { byte: 0, child: NONE, sibling: NONE, fail: 0, longest: NONE };
        let mut finder = Finder { nodes: vec![root], root: Box::new([0; 256]), shorter: vec![] };
        let mut ends = vec![];
        for text in texts {
            let end = text.iter().rev().fold(0, |node, &byte| finder.grow(node, byte));
            let node = &mut finder.nodes[end as usize];
            node.longest = node.longest.min(ends.len() as u32);
            ends.push(end);
        }
        finder.link();
        let before = |&end: &u32| finder.nodes[finder.nodes[end as usize].fail as usize].longest;
        finder.shorter = ends.iter().map(before).collect();
        finder
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        let mut child = self.nodes[node as usize].child;
        while child != NONE && self.nodes[child as usize].byte != byte {
            child = self.nodes[child as usize].sibling;
        }
        (child != NONE).then_some(child)
    }

    /// The child of a node, made if it is not there.
    fn grow(&mut self, node: u32, byte: u8) -> u32 {
        if let Some(child) = self.child(node, byte) {
            return child;
        }
        let (new, sibling) = (self.nodes.len() as u32, self.nodes[node as usize].child);
        self.nodes.push(Node { byte, child: NONE, sibling, fail: 0, longest: NONE });
        self.nodes[node as usize].child = new;
        if node == 0 {
            self.root[byte as usize] = new;
        }
        new
    }

    /// Sets `fail` and `longest` of every node, the shorter beginnings first.
    fn link(&mut self) {
        let mut queue = std::collections::VecDeque::from([0]);
        while let Some(node) = queue.pop_front() {
            let mut child = self.nodes[node as usize].child;
            while child != NONE {
                let Node { byte, sibling, longest, .. } = self.nodes[child as usize];
                let fail = if node == 0 { 0 } else { self.step(self.nodes[node as usize].fail, byte) };
                let longest = if longest == NONE { self.nodes[fail as usize].longest } else { longest };
                self.nodes[child as usize].fail = fail;
                self.nodes[child as usize].longest = longest;
                queue.push_back(child);
                child = sibling;
            }
        }
    }

    fn step(&self, mut node: u32, byte: u8) -> u32 {
        while node != 0 {
            match self.child(node, byte) {
                Some(child) => return child,
                None => node = self.nodes[node as usize].fail,
            }
        }
        self.root[byte as usize]
    }

    /// Calls `found` with each place, from the last to the first, at which a text begins, and the longest that does.
    pub(super) fn find(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let mut node = 0;
        for (at, &byte) in text.iter().enumerate().rev() {
            node = self.step(node, byte);
            let longest = self.nodes[node as usize].longest;
            if longest != NONE {
                found(at, longest);
            }
        }
    }

    /// The longest other text that begins a text.
    pub(super) fn shorter(&self, text: u32) -> Option<u32> {
        Some(self.shorter[text as usize]).filter(|&shorter| shorter != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(texts: &[&str]) -> Finder {
        Finder::new(texts.iter().map(|t| t.as_bytes()))
    }

    /// Every text at every place, as the definition says.
    fn naive(texts: &[&str], text: &str) -> Vec<(usize, Vec<u32>)> {
        let at = |i: usize| {
            let begins = |t: &u32| text.as_bytes()[i..].starts_with(texts[*t as usize].as_bytes());
            let mut all: Vec<u32> = (0..texts.len() as u32).filter(begins).collect();
            all.sort_by_key(|&t| std::cmp::Reverse(texts[t as usize].len()));
            (i, all)
        };
        (0..text.len()).rev().map(at).filter(|(_, all)| !all.is_empty()).collect()
    }

    #[test]
    fn the_longest_and_then_the_shorter_texts_of_each_place() {
        let texts = ["abab", "ab", "a", "ba", "bab", "é", "aé"];
        let finder = finder(&texts);
        for text in ["", "abababa", "xababx", "aéab", "bbaé", "aaaa"] {
            let mut got = vec![];
            finder.find(text.as_bytes(), |at, longest| {
                got.push((at, std::iter::successors(Some(longest), |&t| finder.shorter(t)).collect()));
            });
            assert_eq!(got, naive(&texts, text), "{text}");
        }
        Finder::default().find(b"abc", |_, _| panic!("there is nothing to find"));
    }

    #[test]
    fn of_equal_texts_the_first_is_found() {
        let finder = finder(&["a", "ab", "a", "ab"]);
        let mut got = vec![];
        finder.find(b"ab", |at, longest| got.push((at, longest, finder.shorter(longest))));
        assert_eq!(got, [(0, 1, Some(0))]);
    }
}
