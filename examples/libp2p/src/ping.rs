//! `/ipfs/ping/1.0.0`: 32 bytes there, the same 32 bytes back, as often as one likes on one substream.

use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Substream, invalid};

pub const PING: &str = "/ipfs/ping/1.0.0";

const SIZE: usize = 32;

/// Our end of a substream on which the peer answers pings.
pub struct Pinger(pub(crate) Substream);

impl Pinger {
    /// Pings once, and returns the round-trip time.
    pub async fn ping(&mut self) -> io::Result<Duration> {
        self.exchange().await.map_err(|error| match error.kind() {
            // What a substream says when its connection has ended, or when it was ended itself.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => {
                io::Error::new(io::ErrorKind::NotConnected, "the peer answers no more pings")
            }
            _ => error,
        })
    }

    async fn exchange(&mut self) -> io::Result<Duration> {
        let sent: [u8; SIZE] = rand::random();
        let begun = Instant::now();
        self.0.write_all(&sent).await?;
        self.0.flush().await?;
        let mut received = [0; SIZE];
        self.0.read_exact(&mut received).await?;
        if received == sent { Ok(begun.elapsed()) } else { Err(invalid("the answer to a ping is another one")) }
    }

    /// Ends the substream; the connection stays.
    pub async fn close(mut self) -> io::Result<()> {
        self.0.close().await
    }
}

/// Answers until the peer has no more questions.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut on_ping: impl FnMut(),
) -> io::Result<()> {
    let mut ping = [0; SIZE];
    loop {
        match stream.read_exact(&mut ping).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return stream.close().await,
            Err(error) => return Err(error),
        }
        stream.write_all(&ping).await?;
        stream.flush().await?;
        on_ping();
    }
}
