//! How many answers may run or wait: in all, and of one tenant.
//!
//! Where there are several tenants none may have so many that the next who comes finds no place: with k of them there,
//! each may have one share of k + 1. Turns between those who have places are the engine's to give.

use super::refusal::Refusal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The places of a server.
#[derive(Debug)]
pub struct Places {
    most: usize,
    /// By tenant, those that have any.
    held: Mutex<HashMap<u64, usize>>,
}

/// Places that were taken; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    places: Arc<Places>,
    tenant: u64,
    n: usize,
}

impl Places {
    /// All free.
    pub fn new(most: usize) -> Places {
        Places { most, held: Mutex::default() }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Takes `n` places for a tenant; 0 is everybody, who have all of them.
    ///
    /// # Errors
    /// 429 when there are not so many now; 400 when there never are.
    pub fn take(self: &Arc<Self>, tenant: u64, n: usize) -> Result<Taken, Refusal> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = held.get(&tenant).copied().unwrap_or(0);
        let others = held.len() - usize::from(mine > 0);
        let share = if tenant == 0 { self.most } else { self.most.div_ceil(others + 2) };
        let alone = if tenant == 0 { self.most } else { self.most.div_ceil(2) };
        if n > alone {
            let problem = format!("{n} choices are asked for at once; {alone} can be (--max-queue)");
            return Err(Refusal::invalid(problem));
        }
        if mine + n > share || held.values().sum::<usize>() + n > self.most {
            return Err(Refusal::full(self.most));
        }
        *held.entry(tenant).or_default() += n;
        Ok(Taken { places: self.clone(), tenant, n })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = held.get_mut(&self.tenant) {
            *mine -= self.n;
            if *mine == 0 {
                held.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_together_has_all_of_them() {
        let places = Arc::new(Places::new(4));
        let three = places.take(0, 3).unwrap();
        assert!(places.take(0, 2).is_err());
        let one = places.take(0, 1).unwrap();
        assert_eq!(places.taken(), 4);
        drop((three, one));
        assert_eq!(places.taken(), 0);
        assert!(places.take(0, 5).is_err(), "never");
    }

    #[test]
    fn one_tenant_leaves_room_for_the_next() {
        let places = Arc::new(Places::new(12));
        let mut all: Vec<Taken> = std::iter::from_fn(|| places.take(1, 1).ok()).collect();
        assert_eq!(all.len(), 6);
        all.extend(std::iter::from_fn(|| places.take(2, 1).ok()).collect::<Vec<_>>());
        assert_eq!(all.len(), 10);
        all.extend(std::iter::from_fn(|| places.take(3, 1).ok()).collect::<Vec<_>>());
        assert_eq!(all.len(), 12, "a third finds what is left");
        drop(all);
        assert_eq!(places.taken(), 0);
    }
}
