//! The codec of every rpc.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a call's buffers have room for at first, each way, in bytes: nearly every message fits, and a longer one makes them
/// grow. Tonic's own 8 KiB are held by each open stream for as long as it lasts, and are most of what a watch costs.
const BUFFER: usize = 1024;
/// Tonic's own: from so many bytes on a stream's messages are sent before the next one is asked for.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// Tonic's codec for `application/grpc+proto`, with smaller buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD_THRESHOLD))
    }
}
