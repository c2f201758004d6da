use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    cipher::{FRAMES_PER_KEY, TAG},
    codec::{HEADER, LENGTH, MAX_PLAINTEXT, wire_size},
    *,
};

const KEY: [u8; 32] = [7; 32];

fn sealer() -> Sealer {
    Sealer::new(Cipher::new(&KEY).unwrap())
}

fn opener() -> Opener {
    Opener::new(Cipher::new(&KEY).unwrap())
}

fn sealed(messages: &[Bytes], says_goodbye: bool) -> BytesMut {
    let (mut sealer, mut wire) = (sealer(), BytesMut::new());
    for message in messages {
        sealer.encode(message.clone(), &mut wire).unwrap();
    }
    if says_goodbye {
        sealer.encode(Outgoing::Goodbye, &mut wire).unwrap();
    }
    wire
}

/// Decodes as the kernel does, in pieces of the given sizes, to the end of the stream; returns what came and how it ended.
fn opened(wire: &[u8], pieces: &[usize]) -> (Vec<BytesMut>, io::Result<()>, Option<Ending>) {
    let (mut opener, mut buffer, mut messages) = (opener(), BytesMut::new(), Vec::new());
    let mut pieces = pieces.iter().copied().cycle();
    let mut rest = wire;
    let outcome = (|| {
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(pieces.next().unwrap_or(rest.len()).min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = behind;
            while let Some(message) = opener.decode(&mut buffer)? {
                messages.push(message);
            }
        }
        while let Some(message) = opener.decode_eof(&mut buffer)? {
            messages.push(message);
        }
        Ok(())
    })();
    (messages, outcome, opener.wire().ending())
}

fn message() -> impl Strategy<Value = Bytes> {
    let edge = MAX_PLAINTEXT - HEADER;
    let size = prop_oneof![
        0_usize..100,
        edge - 2..edge + 3,
        edge + MAX_PLAINTEXT - 2..edge + MAX_PLAINTEXT + 3,
        Just(200_000_usize),
    ];
    (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect())
}

fn small_message() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_arrive_however_the_stream_is_cut_into_pieces(
        messages in vec(message(), 0..6),
        pieces in vec(prop_oneof![1_usize..30, 1_usize..200_000], 1..20),
    ) {
        let wire = sealed(&messages, true);
        // Byte by byte, a megabyte would take long.
        let pieces = if wire.len() > 10_000 { pieces.iter().map(|size| size.max(&500)).copied().collect() } else { pieces };
        let (arrived, outcome, ending) = opened(&wire, &pieces);
        prop_assert_eq!(arrived, messages);
        prop_assert!(outcome.is_ok());
        prop_assert_eq!(ending, Some(Ending::Goodbye));
    }

    #[test]
    fn the_size_on_the_wire_is_known_before(message in message()) {
        prop_assert_eq!(sealed(std::slice::from_ref(&message), false).len(), wire_size(message.len()));
    }

    #[test]
    fn a_flipped_bit_anywhere_ends_the_stream_and_changes_no_message(
        messages in vec(small_message(), 1..6),
        at: prop::sample::Index,
        bit in 0_u8..8,
        pieces in vec(1_usize..40, 1..8),
    ) {
        let mut wire = sealed(&messages, true);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let (arrived, outcome, ending) = opened(&wire, &pieces);
        prop_assert!(arrived.len() <= messages.len());
        prop_assert_eq!(&arrived[..], &messages[..arrived.len()]);
        prop_assert!(outcome.is_err());
        prop_assert!(matches!(ending, Some(Ending::Tampered | Ending::CutOff)), "{:?}", ending);
    }

    #[test]
    fn a_stream_that_ends_early_is_noticed_wherever_it_ends(
        messages in vec(small_message(), 1..6),
        at: prop::sample::Index,
        pieces in vec(1_usize..40, 1..8),
    ) {
        let wire = sealed(&messages, true);
        let (arrived, outcome, ending) = opened(&wire[..at.index(wire.len())], &pieces);
        prop_assert_eq!(&arrived[..], &messages[..arrived.len()]);
        prop_assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
        prop_assert_eq!(ending, Some(Ending::CutOff));
    }
}

#[test]
fn every_single_bit_matters() {
    let messages = ["first", "", "a longer one"].map(Bytes::from);
    let wire = sealed(&messages, true);
    for bit in 0..wire.len() * 8 {
        let mut wire = wire.clone();
        wire[bit / 8] ^= 1 << (bit % 8);
        let (arrived, outcome, ending) = opened(&wire, &[usize::MAX]);
        assert_eq!(arrived, messages[..arrived.len()]);
        assert!(outcome.is_err() && ending != Some(Ending::Goodbye), "bit {bit}");
    }
}

#[test]
fn frames_that_are_left_out_doubled_or_swapped_are_noticed() {
    let messages = ["first", "other", "third"].map(Bytes::from);
    let wire = sealed(&messages, true);
    let frames: Vec<&[u8]> = wire[..3 * wire_size(5)].chunks(wire_size(5)).collect();
    for order in [&[1, 0, 2][..], &[0, 0, 1, 2], &[0, 2]] {
        let mixed = order.iter().map(|which| frames[*which]).collect::<Vec<_>>().concat();
        let (arrived, outcome, ending) = opened(&mixed, &[1_000]);
        assert_eq!(arrived, messages[..arrived.len()]);
        assert!(outcome.is_err(), "{order:?}");
        assert_eq!(ending, Some(Ending::Tampered), "{order:?}");
    }
}

#[test]
fn no_part_of_a_message_is_on_the_wire() {
    let message: Bytes = b"attack at dawn, ".repeat(10_000).into();
    let wire = sealed(std::slice::from_ref(&message), false);
    assert!(!wire.windows(8).any(|window| window == b"attack a"));
}

#[test]
fn messages_cross_the_renewals_of_the_key() {
    let messages: Vec<Bytes> = (0..2 * FRAMES_PER_KEY + 10).map(|number| number.to_string().into()).collect();
    let (mut sealer, mut opener, mut wire) = (sealer(), opener(), BytesMut::new());
    for message in &messages {
        sealer.encode(message.clone(), &mut wire).unwrap();
    }
    for message in &messages {
        assert_eq!(opener.decode(&mut wire).unwrap().as_deref(), Some(&message[..]));
    }
    assert_eq!((sealer.wire().renewals(), opener.wire().renewals()), (2, 2));
}

#[test]
fn a_message_may_begin_with_one_key_and_end_with_another() {
    let near = |nonce| Cipher::starting_at(&KEY, nonce).unwrap();
    let (mut sealer, mut opener) = (Sealer::new(near(FRAMES_PER_KEY - 2)), Opener::new(near(FRAMES_PER_KEY - 2)));
    let message = Bytes::from(vec![3; 5 * MAX_PLAINTEXT]);
    let mut wire = BytesMut::new();
    sealer.encode(message.clone(), &mut wire).unwrap();
    assert_eq!(opener.decode(&mut wire).unwrap().as_deref(), Some(&message[..]));
    assert_eq!(opener.wire().renewals(), 1);
}

#[test]
fn whoever_misses_a_renewal_understands_nothing_after_it() {
    let mut sealing = Cipher::starting_at(&KEY, FRAMES_PER_KEY - 1).unwrap();
    sealing.seal(&mut []).unwrap();
    let mut frame = *b"secret";
    let tag = sealing.seal(&mut frame).unwrap();
    let mut stale = Cipher::starting_at(&KEY, FRAMES_PER_KEY).unwrap();
    assert!(stale.open(&mut [&frame[..], &tag].concat()).is_err());
}

#[test]
fn the_last_number_is_never_used_for_a_frame() {
    let last = u64::MAX - 1;
    let (mut sealing, mut opening) =
        (Cipher::starting_at(&KEY, last).unwrap(), Cipher::starting_at(&KEY, last).unwrap());
    let mut frame = sealing.seal(&mut []).unwrap();
    assert_eq!(opening.open(&mut frame).unwrap(), 0);
    assert!(sealing.seal(&mut []).is_err());
    assert!(opening.open(&mut [0; TAG]).is_err());
}

#[test]
fn frames_and_renewals_are_those_of_the_noise_specification() {
    let [mut ours, mut theirs] = handshaken();
    let (to_listener, _) = ours.dangerously_get_raw_split();
    let mut cipher = Cipher::new(&to_listener).unwrap();
    let _same_keys = theirs.dangerously_get_raw_split();
    let mut snow = theirs.into_transport_mode().unwrap();
    for number in 0..2 * FRAMES_PER_KEY + 5 {
        let mut frame = number.to_be_bytes();
        let tag = cipher.seal(&mut frame).unwrap();
        let mut plaintext = [0; 64];
        let length = snow.read_message(&[&frame[..], &tag].concat(), &mut plaintext).unwrap();
        assert_eq!(plaintext[..length], number.to_be_bytes());
        if (number + 1) % FRAMES_PER_KEY == 0 {
            snow.rekey_incoming();
        }
    }
}

fn handshaken() -> [HandshakeState; 2] {
    let keys = [(); 2].map(|()| Identity::generate().unwrap());
    let state = |which: usize| builder(PATTERN).unwrap().local_private_key(&keys[which].private).unwrap();
    let (mut dialler, mut listener) = (state(0).build_initiator().unwrap(), state(1).build_responder().unwrap());
    let (mut message, mut payload) = ([0; 200], [0; 200]);
    for dialler_speaks in [true, false, true] {
        let (from, to) = if dialler_speaks { (&mut dialler, &mut listener) } else { (&mut listener, &mut dialler) };
        let length = from.write_message(&[], &mut message).unwrap();
        to.read_message(&message[..length], &mut payload).unwrap();
    }
    [dialler, listener]
}

/// What a member that keeps the keys but not the rules could send.
fn against_the_rules(frames: &[&[u8]]) -> (Vec<BytesMut>, io::Result<()>, Option<Ending>) {
    let (mut cipher, mut wire) = (Cipher::new(&KEY).unwrap(), Vec::new());
    for frame in frames {
        let mut frame = frame.to_vec();
        let tag = cipher.seal(&mut frame).unwrap();
        wire.extend(u16::try_from(frame.len() + TAG).unwrap().to_be_bytes());
        wire.extend([&frame[..], &tag].concat());
    }
    opened(&wire, &[70_000])
}

#[test]
fn frames_against_the_rules_end_the_stream() {
    let full = [&u32::try_from(MAX_PLAINTEXT).unwrap().to_be_bytes()[..], &[0; MAX_PLAINTEXT - HEADER]].concat();
    let cases: [(&str, &[&[u8]]); 7] = [
        ("a message that is too long", &[&u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes()]),
        ("no length", &[&[0; HEADER - 1]]),
        ("a frame longer than its message", &[&[0, 0, 0, 1, 1, 1]]),
        ("a first frame that is not full", &[&[0, 0, 0, 2, 1], &[1]]),
        ("an empty frame", &[&full, &[]]),
        ("a goodbye with a message", &[&[0xff, 0xff, 0xff, 0xff, 1]]),
        ("a message after the goodbye", &[&[0xff; HEADER], &[0, 0, 0, 0]]),
    ];
    for (case, frames) in cases {
        let (arrived, outcome, _) = against_the_rules(frames);
        assert!(arrived.is_empty(), "{case}");
        assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData), "{case}");
    }
    let too_short_for_a_tag = [0, 3, 1, 2, 3];
    assert!(opened(&too_short_for_a_tag, &[LENGTH + 3]).1.is_err());
}

#[test]
fn what_is_too_long_is_not_sent() {
    let error = sealer().encode(Bytes::from(vec![0; MAX_MESSAGE + 1]), &mut BytesMut::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// Both ends of a handshake with the given secrets, each trusting the other or nobody.
async fn handshake(secrets: [Option<SharedSecret>; 2], trusts: [bool; 2]) -> [io::Result<Session>; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialler = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (listener, _) = listener.accept().await.unwrap();
    let run = |mut stream: TcpStream, side, which: usize| async move {
        let identity = Identity::generate().unwrap();
        // The stream ends with the handshake: the other end is not left waiting.
        secure(&mut stream, side, &identity, secrets[which].as_ref(), |_| trusts[which]).await
    };
    let (dialler, listener) =
        tokio::join!(run(dialler, ConnectionSide::Initiator, 0), run(listener, ConnectionSide::Responder, 1));
    [dialler, listener]
}

fn kinds(outcomes: &[io::Result<Session>; 2]) -> [Option<io::ErrorKind>; 2] {
    [0, 1].map(|which| outcomes[which].as_ref().err().map(io::Error::kind))
}

#[tokio::test]
async fn both_ends_talk_after_either_handshake() {
    for secret in [None, Some([1; 32])] {
        let [dialler, listener] = handshake([secret; 2], [true; 2]).await;
        let (mut dialler, mut listener) = (dialler.unwrap(), listener.unwrap());
        for (from, to) in [(&mut dialler.sealer, &mut listener.opener), (&mut listener.sealer, &mut dialler.opener)] {
            let mut wire = BytesMut::new();
            from.encode(Bytes::from_static(b"hello"), &mut wire).unwrap();
            assert_eq!(to.decode(&mut wire).unwrap().as_deref(), Some(&b"hello"[..]));
        }
        assert_ne!(dialler.peer, listener.peer);
    }
}

#[tokio::test]
async fn a_dialler_that_is_not_trusted_learns_that_it_was_not_let_in() {
    let outcomes = handshake([None; 2], [true, false]).await;
    assert_eq!(kinds(&outcomes), [Some(io::ErrorKind::PermissionDenied); 2]);
}

#[tokio::test]
async fn a_listener_that_is_not_trusted_is_left() {
    let [dialler, listener] = kinds(&handshake([None; 2], [false, true]).await);
    assert_eq!(dialler, Some(io::ErrorKind::PermissionDenied));
    assert!(listener.is_some());
}

#[tokio::test]
async fn without_the_same_secret_there_is_no_session() {
    for secrets in [[Some([1; 32]), Some([2; 32])], [Some([1; 32]), None], [None, Some([1; 32])]] {
        let outcomes = handshake(secrets, [true; 2]).await;
        assert!(outcomes.iter().all(Result::is_err), "{secrets:?}: {:?}", kinds(&outcomes));
    }
}
