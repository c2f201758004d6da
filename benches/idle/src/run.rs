//! The run: start the processes, let them connect, measure, let them talk, measure again.

use std::{
    env,
    io::{IsTerminal, Write, stderr},
    thread,
    time::{Duration, Instant},
};

use crate::{
    process::Process,
    report::{self, Figures, Memory},
};

pub fn run() {
    let library = env::var("IDLE_CRATE").unwrap_or_else(|_| "ours".to_owned());
    let connections = number("IDLE_CONNECTIONS", 10_000);
    let per_process = number("IDLE_PER_PROCESS", 8_000);
    assert!(
        (1..=8_000).contains(&per_process),
        "IDLE_PER_PROCESS must be 1 to 8000: processes have few file descriptors"
    );
    let groups = connections.div_ceil(per_process);
    assert!(groups <= 255, "that would be more than 255 processes");

    let mut listening = vec![Process::start("listens", &library, 0, 0)];
    let port = listen(&mut listening[0]);
    for index in 1..groups {
        let mut process = Process::start("listens", &library, port, index);
        assert_eq!(listen(&mut process), port);
        listening.push(process);
    }
    let mut dialling: Vec<Process> = (0..groups).map(|index| Process::start("dials", &library, port, index)).collect();
    let base = [memory(&mut listening), memory(&mut dialling)];

    let start = Instant::now();
    for (index, process) in dialling.iter_mut().enumerate() {
        // The remainder is spread over the first ones.
        let share = connections / groups + usize::from(index < connections % groups);
        process.order(&format!("connect {share}"));
        process.answer();
    }
    let target = connections as i64;
    wait_for("connected", target, || sum(&mut dialling)[0].min(sum(&mut listening)[0]));
    let took = start.elapsed();
    let shares: Vec<i64> = listening.iter_mut().map(|process| process.numbers("state")[0]).collect();
    let before = [memory(&mut listening), memory(&mut dialling)];

    for process in &mut dialling {
        process.order("talk");
        process.answer();
    }
    wait_for("answered", target, || sum(&mut dialling)[1]);
    let after = [memory(&mut listening), memory(&mut dialling)];
    let [still_dialled, still_accepted] = [sum(&mut dialling)[0], sum(&mut listening)[0]];
    assert_eq!((still_dialled, still_accepted), (target, target), "connections were lost");

    report::write(&Figures { library, connections, groups, took, shares, base, before, after });
}

fn listen(process: &mut Process) -> u16 {
    process.order("listen");
    process.answer().parse().expect("a port")
}

/// The heap and the resident memory of some processes together; they settle side by side.
fn memory(processes: &mut [Process]) -> Memory {
    processes.iter_mut().for_each(|process| process.order("measure"));
    let mut memory = Memory::default();
    for process in processes {
        let answer = process.answer();
        let (heap, resident) = answer.split_once(' ').expect("two numbers");
        memory.heap += heap.parse::<i64>().expect("a number");
        memory.resident += resident.parse::<i64>().expect("a number");
    }
    memory
}

/// How many connections are live, and how many messages have come, in some processes together.
fn sum(processes: &mut [Process]) -> [i64; 2] {
    processes
        .iter_mut()
        .map(|process| process.numbers("state"))
        .fold([0, 0], |sum, state| [sum[0] + state[0], sum[1] + state[1]])
}

/// Shows progress until a number is reached; gives up when it has not moved for long.
fn wait_for(what: &str, target: i64, mut reached: impl FnMut() -> i64) {
    let (mut last, mut moved) = (-1, Instant::now());
    loop {
        let now = reached();
        if now != last {
            (last, moved) = (now, Instant::now());
            show(what, now, target);
        }
        if now >= target {
            break;
        }
        assert!(moved.elapsed() < PATIENCE, "only {now} of {target} connections {what}");
        thread::sleep(Duration::from_millis(100));
    }
    eprintln!();
}

fn show(what: &str, now: i64, target: i64) {
    let filled = (now * BAR / target.max(1)).clamp(0, BAR) as usize;
    let bar = format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR as usize - filled));
    if stderr().is_terminal() {
        eprint!("\r{bar} {now}/{target} {what}");
        _ = stderr().flush();
    } else if now >= target {
        eprint!("{bar} {now}/{target} {what}");
    }
}

fn number(variable: &str, default: usize) -> usize {
    let Ok(value) = env::var(variable) else { return default };
    value.parse().ok().filter(|number| *number > 0).unwrap_or_else(|| panic!("{variable} must be a number above 0"))
}

const BAR: i64 = 24;

/// Without a new connection or message for this long, none will come.
const PATIENCE: Duration = Duration::from_secs(60);
