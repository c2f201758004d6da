//! The constants of the protocols as a type parameter, so that one actor type serves all scenarios.

/// Mirrors the associated constants of the five protocols, with the documented defaults.
pub(crate) trait Tuning: Send + Sync + 'static {
    const HANDSHAKE_TIMEOUT_MS: u64 = 3_000;
    const READ_DEPTH: usize = 64;
    const BACKPRESSURE: bool = true;
    const READ_BUFFER: usize = 64 * 1024;
    const IDLE_TIMEOUT_MS: u64 = 60_000;
    const WRITE_DEPTH: usize = 64;
    const WRITE_BUFFER: usize = 64 * 1024;
    const WRITE_TIMEOUT_MS: u64 = 10_000;
    const ABORTABLE: bool = true;
    const ON_DISCONNECT_TIMEOUT_MS: u64 = 3_000;
}

/// Declares a unit type with some of the constants changed.
macro_rules! tuning {
    ($name:ident { $($constant:ident: $type:ty = $value:expr),* $(,)? }) => {
        pub(crate) struct $name;

        impl $crate::shared::tuning::Tuning for $name {
            $(const $constant: $type = $value;)*
        }
    };
}

pub(crate) use tuning;

tuning!(Standard {});
