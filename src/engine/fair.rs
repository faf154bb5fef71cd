//! Whose turn it is: what waits, by who asks.
//!
//! Each tenant has a queue of its own and a count of the tokens that were computed for it. The next to be admitted is the
//! first in the queue of the tenant with the least count, so that many requests of one do not hold up the few of another,
//! whatever their lengths. In a tenant's queue smaller priorities come first, and equal ones as they came. Who comes back after a while begins with the least count of those that are there: nobody saves
//! turns up. Where nobody is there all counts begin anew. With one tenant it is a plain queue.
//!
//! After Sheng et al. 2024, "Fairness in Serving Large Language Models" (virtual token counters).

use std::collections::BTreeMap;

/// Queues of tenants.
#[derive(Debug)]
pub(super) struct Fair<T> {
    tenants: BTreeMap<u64, Tenant<T>>,
    len: usize,
    /// Counts those that came.
    came: u64,
}

#[derive(Debug)]
struct Tenant<T> {
    /// By priority, then as they came.
    queue: BTreeMap<(i32, u64), T>,
    /// Tokens computed for it, and what it was lifted by.
    served: u64,
    /// How many of it run or wait.
    present: usize,
}

impl<T> Fair<T> {
    /// Nobody waits.
    pub fn new() -> Self {
        Fair { tenants: BTreeMap::new(), len: 0, came: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// One more waits.
    pub fn push(&mut self, tenant: u64, priority: i32, one: T) {
        let present = self.tenants.values().filter(|t| t.present > 0);
        let least = present.map(|t| t.served).min().unwrap_or_else(|| {
            // Or who was served before would wait until a newcomer has had as much.
            self.tenants.values_mut().for_each(|t| t.served = 0);
            0
        });
        let t = self.tenants.entry(tenant).or_insert(Tenant { queue: BTreeMap::new(), served: 0, present: 0 });
        if t.present == 0 {
            t.served = t.served.max(least);
        }
        t.present += 1;
        self.came += 1;
        t.queue.insert((priority, self.came), one);
        self.len += 1;
    }

    /// Takes the next out; it is present until it has `left`.
    pub fn pop(&mut self) -> Option<T> {
        let waiting = self.tenants.values_mut().filter(|t| !t.queue.is_empty());
        let one = waiting.min_by_key(|t| t.served)?.queue.pop_first().map(|(_, one)| one);
        self.len -= usize::from(one.is_some());
        one
    }

    /// Tokens were computed for a tenant.
    pub fn serve(&mut self, tenant: u64, tokens: u64) {
        if let Some(t) = self.tenants.get_mut(&tenant) {
            t.served += tokens;
        }
    }

    /// One of a tenant that was taken out has ended.
    pub fn left(&mut self, tenant: u64) {
        if let Some(t) = self.tenants.get_mut(&tenant) {
            t.present = t.present.saturating_sub(1);
        }
    }

    /// Whether nobody is present.
    #[cfg(test)]
    pub fn is_deserted(&self) -> bool {
        self.len == 0 && self.tenants.values().all(|t| t.present == 0)
    }

    /// Takes out those that wait and that `goes` says of.
    pub fn drop_if(&mut self, mut goes: impl FnMut(&mut T) -> bool) {
        for t in self.tenants.values_mut() {
            let before = t.queue.len();
            t.queue.retain(|_, one| !goes(one));
            t.present -= before - t.queue.len();
            self.len -= before - t.queue.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_has_a_plain_queue() {
        let mut fair = Fair::new();
        (0..5).for_each(|i| fair.push(7, 0, i));
        let mut order = vec![];
        while let Some(i) = fair.pop() {
            fair.serve(7, 100 - 10 * i);
            order.push(i);
        }
        assert_eq!((order, fair.len()), (vec![0, 1, 2, 3, 4], 0));
    }

    #[test]
    fn priorities_order_one_s_own_only() {
        let mut fair = Fair::new();
        [(1, 3, 'd'), (1, -1, 'a'), (1, 0, 'b'), (1, 0, 'c'), (2, 9, 'x')]
            .into_iter()
            .for_each(|(t, p, one)| fair.push(t, p, one));
        let mut order = String::new();
        while let Some(one) = fair.pop() {
            order.push(one);
            fair.serve(if one == 'x' { 2 } else { 1 }, 10);
        }
        assert_eq!(order, "axbcd");
    }

    #[test]
    fn turns_go_by_tokens_not_by_requests() {
        let mut fair = Fair::new();
        // One asks for a hundred short answers, the other for long ones.
        (0..100).for_each(|_| fair.push(1, 0, 10));
        (0..100).for_each(|_| fair.push(2, 0, 90));
        let mut served = [0u64; 3];
        for _ in 0..100 {
            let tokens = fair.pop().unwrap();
            let tenant = if tokens == 10 { 1 } else { 2 };
            fair.serve(tenant, tokens);
            fair.left(tenant);
            served[tenant as usize] += tokens;
        }
        assert!(served[1].abs_diff(served[2]) <= 90, "{served:?}");
    }

    #[test]
    fn nobody_saves_turns_up() {
        let mut fair = Fair::new();
        (0..10).for_each(|_| fair.push(1, 0, 1));
        for _ in 0..5 {
            fair.pop().unwrap();
            fair.serve(1, 1000);
            fair.left(1);
        }
        // The other was away meanwhile; now they take turns.
        (0..10).for_each(|_| fair.push(2, 0, 2));
        let mut order = vec![];
        for _ in 0..6 {
            let tenant = fair.pop().unwrap();
            fair.serve(tenant, 1000);
            fair.left(tenant);
            order.push(tenant);
        }
        assert_eq!(order.iter().filter(|&&t| t == 2).count(), 3, "{order:?}");
    }

    #[test]
    fn who_leaves_the_queue_is_not_present() {
        let mut fair = Fair::new();
        (0..4).for_each(|i| fair.push(1, 0, i));
        fair.serve(1, 50);
        fair.drop_if(|i| *i % 2 == 0);
        assert_eq!((fair.len(), fair.pop(), fair.pop(), fair.pop()), (2, Some(1), Some(3), None));
        fair.left(1);
        fair.left(1);
        // Nobody is there: who was served an hour ago and who comes first begin alike.
        (0..9).for_each(|_| fair.push(2, 0, 2));
        (0..9).for_each(|_| fair.push(1, 0, 1));
        let mut order = vec![];
        for _ in 0..6 {
            let tenant = fair.pop().unwrap();
            fair.serve(tenant as u64, 10);
            order.push(tenant);
        }
        assert_eq!(order.iter().filter(|&&t| t == 1).count(), 3, "{order:?}");
    }
}
