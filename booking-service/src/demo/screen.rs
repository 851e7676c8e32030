//! What the demo shows.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;

use super::people::Tally;

const BAR: u32 = 40;

/// Standard output, with a progress bar if it is a terminal.
pub(super) struct Screen {
    out: io::Stdout,
    animated: bool,
}

impl Screen {
    pub(super) fn standard() -> Self {
        let out = io::stdout();
        let animated = out.is_terminal();
        Self { out, animated }
    }

    pub(super) fn say(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.out, "{line}")?;
        Ok(())
    }

    /// Draws the bar anew, or, where nothing can be drawn anew, once at the end.
    pub(super) fn progress(&mut self, tally: &Tally) -> anyhow::Result<()> {
        let (answered, users) = (tally.answered(), tally.users.max(1));
        let done = answered == tally.users;
        if self.animated || done {
            let filled = answered * BAR / users;
            let bar: String = (0..BAR).map(|cell| if cell < filled { '█' } else { '░' }).collect();
            let begin = if self.animated { "\r" } else { "" };
            write!(
                self.out,
                "{begin}  {bar} {answered:>6}/{users}  confirmed {:<5} waitlisted {:<6} failed {}",
                tally.confirmed, tally.waitlisted, tally.failed
            )?;
            if done {
                writeln!(self.out)?;
            }
            self.out.flush()?;
        }
        Ok(())
    }

    pub(super) fn tally(&mut self, tally: &Tally) -> anyhow::Result<()> {
        let seconds = tally.elapsed.as_secs_f64().max(f64::EPSILON);
        writeln!(self.out, "tally")?;
        writeln!(self.out, "  confirmed   {}", tally.confirmed)?;
        writeln!(self.out, "  waitlisted  {}", tally.waitlisted)?;
        writeln!(self.out, "  failed      {}", tally.failed)?;
        if let Some(failure) = &tally.failure {
            writeln!(self.out, "              such as {failure}")?;
        }
        writeln!(
            self.out,
            "  time        {seconds:.3} s, {:.0} registrations/s; half answered within {:.0} ms, 99 % within {:.0} ms",
            f64::from(tally.answered()) / seconds,
            millis(&tally.latencies, 50),
            millis(&tally.latencies, 99),
        )?;
        Ok(())
    }

    pub(super) fn proof(&mut self, event_id: &str, proof: &pb::VerifyEventResponse) -> anyhow::Result<()> {
        let verdict = if proof.consistent { "consistent" } else { "NOT CONSISTENT" };
        writeln!(
            self.out,
            "proof: event {event_id} is {verdict}: capacity {} = {} free + {} confirmed; {} waiting; {} changes logged",
            proof.capacity,
            proof.seats_remaining,
            proof.seats_confirmed,
            proof.waiting_entries,
            proof.version,
        )?;
        for finding in &proof.findings {
            writeln!(self.out, "  {}: {}", finding.check, finding.detail)?;
        }
        Ok(())
    }

    /// Lines to paste.
    pub(super) fn tour(
        &mut self,
        identity: &str,
        replicas: &str,
        open_event: &str,
        full_event: &str,
        state_file: Option<&Path>,
    ) -> anyhow::Result<()> {
        let identity = host(identity);
        let booking = host(replicas.split(',').next().unwrap_or_default());
        let replica = host(replicas.split(',').next_back().unwrap_or_default());
        let source = state_file.map(|file| format!("source '{}'\n", file.display())).unwrap_or_default();
        write!(
            self.out,
            r#"
try it (grpcurl: https://github.com/fullstorydev/grpcurl):

{source}TOKEN=$(grpcurl -plaintext -d "{{\"email\": \"$ROWLOCK_ATTENDEE_EMAIL\", \"password\": \"$ROWLOCK_ATTENDEE_PASSWORD\"}}" \
  {identity} rowlock.identity.v1.AuthService/SignIn | sed -n 's/.*"accessToken": "\([^"]*\)".*/\1/p')

# an event with free seats: register
grpcurl -plaintext -H "authorization: Bearer $TOKEN" -d '{{"event_id": "{open_event}"}}' \
  {booking} rowlock.booking.v1.RegistrationService/Register

# the event of the rush is full: an error with its reason
grpcurl -plaintext -H "authorization: Bearer $TOKEN" -d '{{"event_id": "{full_event}"}}' \
  {booking} rowlock.booking.v1.RegistrationService/Register

# so take a place in its queue, at another replica
grpcurl -plaintext -H "authorization: Bearer $TOKEN" -d '{{"event_id": "{full_event}", "when_full": "WHEN_FULL_JOIN_WAITLIST"}}' \
  {replica} rowlock.booking.v1.RegistrationService/Register

# what there is
grpcurl -plaintext -H "authorization: Bearer $TOKEN" {booking} rowlock.booking.v1.EventService/ListEvents
grpcurl -plaintext {booking} list

"#
        )?;
        self.out.flush()?;
        Ok(())
    }
}

fn host(url: &str) -> &str {
    url.trim().trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/')
}

fn millis(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default().as_secs_f64() * 1_000.0
}
