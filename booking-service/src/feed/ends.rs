//! How far the log is final, told by looks at its end that follow one another.

use std::collections::VecDeque;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::store::changes::Look;

/// How many ends are remembered that are not final yet: those of 20 s and more.
const MOST_OPEN: usize = 1_000;

/// What earlier looks have seen and later ones have not yet shown to be final.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Of which run of the server. What is known of one says nothing of another.
    server_start: Option<OffsetDateTime>,
    /// The last number of the look before, whose transactions are bounded by the present look.
    last: Option<i64>,
    /// Everything up to this number is final.
    final_to: Option<i64>,
    /// (L, N, T): all numbers up to L, seen at T, are final once all transactions below N have ended. All increase.
    open: VecDeque<(i64, i64, Instant)>,
}

impl Ends {
    /// Takes the next look; says how far the log is final, if that is known.
    pub(crate) fn see(&mut self, look: Look) -> Option<i64> {
        if self.server_start != Some(look.server_start) {
            *self = Self { server_start: Some(look.server_start), ..Self::default() };
        }
        // L was read in an earlier statement than N, so whoever drew a number up to L has a transaction id below N. See
        // `store::changes`.
        if let Some(last) = self.last.replace(look.last_batch)
            && self.open.back().map(|&(open, ..)| open).max(self.final_to).is_none_or(|known| known < last)
        {
            // While somebody's long transaction keeps all of them from being final, one newest is enough.
            if self.open.len() >= MOST_OPEN {
                self.open.pop_back();
            }
            self.open.push_back((last, look.next_transaction, Instant::now()));
        }
        while let Some(&(last, bound, _)) = self.open.front()
            && bound <= look.all_ended_below
        {
            self.final_to = Some(last);
            self.open.pop_front();
        }
        self.final_to
    }

    /// For how long the oldest number that is not final yet has been known.
    pub(crate) fn lag(&self) -> Duration {
        self.open.front().map_or(Duration::ZERO, |(.., seen)| seen.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(last_batch: i64, all_ended_below: i64, next_transaction: i64) -> Look {
        Look { last_batch, all_ended_below, next_transaction, server_start: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn a_number_is_final_once_every_transaction_that_may_have_drawn_a_lower_one_has_ended() {
        let mut ends = Ends::default();
        assert_eq!(ends.see(look(7, 100, 103)), None, "nothing bounds the first look");
        assert_eq!(ends.see(look(9, 100, 104)), None, "transaction 100 may still commit number 6");
        assert_eq!(ends.see(look(9, 103, 105)), None, "transaction 103 may have begun between the looks");
        assert_eq!(ends.see(look(9, 104, 106)), Some(7));
        assert_eq!(ends.see(look(9, 106, 106)), Some(9));
        assert_eq!(ends.see(look(9, 106, 106)), Some(9), "nothing new");
    }

    #[test]
    fn a_transaction_that_stays_open_costs_no_more_memory_the_longer_it_does() {
        let mut ends = Ends::default();
        let last = 10 * i64::try_from(MOST_OPEN).unwrap();
        for batch in 0..=last {
            assert_eq!(ends.see(look(batch, 5, 10 + batch)), None);
        }
        assert_eq!(ends.open.len(), MOST_OPEN);
        assert_eq!(ends.see(look(last, 11 + last, 11 + last)), Some(last));
    }

    #[test]
    fn an_idle_log_does_not_lag_behind_a_transaction_of_somebody_else_that_stays_open() {
        let mut ends = Ends::default();
        ends.see(look(5, 50, 50));
        assert_eq!(ends.see(look(5, 50, 50)), Some(5));
        assert_eq!(ends.see(look(5, 50, 51)), Some(5), "transaction 50 has drawn no number up to 5");
        assert!(ends.open.is_empty());
        assert_eq!(ends.see(look(6, 50, 52)), Some(5));
        assert_eq!(ends.see(look(6, 50, 52)), Some(5), "it may have drawn 6");
        assert_eq!(ends.open.len(), 1);
    }

    #[test]
    fn what_one_server_has_shown_says_nothing_of_another() {
        let mut ends = Ends::default();
        ends.see(look(7, 100, 100));
        assert_eq!(ends.see(look(7, 100, 100)), Some(7));
        let of_another =
            Look { server_start: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1), ..look(5, 90, 90) };
        assert_eq!(ends.see(of_another), None);
        assert_eq!(ends.see(of_another), Some(5));
    }

    #[test]
    fn an_idle_log_is_final_to_its_end_at_the_second_look() {
        let mut ends = Ends::default();
        assert_eq!(ends.see(look(5, 50, 50)), None);
        assert_eq!(ends.see(look(5, 50, 50)), Some(5));
    }
}
