//! Hole punching: two nodes that nobody can dial, each behind a NAT, dial each other.
//!
//! Shows a TCP simultaneous open. A NAT lets packets in only if they answer something that went out, so a dial from outside
//! is lost. Both nodes keep a connection to a rendezvous node, which sees their public addresses and tells each the other's.
//! Then both dial at once, with `connect_using_socket` and a socket that is bound to the port they already use (so that the
//! NAT keeps the public address): each dial opens the way for the other, and both become the ends of one connection. As both
//! have dialled, each takes the other for the `Responder`: a protocol with two roles has to give them by something else,
//! here by the names.
//!
//! ```text
//! cargo run --example hole_punching                               # on the loopback interface
//! cargo run --example hole_punching -- nat                        # root: two homes behind two NATs, in network namespaces
//! cargo run --example hole_punching -- rendezvous ADDRESS         # for real use: one of these, somewhere public,
//! cargo run --example hole_punching -- meet NAME NAME ADDRESS     # and two of these: the own name first
//! ```
//!
//! On the loopback interface there is no NAT. What stands in for it is a listener whose queue is full: the system drops a
//! dial to it without an answer, too. You will see, with other ports:
//!
//! ```text
//! a dial to bob at 127.0.0.3:36441, who does not dial himself, is lost
//! rendezvous bob is at 127.0.0.3:36441, ann at 127.0.0.2:43179
//! ann        dialled 127.0.0.3:36441 from port 43179: connected with dial 1
//! ann        takes bob for the Responder; by the names, it has to begin
//! bob        dialled 127.0.0.2:43179 from port 36441: connected with dial 1
//! bob        takes ann for the Responder; by the names, it has to wait
//! bob        ann says "hello, bob"
//! ann        bob says "hello, ann"
//! verified: both ends are live, and they are the ends of one connection, 127.0.0.2:43179 - 127.0.0.3:36441
//! verified: each end has dialled, and takes the other for the Responder
//! ```
//!
//! `nat` needs `ip`, `unshare` and `nft`, builds everything in namespaces that end with it, and shows:
//!
//! ```text
//! rendezvous listens on 198.51.100.1:7000
//! rendezvous bob is at 198.51.100.12:42201, ann at 198.51.100.11:39447
//! bob        dialled 198.51.100.11:39447 from port 42201: connected with dial 1
//! bob        takes ann for the Responder; by the names, it has to wait
//! ann        dialled 198.51.100.12:42201 from port 39447: connected with dial 1
//! ann        takes bob for the Responder; by the names, it has to begin
//! bob        ann says "hello, bob"
//! ann        bob says "hello, ann"
//! rendezvous is gone
//! ```
//!
//! It works with NATs that give one port the same public address for all destinations, and that do not answer a dial from
//! outside with a reset. The others need a relay.

mod common;

use std::{
    collections::HashMap,
    env, io,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::Colour;
use pea2pea::{
    Config, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{OnDisconnect, Reading, Writing},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::codec::LengthDelimitedCodec;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let work = async {
        match words[..] {
            [] => on_loopback().await,
            ["nat"] => behind_nats().await,
            ["rendezvous", addr] => rendezvous(parsed(addr)?).await,
            ["meet", name, wanted, addr] => meet(name, wanted, parsed(addr)?).await,
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "nothing, nat, rendezvous ADDRESS or meet NAME NAME ADDRESS",
            )),
        }
    };
    common::exit(work.await)
}

async fn rendezvous(addr: SocketAddr) -> io::Result<()> {
    let (host, mut events) = Member::start("rendezvous", Some(addr)).await;
    let outcome = async {
        let addr = host.listen().await?;
        host.say(format_args!("listens on {addr}"));
        tokio::select! {
            outcome = host.introduce(&mut events) => outcome,
            () = common::ctrl_c() => {
                host.say(format_args!("is gone"));
                Ok(())
            }
        }
    };
    let outcome = outcome.await;
    host.node.shut_down().await;
    outcome
}

async fn meet(name: &str, wanted: &str, rendezvous: SocketAddr) -> io::Result<()> {
    let (member, mut events) = Member::start(name, None).await;
    let unspecified: IpAddr = if rendezvous.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let outcome = async {
        let socket = socket_at(SocketAddr::new(unspecified, 0))?;
        let own = socket.local_addr()?;
        member.punch(socket, own, wanted, rendezvous, &mut events).await
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = common::ctrl_c() => {
            member.say(format_args!("does not wait for {wanted} any longer"));
            Ok(())
        }
    };
    member.node.shut_down().await;
    outcome
}

/// The rendezvous node and both others in one process.
async fn on_loopback() -> io::Result<()> {
    let (host, mut host_events) = Member::start("rendezvous", Some(([127, 0, 0, 1], 0).into())).await;
    let (ann, mut ann_events) = Member::start("ann", None).await;
    let (bob, mut bob_events) = Member::start("bob", None).await;
    let outcome = async {
        let addr = host.listen().await?;
        let [ann_socket, bob_socket] = [2, 3].map(|last| socket_at(SocketAddr::from(([127, 0, 0, last], 0))));
        let (ann_socket, bob_socket) = (ann_socket?, bob_socket?);
        let (ann_addr, bob_addr) = (ann_socket.local_addr()?, bob_socket.local_addr()?);
        let _walls = (Wall::around(ann_addr).await?, Wall::around(bob_addr).await?);

        let lone = socket_at(SocketAddr::from(([127, 0, 0, 4], 0)))?;
        let refused = host.node.connect_using_socket(bob_addr, lone).await;
        require(refused.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut), "nobody can dial bob")?;
        println!("a dial to bob at {bob_addr}, who does not dial himself, is lost");

        tokio::try_join!(
            ann.punch(ann_socket, ann_addr, "bob", addr, &mut ann_events),
            bob.punch(bob_socket, bob_addr, "ann", addr, &mut bob_events),
        )?;
        // What is left is the connection between the two.
        require(ann.node.connected_addrs() == [bob_addr], "ann has one connection, to bob")?;
        require(bob.node.connected_addrs() == [ann_addr], "bob has one connection, to ann")?;
        println!("verified: both ends are live, and they are the ends of one connection, {ann_addr} - {bob_addr}");
        let sides = [(&ann, bob_addr), (&bob, ann_addr)].map(|(member, peer)| member.side_of(peer));
        require(sides == [Some(ConnectionSide::Responder); 2], "each end has dialled")?;
        println!("verified: each end has dialled, and takes the other for the Responder");
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        outcome = host.introduce(&mut host_events) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    for member in [&ann, &bob, &host] {
        member.node.shut_down().await;
    }
    outcome
}

/// Runs this program in several network namespaces.
async fn behind_nats() -> io::Result<()> {
    for (tool, argument) in [("ip", "-V"), ("unshare", "-V"), ("nft", "-v")] {
        let found = Command::new(tool).arg(argument).output().is_ok_and(|output| output.status.success());
        require(found, &format!("`{tool}` is installed"))?;
    }
    let program = env::current_exe()?;
    let mut shell = Command::new("unshare");
    shell.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", TWO_HOMES, "sh"]).arg(program);
    let status = spawn_blocking(move || shell.status()).await.map_err(io::Error::other)??;
    require(status.success(), "ann and bob meet through their NATs (namespaces need root)")
}

/// Everything is in namespaces of this shell, and gone when it ends. Both homes use the same private addresses.
const TWO_HOMES: &str = r#"
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add internet type bridge
ip address add 198.51.100.1/24 dev internet
ip link set internet up
for n in 1 2; do
    ip netns add nat$n
    ip netns add home$n
    ip link add pub netns nat$n type veth peer name to_nat$n
    ip link add lan netns nat$n type veth peer name eth0 netns home$n
    ip link set to_nat$n master internet up
    ip -n nat$n address add 198.51.100.1$n/24 dev pub
    ip -n nat$n address add 10.0.0.1/24 dev lan
    ip -n nat$n link set pub up
    ip -n nat$n link set lan up
    ip -n home$n address add 10.0.0.2/24 dev eth0
    ip -n home$n link set eth0 up
    ip -n home$n route add default via 10.0.0.1
    ip netns exec nat$n sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    ip netns exec nat$n nft -f - <<RULES
        table ip home {
            chain out { type nat hook postrouting priority 100; oifname pub masquerade; }
            chain through { type filter hook forward priority 0; policy drop; iifname lan accept; ct state established accept; }
            chain self { type filter hook input priority 0; iifname pub drop; }
        }
RULES
done
"$1" rendezvous 198.51.100.1:7000 & rendezvous=$!
ip netns exec home1 "$1" meet ann bob 198.51.100.1:7000 & ann=$!
ip netns exec home2 "$1" meet bob ann 198.51.100.1:7000
wait $ann
kill -INT $rendezvous
wait $rendezvous
"#;

/// A listener whose queue is full, at an address that dials are sent from: whoever dials it gets no answer.
struct Wall {
    _listener: TcpListener,
    _filling: TcpStream,
}

impl Wall {
    async fn around(addr: SocketAddr) -> io::Result<Self> {
        let listener = socket_at(addr)?.listen(0)?;
        let filling = spawn_blocking(move || TcpStream::connect_timeout(&addr, PATIENCE));
        Ok(Self { _listener: listener, _filling: filling.await.map_err(io::Error::other)?? })
    }
}

/// A socket that shares its address with others of the same user.
fn socket_at(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

#[derive(Clone)]
struct Member {
    node: Node,
    events: mpsc::UnboundedSender<Event>,
}

type Events = mpsc::UnboundedReceiver<Event>;

enum Event {
    Heard(SocketAddr, String),
    Left(SocketAddr),
}

impl Member {
    async fn start(name: &str, listener_addr: Option<SocketAddr>) -> (Self, Events) {
        let node = Node::new(Config {
            name: Some(name.to_owned()),
            listener_addr,
            max_connections_per_ip: 10,
            // A lost dial is repeated by the system after a second.
            connection_timeout_ms: 1_500,
            ..Default::default()
        });
        let (sender, events) = mpsc::unbounded_channel();
        let member = Self { node, events: sender };
        member.enable_reading().await;
        member.enable_writing().await;
        member.enable_on_disconnect().await;
        (member, events)
    }

    async fn listen(&self) -> io::Result<SocketAddr> {
        self.node.toggle_listener().await?.ok_or_else(|| io::Error::other("the listener was switched off"))
    }

    /// What the rendezvous node does: tells two that want each other where the other one is, as it sees it.
    async fn introduce(&self, events: &mut Events) -> io::Result<()> {
        let mut guests = HashMap::<String, (SocketAddr, String)>::new();
        while let Some(event) = events.recv().await {
            match event {
                Event::Left(addr) => guests.retain(|_, (guest, _)| *guest != addr),
                Event::Heard(addr, text) => {
                    let Some((name, wanted)) = text.split_once(' ') else { continue };
                    // One name for each guest.
                    guests.retain(|_, (guest, _)| *guest != addr);
                    guests.insert(name.to_owned(), (addr, wanted.to_owned()));
                    let Some((other, _)) = guests.get(wanted).filter(|(_, wants)| wants == name) else { continue };
                    self.say(format_args!("{name} is at {addr}, {wanted} at {other}"));
                    // Fails for a guest that is gone; the other one finds out.
                    for (to, about) in [(addr, *other), (*other, addr)] {
                        _ = self.unicast_fast(to, Bytes::from(about.to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the rendezvous node where the other one is, dials it while it dials, and says hello.
    async fn punch(
        &self,
        socket: TcpSocket,
        own: SocketAddr,
        wanted: &str,
        rendezvous: SocketAddr,
        events: &mut Events,
    ) -> io::Result<()> {
        self.dial_rendezvous(rendezvous, socket, own).await?;
        self.unicast_fast(rendezvous, Bytes::from(format!("{} {wanted}", self.node.name())))?;
        let peer = parsed(&heard_from(rendezvous, events, Duration::MAX).await?)?;

        let begun = Instant::now();
        let mut dials = 1;
        // From the same address as to the rendezvous node, since that is the one that the other side dials.
        while let Err(error) = self.node.connect_using_socket(peer, socket_at(own)?).await {
            // Out of time: lost on the way. Refused: this dial came when the other side had just given up one of its own.
            let again = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ConnectionRefused);
            if !again || begun.elapsed() > PATIENCE {
                return Err(error);
            }
            dials += 1;
            sleep(Duration::from_millis(50)).await;
        }
        self.say(format_args!("dialled {peer} from port {}: connected with dial {dials}", own.port()));
        let side = self.side_of(peer).ok_or_else(|| io::Error::other("the connection has ended"))?;
        // A decision at which both ends arrive, though neither has accepted the other.
        let role = if self.node.name() < wanted { "begin" } else { "wait" };
        self.say(format_args!("takes {wanted} for the {side:?}; by the names, it has to {role}"));

        self.unicast_fast(peer, Bytes::from(format!("hello, {wanted}")))?;
        let hello = heard_from(peer, events, PATIENCE).await?;
        require(hello == format!("hello, {}", self.node.name()), "it is the right one at the other end")?;
        self.say(format_args!("{wanted} says {hello:?}"));
        self.node.disconnect(rendezvous).await;
        Ok(())
    }
}

impl Member {
    /// The rendezvous node may not listen yet.
    async fn dial_rendezvous(&self, addr: SocketAddr, socket: TcpSocket, own: SocketAddr) -> io::Result<()> {
        let begun = Instant::now();
        let mut outcome = self.node.connect_using_socket(addr, socket).await;
        while outcome.is_err() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(100)).await;
            outcome = self.node.connect_using_socket(addr, socket_at(own)?).await;
        }
        outcome
    }

    fn side_of(&self, peer: SocketAddr) -> Option<ConnectionSide> {
        self.node.connection_info(peer).map(|info| info.side())
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        println!("{:10} {line}", Colour::of(self.node.name().len()).paint(self.node.name()));
    }
}

impl Pea2Pea for Member {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Reading for Member {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    /// A member waits with the rendezvous node until the other one comes.
    const IDLE_TIMEOUT_MS: u64 = 0;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }

    async fn process_message(&self, source: SocketAddr, message: Self::Message) {
        let text = String::from_utf8_lossy(&message).into_owned();
        // Fails when nobody wants to know any more.
        _ = self.events.send(Event::Heard(source, text));
    }
}

impl Writing for Member {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
        frames()
    }
}

impl OnDisconnect for Member {
    async fn on_disconnect(&self, addr: SocketAddr, _origin: DisconnectOrigin) {
        _ = self.events.send(Event::Left(addr));
    }
}

fn frames() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(256).new_codec()
}

/// The next message of this peer; what others say is of no interest.
async fn heard_from(peer: SocketAddr, events: &mut Events, patience: Duration) -> io::Result<String> {
    let next = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Heard(addr, text) if addr == peer => return Ok(text),
                Event::Left(addr) if addr == peer => break,
                Event::Heard(..) | Event::Left(_) => {}
            }
        }
        Err(io::Error::other(format!("{peer} has gone")))
    };
    timeout(patience, next).await.map_err(|_| io::Error::other(format!("{peer} says nothing")))?
}

fn parsed(addr: &str) -> io::Result<SocketAddr> {
    addr.parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{addr:?} is not an address like 1.2.3.4:5")))
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}

/// How long anything may take, but the other one's coming.
const PATIENCE: Duration = Duration::from_secs(10);
