//! One row of the table: what was measured, and what it has to reach.

use serde::{Deserialize, Serialize};

use crate::load::{TICK, Tally};
use crate::usage::Usage;

/// More than any event of a benchmark sells.
pub(crate) const PLENTY: usize = 1_000_000;

/// A row as it is printed and kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) checks: Vec<Check>,
    pub(crate) figures: Vec<Figure>,
    /// For the page: lines of points.
    pub(crate) plots: Vec<Line>,
    /// Anything that a reader has to know.
    pub(crate) notes: Vec<String>,
}

/// A bar.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) bar: f64,
    pub(crate) at_least: bool,
}

impl Check {
    pub(crate) fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.bar } else { self.value <= self.bar }
    }
}

/// One figure, as each round found it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) rounds: Vec<f64>,
}

impl Figure {
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        // Of an even number of rounds, the mean of the two in the middle.
        let middle = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
        let [lower, upper] = middle.map(|at| sorted.get(at).copied().unwrap_or(f64::NAN));
        f64::midpoint(lower, upper)
    }
}

/// A line of one of the page's plots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) plot: Plot,
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The page's plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Plot {
    /// Registrations a second over clients.
    Throughput,
    /// Milliseconds over percentiles.
    Latency,
    /// Free seats over seconds.
    Seats,
}

impl Row {
    pub(crate) fn new(name: &str, what: &str) -> Self {
        Self { name: name.to_owned(), what: what.to_owned(), ..Self::default() }
    }

    /// Adds what a round found.
    pub(crate) fn found(&mut self, what: &str, unit: &str, value: f64) {
        match self.figures.iter_mut().find(|figure| figure.what == what) {
            Some(figure) => figure.rounds.push(value),
            None => self.figures.push(Figure {
                what: what.to_owned(),
                unit: unit.to_owned(),
                rounds: vec![value],
            }),
        }
    }

    pub(crate) fn median(&self, what: &str) -> f64 {
        self.figures.iter().find(|figure| figure.what == what).map_or(f64::NAN, Figure::median)
    }

    pub(crate) fn ratio(&self, of: &str, to: &str) -> f64 {
        self.median(of) / self.median(to)
    }

    pub(crate) fn at_least(&mut self, bar: f64, what: &str, value: f64) {
        self.checks.push(Check { what: what.to_owned(), value, bar, at_least: true });
    }

    pub(crate) fn at_most(&mut self, bar: f64, what: &str, value: f64) {
        self.checks.push(Check { what: what.to_owned(), value, bar, at_least: false });
    }

    /// Whether everything was measured that should have been.
    pub(crate) fn is_complete(&self) -> bool {
        let values = self.figures.iter().flat_map(|figure| &figure.rounds);
        values.chain(self.checks.iter().map(|check| &check.value)).all(|value| value.is_finite())
    }

    /// Whether all bars are met; `None` where there are none.
    pub(crate) fn is_met(&self) -> Option<bool> {
        (!self.checks.is_empty()).then(|| self.checks.iter().all(Check::is_met))
    }

    /// Rate and latencies of a load.
    pub(crate) fn answered(&mut self, name: &str, tally: &Tally) {
        self.found(&format!("{name}: rate"), "/s", tally.rate);
        self.found(&format!("{name}: p50"), "ms", tally.p50);
        self.found(&format!("{name}: p99"), "ms", tally.p99);
    }

    /// Rate, latencies and costs of a load.
    pub(crate) fn loaded(&mut self, name: &str, tally: &Tally, used: Usage) {
        self.answered(name, tally);
        let calls = (tally.calls() as f64).max(1.0);
        for (whose, time) in
            [("service", used.services), ("PostgreSQL", used.postgres), ("client", used.clients)]
        {
            self.found(&format!("{name}: {whose} CPU"), "µs/call", time.as_secs_f64() * 1e6 / calls);
        }
        self.found(&format!("{name}: CPU of others"), "%", used.of_others() * 100.0);
        self.found(&format!("{name}: WAL"), "B/call", used.wal_bytes as f64 / calls);
    }

    /// Replaces a line of a plot.
    pub(crate) fn line(&mut self, plot: Plot, name: &str, points: Vec<(f64, f64)>) {
        self.plots.retain(|line| line.plot != plot || line.name != name);
        self.plots.push(Line { plot, name: name.to_owned(), points });
    }

    /// The seats that are left after each tick of a load that had so many to give.
    pub(crate) fn seats_line(&mut self, name: &str, capacity: usize, tally: &Tally) {
        let mut left = capacity as f64;
        let mut points = vec![(0.0, left)];
        for (tick, seats) in tally.timeline.iter().enumerate() {
            left -= *seats as f64;
            points.push(((tick + 1) as f64 * TICK.as_secs_f64(), left));
        }
        self.line(Plot::Seats, name, points);
    }
}
