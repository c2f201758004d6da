//! Runs each integration test alone, with the leak ledger kept (`common/ledger.rs` says what that is), and shows that the
//! ledger sees what leaks.
//!
//! `cargo test --test ledger -- --ignored --nocapture` runs all of them, two at a time. A test that does not go through the
//! ledger counts as a failure.

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    future::pending,
    mem,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Instant,
};

use common::{local_config, nodes::listed};
use pea2pea::Node;

/// The binaries whose tests have ledgers of their own, or are not about what is left.
const ELSEWHERE: [(&str, &str); 5] = [
    ("benches", "shows that the benches can run; takes minutes"),
    ("chaos", "keeps a ledger of its own over the whole run"),
    ("evil", "keeps a ledger of its own over all rows"),
    ("faults", "keeps a ledger of its own for each row"),
    ("netns", "keeps a ledger of its own for each row; needs root"),
];

/// How many tests run at once, each in its own process.
const AT_ONCE: usize = 2;

/// A test of a binary, which has the name of its file or folder.
#[derive(Debug)]
struct Test {
    file: String,
    binary: PathBuf,
    name: String,
}

impl Test {
    /// Runs the test in a process of its own; tells what the ledger, or the test itself, complains of.
    fn run(&self, variables: &[(&str, &str)]) -> Result<(), String> {
        let output = Command::new(&self.binary)
            .args(["--exact", &self.name, "--nocapture", "--test-threads=1"])
            .env("RUST_BACKTRACE", "0")
            .env_remove(KEPT.0)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if !output.status.success() {
            return Err(text.into_owned());
        }
        // Also when the test is there no longer, or is ignored: then nothing has run.
        match text.matches(ledger::BALANCED).count() {
            1 => Ok(()),
            count => Err(format!("went through the ledger {count} times")),
        }
    }
}

const KEPT: (&str, &str) = ("LEAK_LEDGER", "1");

/// The binaries of the integration tests, by the names of their files or folders.
fn binaries() -> Vec<(String, PathBuf)> {
    let mut cargo = Command::new(env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["test", "--test", "*", "--no-run", "--message-format", "json"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if cfg!(feature = "test") {
        cargo.args(["--features", "test"]);
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let binary = |message| Some((text_of(message, "name")?.to_owned(), text_of(message, "executable")?.into()));
    messages.lines().filter_map(binary).collect()
}

/// How many files and folders cargo takes for integration tests.
fn num_binaries() -> usize {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension() == Some(OsStr::new("rs")) || path.join("main.rs").exists()).count()
}

/// The text of a key in one of cargo's messages, which have neither spaces nor, in paths, anything escaped.
fn text_of<'a>(message: &'a str, key: &str) -> Option<&'a str> {
    message.split_once(&format!("\"{key}\":\""))?.1.split('"').next()
}

/// The names of the tests of a binary, the ignored ones among them.
fn names(binary: &Path) -> Vec<String> {
    let output = Command::new(binary).args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    assert!(output.status.success() && !names.is_empty(), "{} lists no tests", binary.display());
    names
}

#[test]
#[ignore = "runs every integration test once more, alone; takes a minute or two of both cores"]
fn after_each_test_everything_is_as_before() {
    let began = Instant::now();
    let (kept_elsewhere, kept_here): (Vec<_>, Vec<_>) =
        binaries().into_iter().partition(|(file, _)| ELSEWHERE.iter().any(|(elsewhere, _)| file == elsewhere));
    assert_eq!(kept_elsewhere.len(), ELSEWHERE.len(), "an exception is out of date");
    assert_eq!(kept_here.len() + kept_elsewhere.len(), num_binaries(), "a binary is not run");
    for (file, reason) in ELSEWHERE {
        println!("not here: {file}, which {reason}");
    }
    let tests = kept_here.iter().flat_map(|(file, binary)| {
        let test = |name| Test { file: file.clone(), binary: binary.clone(), name };
        names(binary).into_iter().map(test)
    });
    // This very test.
    let own = |test: &Test| test.file == "ledger" && test.name == "after_each_test_everything_is_as_before";
    let tests: Vec<_> = tests.filter(|test| !own(test)).collect();
    let (count, complaints, times) = (tests.len(), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let tests = Mutex::new(tests.into_iter());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(test) = { tests.lock().unwrap().next() } {
                    let began = Instant::now();
                    if let Err(complaint) = test.run(&[KEPT]) {
                        println!("--- {} {}\n{complaint}", test.file, test.name);
                        complaints.lock().unwrap().push(format!("{} {}", test.file, test.name));
                    }
                    times.lock().unwrap().push((began.elapsed(), test));
                }
            });
        }
    });
    let (complaints, mut times) = (complaints.into_inner().unwrap(), times.into_inner().unwrap());
    times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    for (time, test) in times.iter().take(5) {
        println!("{time:.1?}: {} {}", test.file, test.name);
    }
    assert_eq!(times.len(), count);
    println!("{count} tests of {} binaries, {} failures, {:.0?}", kept_here.len(), complaints.len(), began.elapsed());
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Tests that leak when the environment asks them to.
mod on_purpose {
    use super::*;

    pub(super) const VARIABLE: &str = "LEAK_ON_PURPOSE";

    fn leaks() -> bool {
        env::var_os(VARIABLE).is_some()
    }

    fn leak<T>(value: T) {
        if leaks() {
            mem::forget(value);
        }
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn a_byte() {
        leak(Box::new(7_u8));
    }

    #[test]
    fn a_byte_without_a_runtime() {
        ledger::check(|| leak(Box::new(7_u8)));
    }

    #[tokio::test(crate = "crate::ledger", flavor = "multi_thread", worker_threads = 2)]
    async fn a_byte_on_another_thread() {
        tokio::spawn(async { leak(Box::new(7_u8)) }).await.unwrap();
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn a_file() {
        leak(File::open("Cargo.toml").unwrap());
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn a_thread() {
        if leaks() {
            thread::spawn(|| {
                loop {
                    thread::park();
                }
            });
        }
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn a_task() {
        if leaks() {
            tokio::spawn(pending::<()>());
        }
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn a_node_that_listens() {
        let node = if leaks() { Node::new(local_config()) } else { listed(local_config()) };
        node.toggle_listener().await.unwrap();
    }

    #[tokio::test(crate = "crate::ledger")]
    async fn what_is_known_of_a_connection() {
        let [one, other] = [(); 2].map(|()| listed(local_config()));
        let addr = other.toggle_listener().await.unwrap().unwrap();
        one.connect(addr).await.unwrap();
        leak(one.connection_info(addr));
    }
}

/// Runs one of the tests that may leak.
fn run_on_purpose(name: &str, variables: &[(&str, &str)]) -> Result<(), String> {
    let name = format!("on_purpose::{name}");
    Test { file: "ledger".into(), binary: env::current_exe().unwrap(), name }.run(variables)
}

#[test]
fn what_leaks_is_reported() {
    ledger::check(|| {
        let leaks = [
            ("a_byte", "has left 1 bytes of heap, 0 threads, 0 files"),
            ("a_byte_without_a_runtime", "has left 1 bytes of heap, 0 threads, 0 files"),
            ("a_byte_on_another_thread", "has left 1 bytes of heap, 0 threads, 0 files"),
            ("a_file", "Cargo.toml"),
            ("a_thread", " 1 threads"),
            ("a_task", "has left 1 tasks"),
            ("a_node_that_listens", "has left 1 tasks"),
            ("what_is_known_of_a_connection", "bytes of heap, 0 threads, 0 files"),
        ];
        // At once: each is given time to settle.
        thread::scope(|scope| {
            for (name, expected) in leaks {
                scope.spawn(move || {
                    assert_eq!(run_on_purpose(name, &[KEPT]), Ok(()), "{name}");
                    let complaint = run_on_purpose(name, &[KEPT, (on_purpose::VARIABLE, "1")]).expect_err(name);
                    assert!(complaint.contains(expected), "{name}: {complaint}");
                });
            }
        });
    });
}

#[test]
fn a_test_that_does_not_go_through_the_ledger_is_reported() {
    ledger::check(|| {
        let complaint = Err("went through the ledger 0 times".to_owned());
        assert_eq!(run_on_purpose("a_byte", &[]), complaint);
        assert_eq!(run_on_purpose("a_test_that_is_not_there", &[KEPT]), complaint);
    });
}

#[test]
fn a_task_that_is_left_is_reported_in_each_run() {
    ledger::check(|| {
        let complaint = run_on_purpose("a_task", &[(on_purpose::VARIABLE, "1")]).expect_err("a task");
        assert!(complaint.contains("has left 1 tasks"), "{complaint}");
    });
}
