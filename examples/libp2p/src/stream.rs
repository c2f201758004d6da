//! The encrypted stream while the connection is still being set up: multistream-select wants something to read and write.
//!
//! Once the connection is live, the kernel's own loops take over, on the bare stream. That is why this one reads not a byte
//! beyond the current Noise message.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::noise::{MAX_PLAINTEXT, Opener, Sealer};

pub(crate) struct NoiseStream<'a> {
    tcp: &'a mut TcpStream,
    sealer: &'a mut Sealer,
    opener: &'a mut Opener,
    /// The part of the current message that has arrived.
    arrived: BytesMut,
    /// Decrypted, but not yet asked for.
    plaintext: Bytes,
    /// Encrypted, but not yet written.
    unwritten: BytesMut,
}

impl<'a> NoiseStream<'a> {
    pub(crate) fn new(tcp: &'a mut TcpStream, sealer: &'a mut Sealer, opener: &'a mut Opener) -> Self {
        Self { tcp, sealer, opener, arrived: BytesMut::new(), plaintext: Bytes::new(), unwritten: BytesMut::new() }
    }

    /// What came in the same Noise message as the end of the negotiation: it belongs to whatever was negotiated.
    pub(crate) fn into_early_data(self) -> Bytes {
        self.plaintext
    }
}

impl AsyncRead for NoiseStream<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, output: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.plaintext.is_empty() {
            let begin = this.arrived.len();
            this.arrived.resize(begin + Opener::missing(&this.arrived), 0);
            let mut buffer = ReadBuf::new(&mut this.arrived[begin..]);
            let outcome = Pin::new(&mut *this.tcp).poll_read(cx, &mut buffer);
            let size = buffer.filled().len();
            this.arrived.truncate(begin + size);
            ready!(outcome)?;
            if size == 0 {
                return Poll::Ready(Ok(0));
            }
            if let Some(plaintext) = this.opener.decode(&mut this.arrived)? {
                this.plaintext = plaintext;
            }
        }
        Poll::Ready(Ok(take(&mut this.plaintext, output)))
    }
}

impl AsyncWrite for NoiseStream<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, input: &[u8]) -> Poll<io::Result<usize>> {
        // The negotiation flushes after each of its few short messages, so this cannot pile up.
        let size = input.len().min(MAX_PLAINTEXT);
        let this = self.get_mut();
        this.sealer.encode(Bytes::copy_from_slice(&input[..size]), &mut this.unwritten)?;
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.unwritten.is_empty() {
            match ready!(Pin::new(&mut *this.tcp).poll_write(cx, &this.unwritten))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                size => this.unwritten.advance(size),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// Moves as much as fits.
pub(crate) fn take(plaintext: &mut Bytes, output: &mut [u8]) -> usize {
    let size = plaintext.len().min(output.len());
    plaintext.copy_to_slice(&mut output[..size]);
    size
}
