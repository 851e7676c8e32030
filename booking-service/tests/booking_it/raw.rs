//! Calls whose bytes are the test's own.

use prost::bytes::{Buf, BufMut, Bytes};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::StdError;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::caller::Caller;

/// Takes messages as they are.
#[derive(Default)]
struct Bare;

impl Codec for Bare {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls any path with any bytes. Of a stream, the answer is its first message.
pub(crate) async fn call(
    channel: &Channel,
    path: &str,
    authorization: Option<&MetadataValue<Ascii>>,
    message: Vec<u8>,
) -> Result<Bytes, Status> {
    let mut request = Request::new(message);
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.clone());
    }
    send(channel.clone(), path, request).await
}

/// The same at any service, over a connection or not.
pub(crate) async fn send<S>(service: S, path: &str, request: Request<Vec<u8>>) -> Result<Bytes, Status>
where
    S: GrpcService<Body>,
    S::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as tonic::codegen::Body>::Error: Into<StdError>,
{
    let mut grpc = tonic::client::Grpc::new(service);
    grpc.ready().await.map_err(|error| Status::unknown(error.into().to_string()))?;
    let path = path.parse().map_err(|_| Status::unknown("not a path"))?;
    let mut answer = grpc.server_streaming(request, path, Bare).await?.into_inner();
    Ok(answer.message().await?.unwrap_or_default())
}

impl Caller {
    /// Calls `EventService/GetEvent` and the like with any bytes.
    pub(crate) async fn call(&self, rpc: &str, message: Vec<u8>) -> Result<Bytes, Status> {
        call(&self.channel, &path(rpc), Some(&self.bearer.0), message).await
    }
}

/// The path of `EventService/GetEvent` and the like.
pub(crate) fn path(rpc: &str) -> String {
    format!("/rowlock.booking.v1.{rpc}")
}
