//! What has happened to a node so far.

use tokio::sync::watch;

use crate::in_time;

pub(crate) struct Log<T>(watch::Receiver<Vec<T>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub(crate) struct Pen<T>(watch::Sender<Vec<T>>);

pub(crate) fn log<T>() -> (Pen<T>, Log<T>) {
    let (sender, receiver) = watch::channel(Vec::new());
    (Pen(sender), Log(receiver))
}

impl<T> Pen<T> {
    pub(crate) fn write(&self, entry: T) {
        self.0.send_modify(|entries| entries.push(entry));
    }
}

impl<T: std::fmt::Debug> Log<T> {
    /// Waits until something has been picked from the entries.
    pub(crate) async fn wait_for<P>(&self, what: &str, pick: impl Fn(&[T]) -> Option<P>) -> P {
        let mut receiver = self.0.clone();
        in_time(what, async {
            receiver.wait_for(|entries| pick(entries).is_some()).await.expect("the node is still there");
        })
        .await;
        pick(&self.0.borrow()).expect("it was there a moment ago")
    }
}
