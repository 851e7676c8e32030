//! What each of many may have of something at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much each has taken; who has nothing is not there.
#[derive(Debug)]
pub struct Shares<Who>(Arc<Mutex<HashMap<Who, usize>>>);

impl<Who: Copy + Eq + Hash> Shares<Who> {
    /// One more for `who`, unless they have `most`.
    pub fn take(&self, who: Who, most: usize) -> Option<Share<Who>> {
        let mut taken = self.taken();
        let count = taken.get(&who).copied().unwrap_or_default();
        (count < most).then(|| {
            taken.insert(who, count + 1);
            Share { who, of: self.clone() }
        })
    }

    /// Whether anybody has anything.
    pub fn are_taken(&self) -> bool {
        !self.taken().is_empty()
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Who, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Who> Clone for Shares<Who> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Who> Default for Shares<Who> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of what somebody has, until it is dropped.
#[derive(Debug)]
pub struct Share<Who: Copy + Eq + Hash> {
    who: Who,
    of: Shares<Who>,
}

impl<Who: Copy + Eq + Hash> Drop for Share<Who> {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        match taken.get_mut(&self.who) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_as_much_as_they_may_and_nobody_is_remembered_who_has_nothing() {
        let shares = Shares::default();
        let of_one = [shares.take(1, 2).unwrap(), shares.take(1, 2).unwrap()];
        assert!(shares.take(1, 2).is_none());
        let of_another = shares.take(2, 2).unwrap();
        let [first, second] = of_one;
        drop(first);
        let again = shares.take(1, 2).unwrap();
        assert!(shares.take(1, 2).is_none());
        drop((second, again, of_another));
        assert!(shares.take(3, 0).is_none());
        assert!(!shares.are_taken());
    }
}
