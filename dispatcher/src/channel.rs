//! Taking in what other tasks tell, many at once, and the one rule for a channel that closes.
//!
//! A task that is told of things has nothing to do any more when its channel is closed, and that is a failure: nobody is left who would tell it
//! anything. But with the shutdown those who tell end as well, in any order and on other threads, so while shutting down it means nothing. Whoever
//! takes in watches the shutdown beside it and ends by that.

use std::time::Duration;

use muster_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

/// Waits until something has come, and takes up to `most` of it. Safe to cancel. With the channel closed while shutting down it never ends.
///
/// # Errors
/// When the channel is closed, unless the shutdown is requested.
pub(crate) async fn take<T>(from: &mut mpsc::Receiver<T>, into: &mut Vec<T>, most: usize, shutdown: &Shutdown) -> anyhow::Result<()> {
    if from.recv_many(into, most).await > 0 {
        return Ok(());
    }
    anyhow::ensure!(shutdown.is_requested(), "nothing comes in any more");
    std::future::pending().await
}

/// As [`take`], and then goes on taking for a while, unless there are as many before. Cancelled in between, what was taken stays in `into`.
///
/// # Errors
/// As [`take`].
pub(crate) async fn gather<T>(
    from: &mut mpsc::Receiver<T>,
    into: &mut Vec<T>,
    most: usize,
    lasting: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    if into.is_empty() {
        take(from, into, most, shutdown).await?;
    }
    let more = async { while into.len() < most && from.recv_many(into, most - into.len()).await > 0 {} };
    // What is there by then is what is wanted.
    let _ = tokio::time::timeout(lasting, more).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_has_come_is_taken_in_as_many_as_wanted_even_when_nobody_tells_more() {
        let (sender, mut told) = mpsc::channel(3);
        (1..=3).for_each(|number| sender.try_send(number).unwrap());
        drop(sender);
        let mut taken = Vec::new();
        take(&mut told, &mut taken, 2, &Shutdown::new()).now_or_never().unwrap().unwrap();
        assert_eq!(taken, [1, 2]);
        take(&mut told, &mut taken, 2, &Shutdown::new()).now_or_never().unwrap().unwrap();
        assert_eq!(taken, [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_a_while_is_taken_together_and_enough_is_enough_at_once() {
        let (sender, mut told) = mpsc::channel(8);
        let (mut taken, shutdown, second) = (Vec::new(), Shutdown::new(), Duration::from_secs(1));
        let telling = async {
            for number in 1..=6 {
                sender.send(number).await.unwrap();
                tokio::time::sleep(second * 2 / 5).await; // stuck on purpose: time is paused
            }
            drop(sender);
        };
        let gathering = async {
            gather(&mut told, &mut taken, 8, second, &shutdown).await.unwrap();
            assert_eq!(taken, [1, 2, 3]);
            taken.clear();
            gather(&mut told, &mut taken, 2, second * 60, &shutdown).await.unwrap();
            assert_eq!(taken, [4, 5]);
            // Nobody tells more after the last one.
            gather(&mut told, &mut taken, 8, second, &shutdown).await.unwrap();
            assert_eq!(taken, [4, 5, 6]);
        };
        tokio::join!(telling, gathering);
    }

    #[test]
    fn a_closed_channel_is_a_failure_unless_all_is_shutting_down() {
        let shutdown = Shutdown::new();
        let (sender, mut told) = mpsc::channel::<u8>(1);
        assert!(take(&mut told, &mut Vec::new(), 1, &shutdown).now_or_never().is_none(), "nothing has come yet");
        drop(sender);
        assert!(take(&mut told, &mut Vec::new(), 1, &shutdown).now_or_never().unwrap().is_err());
        shutdown.trigger("test");
        assert!(take(&mut told, &mut Vec::new(), 1, &shutdown).now_or_never().is_none(), "the shutdown ends it, not the channel");
    }
}
