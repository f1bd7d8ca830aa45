//! How calls are put into bytes: as everybody does, with buffers of the size that calls have.
//!
//! Each call makes two buffers. The usual 8 KiB are more than nearly all calls fill, and more than an allocator hands
//! out at once; and a body that waits for the log holds on to the whole buffer that it came in.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Bytes that a buffer begins with; it grows with what is put into it.
const BUFFER_BYTES: usize = 512;
/// Bytes of answers that are ready after which they are handed on.
const YIELD_BYTES: usize = 32 * 1024;

/// Protobuf for one kind of call: what is sent and what comes back.
#[derive(Clone, Debug)]
pub struct WireCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WireCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for WireCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}
