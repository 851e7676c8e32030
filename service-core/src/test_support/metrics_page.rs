//! What stands on a page of metrics.

/// How far a counter has come on a page in Prometheus' text format; 0 where it is not there. `series` is its name and labels as
/// the page has them, such as `jwks_refreshes_total{outcome="failed"}`.
///
/// # Panics
/// If what stands there is no whole number.
#[must_use]
pub fn counted(page: &str, series: &str) -> u64 {
    let mut lines = page.lines().filter_map(|line| line.rsplit_once(' '));
    let found = lines.find(|(name, _)| *name == series);
    found.map_or(0, |(_, count)| count.parse().expect("a counter is a whole number"))
}
