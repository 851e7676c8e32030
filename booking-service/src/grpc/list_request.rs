//! What the lists of registrations, entries and events have in common: state filters and keyset cursors.

use prost::Message;
use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::validation::Violations;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::changes::Place;

/// Reads a repeated enum filter, each value once: unknown and unspecified values are violations.
pub(super) fn known<T: Copy + PartialEq>(
    field: &str,
    values: &[i32],
    all: &'static [T],
    number: impl Fn(T) -> i32,
    violations: &mut Violations,
) -> Vec<T> {
    let mut known = Vec::new();
    for (index, value) in values.iter().enumerate() {
        match all.iter().copied().find(|&candidate| number(candidate) == *value) {
            Some(found) if known.contains(&found) => {}
            Some(found) => known.push(found),
            None => violations.add(format!("{field}[{index}]"), "must be a value that exists"),
        }
    }
    known
}

/// From how many bytes on a page is full, however few its rows: clients of gRPC take messages of 4 MiB by default, and no
/// row has more than 100 KiB.
const PAGE_BYTES: usize = 3 << 20;

/// A page of rows, as messages, and the token of the next one. One row more than the page was asked for: if it came, there
/// is more.
pub(super) fn page<Row, M: Message>(
    rows: Vec<Row>,
    size: i64,
    binding: &PageBinding,
    cursor: impl Fn(&Row) -> Vec<u8>,
    message: impl Fn(Row) -> M,
) -> (Vec<M>, String) {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let (mut page, mut bytes, mut last) = (Vec::with_capacity(rows.len().min(size)), 0, Vec::new());
    for row in rows {
        if page.len() == size || bytes >= PAGE_BYTES {
            return (page, binding.encode(&last));
        }
        last = cursor(&row);
        let message = message(row);
        bytes += message.encoded_len();
        page.push(message);
    }
    (page, String::new())
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

/// How long the cursor of a place is.
pub(super) const PLACE_BYTES: usize = 32;

/// The cursor of a list in the order of the change log.
pub(super) fn place(cursor: &[u8]) -> Result<Place, PageTokenInvalid> {
    let (batch, rest) = cursor.split_first_chunk::<8>().ok_or(PageTokenInvalid)?;
    let (version, event_id) = rest.split_first_chunk::<8>().ok_or(PageTokenInvalid)?;
    Ok(Place {
        batch: i64::from_be_bytes(*batch),
        event_id: Uuid::from_slice(event_id).map_err(|_| PageTokenInvalid)?,
        version: i64::from_be_bytes(*version),
    })
}

/// The cursor for [`place`].
pub(super) fn place_cursor(place: Place) -> Vec<u8> {
    [&place.batch.to_be_bytes(), &place.version.to_be_bytes(), place.event_id.as_bytes().as_slice()].concat()
}

/// The cursor for [`after_time_and_id`].
pub(super) fn time_and_id(time: OffsetDateTime, id: Uuid) -> Vec<u8> {
    [time.unix_timestamp_nanos().to_be_bytes(), *id.as_bytes()].concat()
}
