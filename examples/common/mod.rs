//! What the examples share because it teaches nothing about networks: colours, Ctrl-C, and the short mode.

#![allow(dead_code, unreachable_pub, reason = "each example uses the part it needs")]

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    process::ExitCode,
};

/// The colours of the terminal that the examples use, by their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
    Grey = 90,
}

impl Colour {
    /// A colour for the member with this number: the same one each time, and another for its neighbours.
    pub fn of(number: usize) -> Self {
        [Self::Cyan, Self::Magenta, Self::Yellow, Self::Green, Self::Blue, Self::Red][number % 6]
    }

    /// The text in this colour, or plain if the output is not a terminal or `NO_COLOR` is set.
    pub fn paint(self, text: impl Display) -> String {
        if is_colourful() { format!("\x1b[{}m{text}\x1b[0m", self as u8) } else { text.to_string() }
    }
}

pub fn is_colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Whether the example is to be over within 10 seconds: with `EXAMPLE_SHORT=1`, as the project's checks run it.
pub fn is_short() -> bool {
    std::env::var_os("EXAMPLE_SHORT").is_some_and(|value| value == "1")
}

/// Resolves when the user presses Ctrl-C.
pub async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("Ctrl-C cannot be waited for: {error}");
        std::future::pending::<()>().await;
    }
}

/// The exit code for the outcome of an example; an error is printed.
pub fn exit(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} {error}", Colour::Red.paint("failed:"));
            ExitCode::FAILURE
        }
    }
}
