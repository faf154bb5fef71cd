//! What ended texts have left, for those that begin alike: a tree of pages.
//!
//! A node is the state of up to a page of tokens behind those of its ancestors. Texts that begin alike share nodes, whole
//! pages of them; a page that is not full is a leaf. Children stand in the order of their tokens, which are compared
//! themselves and not by a hash: the longest common beginning is next to where a text would stand, so that a search costs
//! as many comparisons as the text has pages, however many texts there are. Each tenant has a tree of its own: how fast an
//! answer comes must not tell what others have asked.
//!
//! The tree holds pages as sequences do, by counting. It writes none of them: who goes on from a page that is not full
//! copies it first (copy on write), so a hit gives the bits of a miss. What nobody has used for longest goes first, leaf
//! by leaf, when pages are wanted or there are more bytes of them than the tree may hold.
//!
//! After Zheng et al. 2024 (RadixAttention), by pages instead of tokens.

use super::{Kv, SeqId, Sequence};
use crate::hal::{NO_PAGE, PAGE};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

type Children = BTreeMap<Box<[u32]>, usize>;

/// The trees of all tenants.
#[derive(Debug)]
pub struct Prefixes {
    roots: BTreeMap<u64, Children>,
    nodes: Vec<Option<Node>>,
    /// Places in `nodes` that hold none.
    vacant: Vec<usize>,
    /// By when they were used last, and where they are.
    leaves: BTreeSet<(u64, usize)>,
    /// Counts searches.
    now: u64,
    bytes: u64,
    most_bytes: u64,
}

#[derive(Debug)]
struct Node {
    tokens: Box<[u32]>,
    /// One for each group; none where a window had moved on.
    pages: Vec<u32>,
    tenant: u64,
    parent: Option<usize>,
    children: Children,
    /// The search, or the text, that used it last.
    used: u64,
}

/// The longest beginning that was found. Holds until something is kept.
#[derive(Debug)]
pub struct Found {
    /// Those of its pages, in order.
    nodes: Vec<usize>,
    /// Tokens that it has.
    pub len: usize,
}

/// How many tokens two texts have in common from the beginning on.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// Empty trees that hold at most so many bytes of sequence state.
    pub fn new(most_bytes: u64) -> Prefixes {
        Prefixes {
            roots: BTreeMap::new(),
            nodes: vec![],
            vacant: vec![],
            leaves: BTreeSet::new(),
            now: 0,
            bytes: 0,
            most_bytes,
        }
    }

    /// Pages of a group that nobody but the tree holds.
    pub fn idle_pages(&self, kv: &Kv, group: usize) -> usize {
        let pages = self.nodes.iter().flatten().map(|n| n.pages[group]);
        pages.filter(|&p| p != NO_PAGE && !kv.pools[group].shared(p)).count()
    }

    fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("an index is forgotten with its node")
    }

    fn node_mut(&mut self, at: usize) -> &mut Node {
        self.nodes[at].as_mut().expect("an index is forgotten with its node")
    }

    fn children(&self, tenant: u64, of: Option<usize>) -> Option<&Children> {
        match of {
            Some(at) => Some(&self.node(at).children),
            None => self.roots.get(&tenant),
        }
    }

    fn children_mut(&mut self, tenant: u64, of: Option<usize>) -> &mut Children {
        match of {
            Some(at) => &mut self.node_mut(at).children,
            None => self.roots.entry(tenant).or_default(),
        }
    }

    /// The longest beginning of a text of which the state is there, of what that tenant has asked before. It counts as
    /// used.
    pub fn find(&mut self, kv: &Kv, tenant: u64, text: &[u32]) -> Found {
        self.now += 1;
        let found = self.look(kv, tenant, text);
        found.nodes.iter().for_each(|&at| self.touch(at));
        found
    }

    /// As `find`; nothing is used.
    pub fn look(&self, kv: &Kv, tenant: u64, text: &[u32]) -> Found {
        let mut found = Found { nodes: vec![], len: 0 };
        while let Some(children) = self.children(tenant, found.nodes.last().copied()) {
            let rest = &text[found.len..];
            let page = &rest[..rest.len().min(PAGE)];
            let before = children.range::<[u32], _>((Unbounded, Included(page))).next_back();
            let behind = children.range::<[u32], _>((Excluded(page), Unbounded)).next();
            let near = before.into_iter().chain(behind);
            let best = near.map(|(tokens, &at)| (common(tokens, page), at)).max_by_key(|x| x.0);
            let Some((n, at)) = best.filter(|x| x.0 > 0) else { break };
            found.nodes.push(at);
            found.len += n;
            if n < PAGE {
                break;
            }
        }
        self.shorten(kv, &mut found);
        found
    }

    /// Cuts what was found to where all pages are there that its next row sees.
    fn shorten(&self, kv: &Kv, found: &mut Found) {
        let sees = |len: usize| {
            (0..kv.pools.len()).all(|group| {
                let path = &found.nodes[kv.first_page(group, len)..len.div_ceil(PAGE)];
                path.iter().all(|&at| self.node(at).pages[group] != NO_PAGE)
            })
        };
        let shorter = (0..found.len.div_ceil(PAGE)).rev().map(|pages| pages * PAGE);
        found.len = std::iter::once(found.len).chain(shorter).find(|&len| sees(len)).unwrap_or(0);
        found.nodes.truncate(found.len.div_ceil(PAGE));
    }

    fn touch(&mut self, at: usize) {
        let now = self.now;
        let node = self.node_mut(at);
        let before = std::mem::replace(&mut node.used, now);
        if self.leaves.remove(&(before, at)) {
            self.leaves.insert((now, at));
        }
    }

    /// A sequence behind the first `len` tokens of what was found. Others' reservations are covered for certain only when
    /// something was reserved for this one too.
    pub fn go_on(&self, kv: &mut Kv, found: &Found) -> SeqId {
        let table = |group: usize| {
            let first = kv.first_page(group, found.len);
            let page = |(i, &at): (usize, &usize)| if i < first { NO_PAGE } else { self.node(at).pages[group] };
            found.nodes.iter().enumerate().map(page).collect()
        };
        let tables = (0..kv.pools.len()).map(table).collect();
        kv.share(Sequence { len: found.len as u32, tables, reserved: 0 })
    }

    /// Keeps what an ended sequence holds, whose text this is, and releases it.
    pub fn keep(&mut self, kv: &mut Kv, tenant: u64, text: &[u32], seq: SeqId) {
        self.now += 1;
        let mut parent = None;
        for (i, tokens) in text.chunks(PAGE).enumerate() {
            let pages: Vec<u32> = kv.tables(seq).iter().map(|t| t[i]).collect();
            parent = Some(self.put(kv, tenant, parent, tokens, &pages));
        }
        kv.release(seq);
        while self.bytes > self.most_bytes && self.evict_first(kv) {}
    }

    /// The node of some tokens; it holds those of the pages that it had not.
    fn put(&mut self, kv: &mut Kv, tenant: u64, parent: Option<usize>, tokens: &[u32], pages: &[u32]) -> usize {
        let children = self.children_mut(tenant, parent);
        let longer = children.range::<[u32], _>((Included(tokens), Unbounded)).next();
        let at = match longer.filter(|(have, _)| have.starts_with(tokens)) {
            Some((_, &at)) => at,
            None => {
                let before = children.range::<[u32], _>((Unbounded, Excluded(tokens))).next_back();
                let needless = before.filter(|(have, _)| tokens.starts_with(have)).map(|(_, &at)| at);
                let at = self.add(tenant, parent, tokens, pages.len());
                // What was not full, and what this one goes on from.
                needless.into_iter().for_each(|at| self.remove(kv, at));
                at
            }
        };
        self.touch(at);
        for (group, &page) in pages.iter().enumerate() {
            let node = self.nodes[at].as_mut().expect("it was found or made just now");
            if node.pages[group] == NO_PAGE && page != NO_PAGE && node.tokens.len() == tokens.len() {
                node.pages[group] = page;
                self.bytes += kv.hold(group, page);
            }
        }
        at
    }

    fn add(&mut self, tenant: u64, parent: Option<usize>, tokens: &[u32], groups: usize) -> usize {
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        let (tokens, pages): (Box<[u32]>, _) = (tokens.into(), vec![NO_PAGE; groups]);
        self.children_mut(tenant, parent).insert(tokens.clone(), at);
        if let Some(parent) = parent {
            self.leaves.remove(&(self.node(parent).used, parent));
        }
        self.nodes[at] = Some(Node { tokens, pages, tenant, parent, children: Children::new(), used: self.now });
        self.leaves.insert((self.now, at));
        at
    }

    /// Takes a leaf out, and those above it that hold nothing and lead nowhere then.
    fn remove(&mut self, kv: &mut Kv, at: usize) {
        let mut next = Some(at);
        while let Some(at) = next {
            let Some(node) = self.nodes[at].take() else { return };
            self.vacant.push(at);
            self.leaves.remove(&(node.used, at));
            for (group, &page) in node.pages.iter().enumerate().filter(|(_, p)| **p != NO_PAGE) {
                self.bytes -= kv.let_go(group, page);
            }
            let siblings = self.children_mut(node.tenant, node.parent);
            siblings.remove(&node.tokens);
            let last = siblings.is_empty();
            if node.parent.is_none() && last {
                self.roots.remove(&node.tenant);
            }
            next = node.parent.filter(|_| last).filter(|&parent| {
                let above = self.node(parent);
                let (used, holds) = (above.used, above.pages.iter().any(|&p| p != NO_PAGE));
                self.leaves.insert((used, parent));
                !holds
            });
        }
    }

    /// Lets the leaf go that was used least lately.
    fn evict_first(&mut self, kv: &mut Kv) -> bool {
        let Some(&(_, at)) = self.leaves.first() else { return false };
        self.remove(kv, at);
        true
    }

    /// Lets a leaf go that was used least lately, of those that nobody else holds, but not the end of what was found. False
    /// where there is none: then no page can be had so.
    pub fn evict(&mut self, kv: &mut Kv, spare: Option<&Found>) -> bool {
        let spare = spare.and_then(|found| found.nodes.last());
        let frees = |at: usize| {
            let pages = self.node(at).pages.iter().enumerate();
            pages.filter(|(_, p)| **p != NO_PAGE).any(|(group, &p)| !kv.pools[group].shared(p))
        };
        let leaves = self.leaves.iter().map(|(_, at)| at);
        let Some(&at) = leaves.filter(|&at| Some(at) != spare).find(|&&at| frees(at)) else { return false };
        self.remove(kv, at);
        true
    }

    /// Leaves the last page of what was found to the sequence that goes on from it, which need not copy it then; called
    /// again, the one before. False where there is none, or others go on from it.
    pub fn hand_over(&mut self, kv: &mut Kv, found: &mut Found) -> bool {
        let last = found.nodes.pop().filter(|&at| self.nodes[at].as_ref().is_some_and(|n| n.children.is_empty()));
        last.into_iter().for_each(|at| self.remove(kv, at));
        last.is_some()
    }

    /// Lets everything go.
    pub fn clear(&mut self, kv: &mut Kv) {
        while self.evict_first(kv) {}
    }
}

#[cfg(test)]
mod tests;
