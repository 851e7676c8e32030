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
    /// Nothing up to this version is news.
    version: i64,
    /// Not before then: whoever watches with many gets fewer messages.
    next: Instant,
}

/// The stream of one watch. `present` was read after `watched` began, so nothing falls between.
pub(super) fn stream(watched: Watched, present: Seats, end: StreamEnd) -> BoxStream<'static, Message> {
    let watch = Watch { watched, end, present: Some(present), said: None, version: 0, next: Instant::now() };
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
        (self.said, self.version) = (Some(seats), seats.version);
        self.next = Instant::now() + self.watched.pace();
        Ok(seats)
    }

    async fn news(&mut self) -> Result<Seats, CallError> {
        sleep_until(self.next).await;
        loop {
            // The sender lives as long as this watch.
            self.watched.seen.changed().await.map_err(|_| CallError::Ended(StreamEnded::Draining))?;
            let seen = *self.watched.seen.borrow_and_update();
            if self.watched.is_another_run() {
                // Versions that it does not have come again.
                self.version = 0;
            }
            match seen {
                Seen::Present(seats) if seats.version > self.version && self.said != Some(seats) => {
                    return Ok(seats);
                }
                Seen::Present(_) | Seen::Nothing => {}
                Seen::Gone => return Err(Refusal::EventNotFound { event_id: self.watched.event_id() }.into()),
            }
        }
    }
}
