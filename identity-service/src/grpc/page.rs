//! Pages of lists whose order is that of ids.

use service_core::page::{PageBinding, PageTokenInvalid};
use service_core::validation::Violations;
use uuid::Uuid;

use crate::domain::Result;

/// One page that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    binding: PageBinding,
    size: i64,
    /// The id of the last row of the page before.
    pub(super) after: Option<Uuid>,
}

impl Page {
    /// Reads what every list request has.
    ///
    /// # Errors
    /// [`crate::domain::Error::Invalid`] and [`crate::domain::Error::PageTokenInvalid`].
    pub(super) fn read(binding: PageBinding, page_size: i32, page_token: &str) -> Result<Self> {
        let mut violations = Violations::default();
        let size = violations.page_size(page_size);
        violations.finish()?;
        let after = match binding.decode(page_token)? {
            Some(cursor) => Some(Uuid::from_slice(&cursor).map_err(|_| PageTokenInvalid)?),
            None => None,
        };
        Ok(Self { binding, size, after })
    }

    /// How many rows to look for: one more than the page has, which tells whether there is another page.
    pub(super) fn limit(&self) -> i64 {
        self.size + 1
    }

    /// The rows of the page, and the token of the next one: empty after the last.
    pub(super) fn cut<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> Uuid) -> (Vec<T>, String) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        let last = rows.last().filter(|_| more).map(id);
        (rows, last.map(|id| self.binding.encode(id.as_bytes())).unwrap_or_default())
    }
}
