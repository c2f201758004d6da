//! Errors and panics in a comparable form. Texts are not compared: no contract covers them.

use std::{future::Future, io, panic::AssertUnwindSafe};

use futures_util::FutureExt;

use super::super::p2p::ShuttingDown;

/// The kind of the error, or the fact that it is the one that tells of the shutdown.
pub(crate) fn fault<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) if ShuttingDown::caused(error) => format!("shutting down ({:?})", error.kind()),
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("{:?} (os error {code})", error.kind()),
            None => format!("{:?}", error.kind()),
        },
    }
}

/// The text of the panic, if `future` panics.
pub(crate) async fn panic_text<F: Future>(future: F) -> Option<String> {
    let payload = AssertUnwindSafe(future).catch_unwind().await.err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default())
}
