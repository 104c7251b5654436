//! Ending a command on the other machine: TERM, as much of the grace period as it needs, KILL.
//!
//! Closing the channel ends nothing by itself. The protocol has a request for signals, which OpenSSH carries out for all users but root, on the
//! command's process group. So everything that has the environment of our very connection is looked for, too, which works where the other
//! machine is a Linux with grep. What does neither, lives on.

use std::{pin::Pin, time::Duration};

use russh::{ChannelWriteHalf, Sig, client::Msg};
use tokio::time::{Instant, timeout};

use crate::session::Session;

/// How long the other machine may take to look for processes.
const SEARCH: Duration = Duration::from_secs(2);

/// How long a killed command's last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Ends the command; returns when it has ended or nothing more can be done. `listening` ends with it.
pub(super) async fn stop(
    session: &Session,
    write: &ChannelWriteHalf<Msg>,
    mut listening: Pin<&mut impl Future<Output = ()>>,
    grace: Duration,
) {
    let deadline = Instant::now() + grace;
    let end = async |signal: Sig, name: &str| {
        // Which of the two works is for the other machine to say, and it does not.
        let _sent = timeout(LAST_WORDS, write.signal(signal)).await;
        let _found = timeout(SEARCH, sweep(session, name)).await;
    };
    let terminate = async {
        end(Sig::TERM, "TERM").await;
        tokio::time::sleep_until(deadline).await;
    };
    let ended = tokio::select! {
        biased;
        () = listening.as_mut() => true,
        () = terminate => false,
    };
    // What the command has left behind, or all of it.
    let kill = end(Sig::KILL, "KILL");
    if ended {
        kill.await;
    } else {
        let last_words = async {
            kill.await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            () = listening => {}
            () = last_words => {}
        }
    }
    let _closed = timeout(LAST_WORDS, write.close()).await;
}

/// Signals every process there that has the environment of our connection, in which OpenSSH puts both ends' addresses and ports.
async fn sweep(session: &Session, signal: &str) {
    let script = format!(
        "exec sh -c 'for f in $(grep -lzxF -e \"SSH_CONNECTION=$SSH_CONNECTION\" /proc/[0-9]*/environ 2>/dev/null); \
         do p=${{f#/proc/}}; p=${{p%/environ}}; [ \"$p\" = $$ ] || kill -s {signal} \"$p\" 2>/dev/null; done'"
    );
    let Ok(mut channel) = session.channel().await else { return };
    if channel.exec(false, script).await.is_ok() {
        while channel.wait().await.is_some() {}
    }
}
