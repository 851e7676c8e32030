//! What the lists of registrations, entries and events have in common: state filters and keyset cursors.

use prost::Message;
use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::validation::Violations;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::StoreError;
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

/// How many rows are read at once: no more than about 5 MiB, whatever they hold.
const PART: usize = 128;

/// A page of `size` rows after a key, as messages, and the token of the next one. It is read in parts, until it is full.
///
/// # Errors
/// Whatever `read` says.
pub(super) async fn page<Row, Key: Copy, M: Message, Read: Future<Output = Result<Vec<Row>, StoreError>>>(
    mut after: Option<Key>,
    size: i64,
    binding: &PageBinding,
    read: impl Fn(Option<Key>, i64) -> Read,
    key: impl Fn(&Row) -> Key,
    cursor: impl Fn(Key) -> Vec<u8>,
    message: impl Fn(Row) -> M,
) -> Result<(Vec<M>, String), StoreError> {
    let size = usize::try_from(size).unwrap_or_default();
    let (mut page, mut bytes) = (Vec::new(), 0);
    loop {
        let is_full = |page: &[M], bytes| page.len() >= size || bytes >= PAGE_BYTES;
        // One row more than the page has room for: if it comes, there is more.
        let wanted = if is_full(&page, bytes) { 1 } else { PART.min(size - page.len() + 1) };
        let rows = read(after, i64::try_from(wanted).unwrap_or(i64::MAX)).await?;
        let is_last = rows.len() < wanted;
        for row in rows {
            if is_full(&page, bytes) {
                return Ok((page, after.map_or_else(String::new, |after| binding.encode(&cursor(after)))));
            }
            after = Some(key(&row));
            let message = message(row);
            bytes += message.encoded_len();
            page.push(message);
        }
        if is_last {
            return Ok((page, String::new()));
        }
    }
}

/// The cursor of a list in order of id.
pub(super) fn after_id(cursor: Option<Vec<u8>>) -> Result<Option<Uuid>, PageTokenInvalid> {
    cursor.map(|bytes| Uuid::from_slice(&bytes).map_err(|_| PageTokenInvalid)).transpose()
}

/// The cursor for [`after_id`].
pub(super) fn id_cursor(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The cursor of a list in order of position.
pub(super) fn after_position(cursor: Option<Vec<u8>>) -> Result<Option<i64>, PageTokenInvalid> {
    cursor.map(|bytes| bytes.try_into().map(i64::from_be_bytes).map_err(|_| PageTokenInvalid)).transpose()
}

/// The cursor for [`after_position`].
pub(super) fn position_cursor(position: i64) -> Vec<u8> {
    position.to_be_bytes().to_vec()
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
pub(super) fn time_and_id((time, id): (OffsetDateTime, Uuid)) -> Vec<u8> {
    [time.unix_timestamp_nanos().to_be_bytes(), *id.as_bytes()].concat()
}
