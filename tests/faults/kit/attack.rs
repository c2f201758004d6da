//! What attackers do. They live in the stage's runtime for attackers, and count what they have injected.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use pea2pea::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::victim::Temper;
use crate::common::{local_config, setups::dial_from};

/// Where the bystander comes from; no attacker does.
pub const BYSTANDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 250, 0, 1));

/// A configuration for a victim: an address that nobody else on this host dials, and limits that are out of the way.
pub fn config(last_byte: u8) -> Config {
    Config {
        listener_addr: Some(SocketAddr::from(([127, 0, 81, last_byte], 0))),
        listener_backlog: 4_096,
        max_connections: 10_000,
        max_connections_per_ip: 10_000,
        max_connecting: 10_000,
        ..local_config()
    }
}

/// One of six million addresses of the loopback interface.
pub fn source(number: usize) -> IpAddr {
    let [high, low] = [number / 250 % 250, number % 250].map(|byte| byte as u8);
    IpAddr::from([127, 100 + (number / 62_500 % 100) as u8, high, low + 1])
}

/// Dials from one of many addresses.
pub async fn dial(number: usize, target: SocketAddr) -> TcpStream {
    dial_from(source(number), target).await.expect("the listener is alive")
}

/// Dials, and says what the handshake of the victim wants.
pub async fn dial_politely<T: Temper>(number: usize, target: SocketAddr) -> TcpStream {
    let mut stream = dial(number, target).await;
    stream.write_all(T::GREETING.unwrap_or_default()).await.expect("the victim waits for it");
    stream
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    _ = stream.set_zero_linger();
    drop(stream);
}

/// A socket with buffers that are soon full, bound to an address of its own.
pub fn narrow_socket(number: usize) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.bind(SocketAddr::new(source(number), 0)).unwrap();
    socket
}

/// A socket that dials from the same port again and again; its connections have to end with a reset.
pub async fn dial_from_port(own: SocketAddr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(own)?;
    socket.connect(target).await
}

/// Reads until the victim closes the connection or resets it; tells when, if it does within the bound.
pub async fn closed_within(bound: Duration, stream: &mut TcpStream) -> Option<Instant> {
    let mut buffer = [0; 4 * 1024];
    let reading = async { while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    timeout(bound, reading).await.ok().map(|()| Instant::now())
}
