//! `EventService.WatchEvent`: the present first, then changes, merged for those who read slowly.

use futures_util::stream::{self, BoxStream, StreamExt};
use rowlock_proto::booking::v1 as pb;
use service_core::stream_end::{StreamEnd, StreamEnded};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::{CallError, convert};
use crate::domain::event::EventState;
use crate::domain::refusal::Refusal;
use crate::feed::{Seen, Watched};
use crate::store::changes::Seats;

type Message = Result<pb::WatchEventResponse, Status>;

/// What is left of a watch.
struct Watch {
    watched: Watched,
    end: StreamEnd,
    /// What to say first.
    present: Option<Seats>,
    /// What was said last.
    said: Option<Seats>,
    /// Not before then: whoever watches with many gets fewer messages.
    next: Instant,
}

/// The stream of one watch. `present` was read after `watched` began, so nothing falls between.
pub(super) fn stream(watched: Watched, present: Seats, end: StreamEnd) -> BoxStream<'static, Message> {
    let watch = Watch { watched, end, present: Some(present), said: None, next: Instant::now() };
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let end = watch.end.clone();
        let message = tokio::select! {
            message = watch.next() => message,
            ended = end.reached() => Err(ended.into()),
        };
        match message {
            Ok(seats) => {
                // Nothing changes after the end of an event.
                let last = seats.state == EventState::Cancelled;
                Some((Ok(convert::seats(seats)), (!last).then_some(watch)))
            }
            Err(error) => Some((Err(error.into()), None)),
        }
    })
    .boxed()
}

impl Watch {
    async fn next(&mut self) -> Result<Seats, CallError> {
        let seats = match self.present.take() {
            Some(present) => present,
            None => self.news().await?,
        };
        self.said = Some(seats);
        self.next = Instant::now() + self.watched.pace();
        Ok(seats)
    }

    async fn news(&mut self) -> Result<Seats, CallError> {
        sleep_until(self.next).await;
        loop {
            // The sender lives as long as this watch.
            self.watched.seen.changed().await.map_err(|_| CallError::Ended(StreamEnded::Draining))?;
            let seen = *self.watched.seen.borrow_and_update();
            match seen {
                Seen::Present(seats) if self.said.is_none_or(|said| is_news(seats, said)) => {
                    return Ok(seats);
                }
                Seen::Present(_) | Seen::Nothing => {}
                Seen::Gone => return Err(Refusal::EventNotFound { event_id: self.watched.event_id() }.into()),
            }
        }
    }
}

/// Whether this is to be said after that.
fn is_news(seats: Seats, said: Seats) -> bool {
    let is_the_same = Seats { server_start: said.server_start, ..seats } == said;
    // Versions that another run of the server does not have come again.
    let is_of_another_run = seats.server_start != said.server_start;
    !is_the_same && (is_of_another_run || seats.version > said.version)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn later_versions_are_news_and_so_is_whatever_another_run_of_the_server_has_instead() {
        let (one, other) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1));
        let seats = |version, seats_remaining, server_start| Seats {
            event_id: Uuid::nil(),
            state: EventState::Published,
            capacity: 10,
            seats_remaining,
            waitlist_size: 0,
            version,
            server_start,
        };
        let said = seats(10, 3, one);
        assert!(is_news(seats(11, 2, one), said));
        assert!(!is_news(seats(10, 3, one), said) && !is_news(seats(9, 4, one), said));
        assert!(is_news(seats(9, 4, other), said) && is_news(seats(10, 2, other), said));
        assert!(!is_news(seats(10, 3, other), said), "it is as it was said");
    }
}
