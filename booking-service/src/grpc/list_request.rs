//! What the lists of registrations, entries and events have in common: state filters and keyset cursors.

use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::validation::Violations;
use time::OffsetDateTime;
use uuid::Uuid;

/// Reads a repeated state filter: unknown and unspecified values are violations.
pub(super) fn states<T: Copy>(
    values: &[i32],
    words: &'static [T],
    number: impl Fn(T) -> i32,
    violations: &mut Violations,
) -> Vec<T> {
    let mut states = Vec::new();
    for (index, value) in values.iter().enumerate() {
        match words.iter().copied().find(|&word| number(word) == *value) {
            Some(state) => states.push(state),
            None => violations.add(format!("states[{index}]"), "must be a state that exists"),
        }
    }
    states
}

/// A page of rows and the token of the next one. One row more than the page was asked for: if it came, there is more.
pub(super) fn page<Row>(
    mut rows: Vec<Row>,
    size: i64,
    binding: &PageBinding,
    cursor: impl Fn(&Row) -> Vec<u8>,
) -> (Vec<Row>, String) {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = rows.len() > size;
    rows.truncate(size);
    let token = rows.last().filter(|_| more).map(|row| binding.encode(&cursor(row))).unwrap_or_default();
    (rows, token)
}

/// The cursor of a list in order of id.
pub(super) fn after_id(cursor: Option<Vec<u8>>) -> Result<Option<Uuid>, PageTokenInvalid> {
    cursor.map(|bytes| Uuid::from_slice(&bytes).map_err(|_| PageTokenInvalid)).transpose()
}

/// The cursor of a list in order of position.
pub(super) fn after_position(cursor: Option<Vec<u8>>) -> Result<Option<i64>, PageTokenInvalid> {
    cursor.map(|bytes| bytes.try_into().map(i64::from_be_bytes).map_err(|_| PageTokenInvalid)).transpose()
}

/// The cursor of a list in order of time and id.
pub(super) fn after_time_and_id(
    cursor: Option<Vec<u8>>,
) -> Result<Option<(OffsetDateTime, Uuid)>, PageTokenInvalid> {
    let Some(bytes) = cursor else { return Ok(None) };
    let (nanos, id) = bytes.split_first_chunk::<16>().ok_or(PageTokenInvalid)?;
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from_be_bytes(*nanos))
        .map_err(|_| PageTokenInvalid)?;
    Ok(Some((time, Uuid::from_slice(id).map_err(|_| PageTokenInvalid)?)))
}

/// The cursor for [`after_time_and_id`].
pub(super) fn time_and_id(time: OffsetDateTime, id: Uuid) -> Vec<u8> {
    [time.unix_timestamp_nanos().to_be_bytes(), *id.as_bytes()].concat()
}
