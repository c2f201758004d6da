//! Kademlia: a distributed hash table of 50 nodes, none of which knows all the others.
//!
//! Shows how a node finds what is stored somewhere with a few questions: nodes and keys have 64-bit ids, the distance of two
//! ids is their XOR, and a value is stored at the 5 nodes whose ids are the closest to its key. A node knows up to 5 others
//! for each length of a common prefix (its buckets), so it knows many that are near and a few that are far. A lookup asks
//! the closest ones that it knows, 3 at a time, and each answer names closer ones. The kernel's connections are dialled when
//! there is something to ask, and a node keeps no more than 8 of them: the one that was not used for longest has to go.
//!
//! ```text
//! cargo run --example kademlia
//! ```
//!
//! You will see, with other figures:
//!
//! ```text
//! 50 nodes joined, each by one other; now they know 7 to 22 of the others
//! 150 values are stored at 5 nodes each, after 656.1ms
//! a key that nobody stored is not found, after 7 nodes were asked
//! node 39 looks for "key 0", whose id begins with 0000000110110110:
//!     hop 1: 0001011011110110.. names 5 others
//!     hop 1: 0100011011000111.. names 5 others
//!     hop 1: 0110010100010010.. names 5 others
//!     hop 2: 0000101000110011.. has it
//! verified: each of the 150 keys is found from each of the 50 nodes, by 1.6 questions on average, in 8.0s
//!     0 hops:   750 lookups #####
//!     1 hops:  5366 lookups ####################################
//!     2 hops:  1380 lookups ##########
//!     3 hops:     4 lookups #
//! 10 of the nodes are shut down, without a word to the others
//! verified: each of the 150 keys is found from each of the 40 nodes, by 1.6 questions on average, in 7.2s
//!     0 hops:   604 lookups ######
//!     1 hops:  4473 lookups ######################################
//!     2 hops:   922 lookups ########
//!     3 hops:     1 lookups #
//! each node asks all that it knows, and forgets those that do not answer
//! verified: each of the 20 keys is found from each of the 40 nodes, by 1.5 questions on average, in 877.8ms
//!     0 hops:    82 lookups ######
//!     1 hops:   630 lookups ########################################
//!     2 hops:    88 lookups ######
//! verified: 271 questions went to nodes that are gone, and 0 after they were forgotten
//! verified: no node kept more than 8 connections for its own questions
//! ```
//!
//! What a real network needs besides: ids and keys by a cryptographic hash, a proof that a node owns its id, values that
//! expire and are stored anew when nodes come and go, and limits for what one node may ask.

#[path = "../common/mod.rs"]
mod common;
mod links;
mod peer;
mod wire;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    time::Instant,
};

use common::Colour;
use futures_util::future::{join_all, try_join_all};
use links::MAX_LINKS;
use peer::{BUCKET, NODES, Peer, Step};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let mut peers = Vec::new();
    for number in 0..NODES {
        peers.push(Peer::start(number).await);
    }
    let outcome = tokio::select! {
        outcome = story(&peers) => outcome,
        () = common::ctrl_c() => Err(io::Error::other("interrupted")),
    };
    join_all(peers.iter().map(|peer| peer.node.shut_down())).await;
    common::exit(outcome)
}

async fn story(peers: &[Peer]) -> io::Result<()> {
    let keys: Vec<_> = (0..if common::is_short() { 20 } else { 150 }).map(|n| format!("key {n}")).collect();

    let contacts = try_join_all(peers.iter().map(Peer::listen)).await?;
    for number in 1..NODES {
        // All that a newcomer knows is one of those who came before it.
        peers[number].join(contacts[number / 2]).await;
    }
    let known: Vec<_> = peers.iter().map(Peer::num_known).collect();
    let (least, most) = (known.iter().min().unwrap_or(&0), known.iter().max().unwrap_or(&0));
    println!("{NODES} nodes joined, each by one other; now they know {least} to {most} of the others");

    let begun = Instant::now();
    let stored =
        join_all(keys.iter().enumerate().map(|(n, key)| peers[n * 7 % NODES].store(key, format!("value of {key}"))));
    let copies = stored.await;
    require(copies.iter().all(|copies| *copies == BUCKET), "each value has all its copies")?;
    println!("{} values are stored at {BUCKET} nodes each, after {:.1?}", keys.len(), begun.elapsed());

    let nobody = peers[0].look_up(Peer::key("a key that nobody stored"), true).await;
    require(nobody.value.is_none(), "there is no such value")?;
    println!("a key that nobody stored is not found, after {} nodes were asked", nobody.trail.len());

    show_one(peers, &keys).await?;
    find_all(peers, &keys, &HashSet::new()).await?;

    let (gone, left): (Vec<_>, Vec<_>) = peers.iter().cloned().partition(|peer| peer.number % 5 == 3);
    join_all(gone.iter().map(|peer| peer.node.shut_down())).await;
    println!("{} of the nodes are shut down, without a word to the others", gone.len());
    let gone = gone.iter().map(|peer| peer.id).collect();
    let in_vain = find_all(&left, &keys, &gone).await?;
    require(in_vain > 0, "some nodes know some of those that are gone")?;
    println!("each node asks all that it knows, and forgets those that do not answer");
    join_all(left.iter().map(Peer::refresh)).await;
    let still_in_vain = find_all(&left, &keys[..20], &gone).await?;
    require(still_in_vain == 0, &format!("nobody is asked who is forgotten; {still_in_vain} times"))?;
    println!("verified: {in_vain} questions went to nodes that are gone, and 0 after they were forgotten");

    let most = peers.iter().map(Peer::most_links).max().unwrap_or(0);
    require((1..=MAX_LINKS).contains(&most), "a node keeps few connections")?;
    println!("verified: no node kept more than {most} connections for its own questions");
    Ok(())
}

/// One lookup, question by question: the one with the most hops from some nodes.
async fn show_one(peers: &[Peer], keys: &[String]) -> io::Result<()> {
    let lookups = peers.iter().map(|peer| async move { (peer, peer.look_up(Peer::key(&keys[0]), true).await) });
    let lookups = join_all(lookups).await;
    let longest = lookups.iter().max_by_key(|(_, lookup)| (lookup.hops, lookup.trail.len()));
    let Some((peer, lookup)) = longest else { return Ok(()) };
    println!(
        "node {} looks for {:?}, whose id begins with {}:",
        peer.number,
        keys[0],
        &format!("{:064b}", Peer::key(&keys[0]))[..16]
    );
    for Step { contact, hop, outcome } in &lookup.trail {
        let shared = (contact.id ^ Peer::key(&keys[0])).leading_zeros() as usize;
        let bits = format!("{:064b}", contact.id);
        let (same, other) = bits[..16].split_at(shared.min(16));
        println!("    hop {hop}: {}{other}.. {outcome}", Colour::Green.paint(same));
    }
    Ok(())
}

/// Looks for every key from every node; returns how many questions went to nodes that are gone.
async fn find_all(peers: &[Peer], keys: &[String], gone: &HashSet<u64>) -> io::Result<usize> {
    let begun = Instant::now();
    let from_each = peers.iter().map(|peer| async move {
        let mut lookups = Vec::new();
        for key in keys {
            let lookup = peer.look_up(Peer::key(key), true).await;
            let right = lookup.value.as_deref() == Some(format!("value of {key}").as_bytes());
            require(right, &format!("node {} finds {key:?}", peer.number))?;
            let in_vain = lookup.trail.iter().filter(|step| gone.contains(&step.contact.id)).count();
            lookups.push((lookup.hops, lookup.trail.len(), in_vain));
        }
        Ok::<_, io::Error>(lookups)
    });
    let lookups = try_join_all(from_each).await?.concat();
    let asked: usize = lookups.iter().map(|(_, asked, _)| asked).sum();
    println!(
        "verified: each of the {} keys is found from each of the {} nodes, by {:.1} questions on average, in {:.1?}",
        keys.len(),
        peers.len(),
        asked as f64 / lookups.len() as f64,
        begun.elapsed()
    );
    let mut by_hops = BTreeMap::<_, usize>::new();
    lookups.iter().for_each(|(hops, ..)| *by_hops.entry(*hops).or_default() += 1);
    for (hops, count) in by_hops {
        let bar = "#".repeat((count * 50).div_ceil(lookups.len()));
        println!("    {hops} hops: {count:5} lookups {}", Colour::Cyan.paint(bar));
    }
    Ok(lookups.iter().map(|(.., in_vain)| in_vain).sum())
}

fn require(holds: bool, claim: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(format!("this does not hold: {claim}"))) }
}
