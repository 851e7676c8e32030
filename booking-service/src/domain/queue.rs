//! The waiting part of a queue, as far as it is loaded: who is next, and who is the first that fits.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::event::QueueDiscipline;

/// Waiting entries by size of party, then by position.
///
/// By size, because "the first party that fits" is then the least position among at most 100 sizes, instead of a walk
/// past everyone who is too many.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    by_size: BTreeMap<i32, BTreeMap<i64, Uuid>>,
}

impl Queue {
    /// Adds an entry.
    pub fn insert(&mut self, seats: i32, position: i64, entry_id: Uuid) {
        self.by_size.entry(seats).or_default().insert(position, entry_id);
    }

    /// Takes an entry out; nothing happens if it is not there.
    pub fn remove(&mut self, seats: i32, position: i64) {
        if let Some(line) = self.by_size.get_mut(&seats) {
            line.remove(&position);
            if line.is_empty() {
                self.by_size.remove(&seats);
            }
        }
    }

    /// The entry that `free` seats go to next, if any: the head if it fits under STRICT, the first that fits under
    /// SKIP_AHEAD.
    pub fn next(&self, discipline: QueueDiscipline, free: i32) -> Option<Uuid> {
        let heads = self.by_size.iter().filter_map(|(&seats, line)| {
            line.first_key_value().map(|(&position, &entry_id)| (position, seats, entry_id))
        });
        match discipline {
            QueueDiscipline::Strict => heads.min().filter(|&(_, seats, _)| seats <= free),
            QueueDiscipline::SkipAhead => heads.take_while(|&(_, seats, _)| seats <= free).min(),
        }
        .map(|(_, _, entry_id)| entry_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(parties: &[(i32, i64)]) -> Queue {
        let mut queue = Queue::default();
        for &(seats, position) in parties {
            queue.insert(seats, position, Uuid::from_u128(position.unsigned_abs().into()));
        }
        queue
    }

    #[test]
    fn a_strict_queue_waits_until_its_head_fits() {
        let queue = queue(&[(5, 1), (1, 2)]);
        assert_eq!(queue.next(QueueDiscipline::Strict, 4), None);
        assert_eq!(queue.next(QueueDiscipline::Strict, 5), Some(Uuid::from_u128(1)));
    }

    #[test]
    fn a_skipping_queue_serves_the_first_that_fits() {
        let queue = queue(&[(5, 1), (2, 2), (1, 3), (2, 4)]);
        assert_eq!(queue.next(QueueDiscipline::SkipAhead, 4), Some(Uuid::from_u128(2)));
        assert_eq!(queue.next(QueueDiscipline::SkipAhead, 1), Some(Uuid::from_u128(3)));
        assert_eq!(queue.next(QueueDiscipline::SkipAhead, 0), None);
    }

    #[test]
    fn an_entry_that_left_is_not_served() {
        let mut queue = queue(&[(1, 1), (1, 2)]);
        queue.remove(1, 1);
        assert_eq!(queue.next(QueueDiscipline::Strict, 1), Some(Uuid::from_u128(2)));
    }
}
