//! One run of one contender, in a process of its own.

use std::{
    env,
    io::Read,
    process::{Command, Stdio, exit},
    thread,
    time::{Duration, Instant},
};

use crate::{
    contenders,
    workloads::workload::{Contender, Sample, Workload},
};

/// Runs a workload in a new process; `None` if the contender does not do it.
///
/// # Errors
///
/// What the process said when it failed, or that it took too long.
pub fn in_a_process_of_its_own(contender: &Contender, workload: usize) -> Result<Option<Sample>, String> {
    let itself = env::current_exe().expect("the path of this program");
    let mut child = Command::new(itself)
        .args([FLAG, contender.name, &workload.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("another process");

    let deadline = Instant::now() + Workload::TIME_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > deadline {
            // It may end just now.
            _ = child.kill();
            _ = child.wait();
            return Err(format!("not done after {} s", Workload::TIME_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(10));
    };

    // What it prints fits into a pipe, so it never waited for a reader.
    let (mut printed, mut said) = (String::new(), String::new());
    _ = child.stdout.take().expect("piped").read_to_string(&mut printed);
    _ = child.stderr.take().expect("piped").read_to_string(&mut said);
    if !status.success() {
        let said = said.lines().filter(|line| !line.starts_with("note:")).take(4).collect::<Vec<_>>().join(" ");
        return Err(format!("{status}: {}", said.trim()));
    }
    let values = printed.lines().map(|line| line.parse().expect("a number")).collect::<Sample>();
    Ok((!values.is_empty()).then_some(values))
}

/// Runs the workload that this process was started for, if it was, and ends the process.
pub fn take_one_if_asked(workloads: &[Workload], workers: usize) {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [flag, contender, workload] = &arguments[..] else { return };
    assert_eq!(flag, FLAG, "this program takes its settings from environment variables");
    let contender = contenders::ALL.iter().find(|one| one.name == contender).expect("a contender");
    let workload = &workloads[workload.parse::<usize>().expect("the number of a workload")];
    for value in (contender.run)(workload, workers).unwrap_or_default() {
        println!("{value}");
    }
    exit(0);
}

/// Comes before the name of the contender and the number of the workload.
const FLAG: &str = "--sample";
