//! `ssh.run`: one command on the other machine, from its start to its end. Stopping it is in `stop`.

mod params;
mod stop;

use std::sync::Arc;

use muster_executor::{BoxFuture, Finish, Recorder, Rejection, Scope, Stream, Work};
use muster_schemas::code::Code;
use params::Params;
pub(crate) use params::schema;
use russh::{ChannelMsg, ChannelReadHalf, Sig};
use serde_json::{Value, json};

use crate::{Tools, problem::Problem, session::Session};

/// Standard error, in the protocol (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// A command to run.
#[derive(Debug)]
pub(crate) struct Run {
    tools: Arc<Tools>,
    params: Params,
}

impl Run {
    pub(crate) fn new(tools: Arc<Tools>, params: &Value) -> Result<Self, Rejection> {
        Ok(Self { tools, params: Params::parse(params)? })
    }
}

impl Work for Run {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { run(&self.tools, self.params, scope).await.unwrap_or_else(Finish::from) })
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

/// What the other machine says of the command's end.
#[derive(Debug, Default)]
struct Ending {
    status: Option<u32>,
    signal: Option<(Sig, String)>,
    /// The channel was closed, not cut off.
    closed: bool,
}

/// Work that ended because it was told to.
pub(crate) fn stopped() -> Finish {
    Finish { stopped: true, ..Finish::failed(Code::Cancelled, "stopped") }
}

async fn run(tools: &Arc<Tools>, params: Params, scope: &Scope) -> Result<Finish, Problem> {
    let opening = async {
        let session = Session::open(tools, scope).await?;
        let mut channel = session.channel().await?;
        // What happens when nobody answers is for `lost` to say.
        let _lost = channel.exec(true, params.command).await;
        let granted = session.granted(&mut channel).await?;
        Ok::<_, Problem>((session, channel, granted))
    };
    let (mut session, channel, granted) = tokio::select! {
        biased;
        () = scope.stop.cancelled() => return Ok(stopped()),
        opened = opening => opened?,
    };
    let data = json!({"host": session.host(), "host_key": session.fingerprint()});
    if !granted {
        let message = format!("{} does not let this user run commands", session.host());
        session.close().await;
        return Ok(Finish::failed(Code::SpawnFailed, message).with_data(data));
    }
    scope.recorder.progress(0, &format!("running on {}", session.host()));
    let (mut read, write) = channel.split();
    let mut ending = Ending::default();
    let was_stopped = {
        let feed = async {
            // A command that reads nothing, or has ended, is no error.
            if !params.stdin.is_empty() {
                let _unread = write.data_bytes(params.stdin).await;
            }
            let _unread = write.eof().await;
            std::future::pending::<()>().await;
        };
        let mut listening = std::pin::pin!(listen(&mut read, &scope.recorder, &mut ending));
        tokio::select! {
            biased;
            () = &mut listening => false,
            () = scope.stop.cancelled() => {
                stop::stop(&session, &write, listening, scope.settings.kill_grace).await;
                true
            }
            () = feed => false,
        }
    };
    if was_stopped {
        session.close().await;
        return Ok(Finish { exit_code: exit_code(&ending), ..stopped() });
    }
    if !ending.closed
        && let Some(problem) = session.lost().await
    {
        return Ok(Finish::from(problem).with_data(data));
    }
    session.close().await;
    Ok(Finish { exit_code: exit_code(&ending), ..finish(&ending) }.with_data(data))
}

/// Passes on output until the command's end was heard and its output is closed.
async fn listen(read: &mut ChannelReadHalf, recorder: &Recorder, ending: &mut Ending) {
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => recorder.write(Stream::Stdout, &data).await,
            ChannelMsg::ExtendedData { data, ext: STDERR } => recorder.write(Stream::Stderr, &data).await,
            ChannelMsg::ExitStatus { exit_status } => ending.status = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, error_message, .. } => ending.signal = Some((signal_name, error_message)),
            ChannelMsg::Close => {
                ending.closed = true;
                return;
            }
            _ => {}
        }
    }
}

fn exit_code(ending: &Ending) -> Option<i32> {
    match (ending.status, &ending.signal) {
        (Some(status), _) => Some(i32::try_from(status).unwrap_or(i32::MAX)),
        (None, Some((signal, _))) => Some(128 + number(signal).unwrap_or(0)),
        (None, None) => None,
    }
}

fn finish(ending: &Ending) -> Finish {
    match (ending.status, &ending.signal) {
        (Some(0), _) => Finish::succeeded(None),
        (Some(status), _) => Finish::failed(Code::ExitNonzero, format!("exit status {status}")),
        (None, Some((signal, message))) => {
            let number = number(signal).map(|number| format!("{number} ")).unwrap_or_default();
            let why = if message.is_empty() { String::new() } else { format!(": {}", muster_files::names::shown(message)) };
            Finish::failed(Code::ExitNonzero, format!("ended by signal {number}({}){why}", name(signal)))
        }
        (None, None) => Finish::failed(Code::ExitNonzero, "the command ended, and the other machine does not say how"),
    }
}

/// The names of signals in the protocol (RFC 4254, 6.10), and their numbers on Linux.
fn number(signal: &Sig) -> Option<i32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) if name == "USR2" => 12,
        // OpenSSH's way to name those that the protocol has not.
        Sig::Custom(name) if name.starts_with("BUS") => 7,
        Sig::Custom(_) => return None,
    })
}

fn name(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => muster_files::names::shown(name),
        signal => format!("SIG{signal:?}"),
    }
}
