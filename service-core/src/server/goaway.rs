//! Why the HTTP/2 library ends a connection: it tells that to the client alone, in a GOAWAY frame.

use bytes::Buf;

const GOAWAY: u8 = 7;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;
/// What is named as the last call while it is not known yet: calls that are on their way are still taken.
const ANY_CALL: u32 = 0x7fff_ffff;

/// What the first GOAWAY of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Finish your calls, and close.
    Asked,
    /// You have not answered a ping.
    Silent,
    /// You send more than anybody needs to: too many calls cancelled unseen, too many frames of no use.
    Flood,
}

/// Follows the frames that are sent on a connection, in whatever pieces.
#[derive(Default)]
pub(super) struct Frames {
    /// The present frame's beginning, as far as it is of interest.
    head: Vec<u8>,
    /// How much of the present frame is still to come and of no interest.
    skip: usize,
    told: bool,
}

impl Frames {
    /// Takes the next piece. What the connection's first GOAWAY says, if it is complete with it.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Option<Farewell> {
        let mut said = None;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            bytes.advance(skipped);
            self.skip -= skipped;
            if bytes.is_empty() {
                break;
            }
            self.head.push(bytes.get_u8());
            let (length, farewell) = match *self.head.as_slice() {
                [a, b, c, kind, _, _, _, _, _] if kind != GOAWAY => ([0, a, b, c], None),
                [a, b, c, _, _, _, _, _, _, l0, l1, l2, l3, c0, c1, c2, c3] => {
                    let (last, code) =
                        (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes([c0, c1, c2, c3]));
                    ([0, a, b, c], Some((last, code)))
                }
                _ => continue,
            };
            let known = self.head.len() - 9;
            self.head.clear();
            self.skip =
                usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX).saturating_sub(known);
            if let Some((last, code)) = farewell
                && !std::mem::replace(&mut self.told, true)
            {
                said = reading(last, code);
            }
        }
        said
    }
}

fn reading(last: u32, code: u32) -> Option<Farewell> {
    match (last, code) {
        (ANY_CALL, NO_ERROR) => Some(Farewell::Asked),
        // Without being asked first a connection is closed for one reason only.
        (_, NO_ERROR) => Some(Farewell::Silent),
        (_, ENHANCE_YOUR_CALM) => Some(Farewell::Flood),
        // The client does not keep to the protocol.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    fn goaway(last: u32, code: u32, debug: &[u8]) -> Vec<u8> {
        frame(GOAWAY, &[&last.to_be_bytes(), &code.to_be_bytes(), debug].concat())
    }

    #[test]
    fn the_first_goaway_is_found_among_other_frames_in_whatever_pieces_they_are_sent() {
        for (last, code, farewell) in [
            (ANY_CALL, NO_ERROR, Some(Farewell::Asked)),
            (3, NO_ERROR, Some(Farewell::Silent)),
            (3, ENHANCE_YOUR_CALM, Some(Farewell::Flood)),
            (3, 1, None),
        ] {
            let sent = [
                frame(4, &[]),
                // A message that looks like a GOAWAY.
                frame(0, &goaway(0, ENHANCE_YOUR_CALM, b"")),
                goaway(last, code, b"too_many_resets"),
                frame(6, b"anybody?"),
                goaway(3, NO_ERROR, b""),
            ]
            .concat();
            for piece in [1, 2, 7, 10, sent.len()] {
                let mut frames = Frames::default();
                let said: Vec<_> = sent.chunks(piece).filter_map(|bytes| frames.pass(bytes)).collect();
                assert_eq!(said, Vec::from_iter(farewell), "in pieces of {piece}");
                assert_eq!((frames.head.len(), frames.skip), (0, 0));
            }
        }
    }
}
