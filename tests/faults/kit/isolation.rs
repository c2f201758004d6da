//! One process for each row: what it counts (file descriptors, heap, log lines, CPU) is its own, and what it breaks too.
//! The test runs its own executable again, for itself alone.

use std::{
    env,
    process::{Child, Command, Stdio, exit},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Verdict, descriptors, is_full_size, logs, stage::Stage};
use crate::common::DELIBERATE;

const MARK: &str = "FAULTS_ROW";

/// A check of a row, and why it has to fail: its defence is switched off.
pub type Canary = (&'static str, fn(&Stage) -> Verdict, &'static str);

/// Defines the test of a row: the check with its defence, and the canaries, each the same check without the defence, with
/// a part of what it says then.
#[macro_export]
macro_rules! row {
    ($(#[$attribute:meta])* $name:ident, $defended:expr, [$($defence:literal off: $canary:expr => $reason:literal),+ $(,)?]) => {
        #[test]
        $(#[$attribute])*
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            $crate::kit::isolation::run(&[], path, $defended, &[$(($defence, $canary, $reason)),+]);
        }
    };
}

/// Runs a row in processes of its own, started by the given command: the check with its defence and those without. They
/// run side by side, or, in the full size, one after the other and without other rows beside them.
pub fn run(starter: &[&str], path: &str, defended: fn(&Stage) -> Verdict, canaries: &[Canary]) {
    let name = path.split_once("::").map_or(path, |(_target, name)| name);
    if let Some(part) = part_of(name) {
        return run_here(name, part, defended, canaries);
    }
    let parts = (0..=canaries.len()).map(|part| start(starter, name, part));
    if is_full_size() {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        parts.for_each(finish);
    } else {
        parts.collect::<Vec<_>>().into_iter().for_each(finish);
    }
}

/// The part of the row that this process is for: 0 is the check with its defence, the canaries follow.
fn part_of(name: &str) -> Option<usize> {
    let mark = env::var(MARK).ok()?;
    let (marked, part) = mark.split_once('#')?;
    (marked == name).then(|| part.parse().unwrap())
}

fn start(starter: &[&str], name: &str, part: usize) -> Child {
    let executable = env::current_exe().unwrap();
    let mut command = match starter {
        [] => Command::new(executable),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(executable);
            command
        }
    };
    command.args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(MARK, format!("{name}#{part}")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the test can run itself")
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let is_green = output.status.success() && stdout.contains("1 passed");
    for line in stdout.lines().filter(|line| !is_green || line.starts_with("row ")) {
        println!("{line}");
    }
    assert!(is_green, "failed in a process of its own ({}):\n{stderr}", output.status);
}

fn run_here(name: &str, part: usize, defended: fn(&Stage) -> Verdict, canaries: &[Canary]) {
    end_in_time();
    logs::install();
    watch_panics();
    descriptors::raise();
    let (stage, since) = (Stage::new(), Instant::now());
    let Some((defence, canary, expected)) = part.checked_sub(1).map(|canary| canaries[canary]) else {
        match defended(&stage) {
            Ok(figures) => return println!("\nrow {name} [{:.1?}]: {figures}", since.elapsed()),
            Err(reason) => panic!("{reason}; log: {:?}", logs::evidence()),
        }
    };
    match canary(&stage) {
        Ok(figures) => panic!("the canary sings: without {defence} the check holds as well: {figures}"),
        Err(reason) => {
            assert!(reason.contains(expected), "without {defence} the check fails, but for another reason: {reason}");
            println!("\nrow {name}, without {defence} [{:.1?}]: {reason}", since.elapsed());
        }
    }
}

/// Ends the process when it takes far too long, whatever hangs.
fn end_in_time() {
    let limit = Duration::from_secs(if is_full_size() { 1_800 } else { 170 });
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("still not done after {limit:?}");
        exit(101);
    });
}

static UNWANTED_PANICS: AtomicUsize = AtomicUsize::new(0);

/// How many panics there were, caught or not, that no row wanted.
pub fn unwanted_panics() -> usize {
    UNWANTED_PANICS.load(Ordering::SeqCst)
}

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<&str>().copied();
            let text = text.or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
            if text != Some(DELIBERATE) {
                UNWANTED_PANICS.fetch_add(1, Ordering::SeqCst);
                usual(info);
            }
        }));
    });
}
