//! Chance, from one number.

/// A random number, consumed digit by digit; 0 when it is used up.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// 0 … sides − 1.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        let rolled = self.0 % sides;
        self.0 /= sides;
        rolled
    }

    pub(super) fn small(&mut self, sides: u64) -> i32 {
        i32::try_from(self.roll(sides)).expect("few sides")
    }

    /// True once in `n` times, and not when the number is used up.
    pub(super) fn once_in(&mut self, n: u64) -> bool {
        self.roll(n) == n - 1
    }

    pub(super) fn one_of<T: Clone>(&mut self, things: &[T]) -> T {
        let n = self.roll(u64::try_from(things.len()).expect("few"));
        things[usize::try_from(n).expect("few")].clone()
    }

    /// One of those that are likely, if any are; sometimes one of the others. The earlier the more often: the head of
    /// a queue moves more than its tail.
    pub(super) fn one_of_many<T: Clone>(&mut self, things: impl Iterator<Item = (bool, T)>) -> Option<T> {
        let (likely, rest): (Vec<_>, Vec<_>) = things.partition(|&(likely, _)| likely);
        let things = if likely.is_empty() || self.once_in(12) { rest } else { likely };
        let count = u64::try_from(things.len()).expect("few");
        if count == 0 {
            return None;
        }
        let n = self.roll(count).min(self.roll(count));
        things.get(usize::try_from(n).expect("few")).map(|(_, thing)| thing.clone())
    }
}
