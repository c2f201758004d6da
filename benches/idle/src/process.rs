//! The other processes, as the first one sees them.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// A member in a process of its own, which ends with this one.
pub struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(role: &str, library: &str, port: u16, index: usize) -> Self {
        let itself = env::current_exe().expect("the path of this program");
        let mut child = Command::new(itself)
            .args([role, library, &port.to_string(), &index.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("another process");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, orders, answers }
    }

    pub fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("a running process");
    }

    pub fn answer(&mut self) -> String {
        let mut answer = String::new();
        let read = self.answers.read_line(&mut answer).expect("a running process");
        assert!(read > 0, "a process has ended");
        answer.trim().to_owned()
    }

    /// Gives an order and returns the two numbers of the answer.
    pub fn numbers(&mut self, order: &str) -> [i64; 2] {
        self.order(order);
        let answer = self.answer();
        let (one, other) = answer.split_once(' ').expect("two numbers");
        [one, other].map(|number| number.parse().expect("a number"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
