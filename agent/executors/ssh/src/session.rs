//! One connection to a machine: reached, known, logged in; and why it ended, when it did.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use muster_executor::Scope;
use muster_schemas::code::Code;
use russh::{
    Channel, ChannelMsg, Disconnect, Error, MethodKind, Preferred,
    client::{self, AuthResult, Handle, Msg},
    keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate},
};

use crate::{
    Tools,
    problem::Problem,
    target::{Login, Target, fingerprint},
};

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// A machine that somebody is logged in on.
pub(crate) struct Session {
    handle: Handle<Client>,
    target: Target,
    seen: Arc<Mutex<Seen>>,
    connect: Duration,
}

/// What was seen of the machine's key.
#[derive(Default)]
struct Seen {
    fingerprint: Option<String>,
    problem: Option<Problem>,
}

/// Our end of the protocol. Whatever the machine wants to open towards us is refused, as that is what the library does unless told otherwise.
struct Client {
    tools: Arc<Tools>,
    target: Target,
    seen: Arc<Mutex<Seen>>,
}

impl client::Handler for Client {
    type Error = Error;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else { return Ok(false) };
        let (tools, target, key) = (Arc::clone(&self.tools), self.target.clone(), key.clone());
        let shown = fingerprint(&key);
        let judged = tokio::task::spawn_blocking(move || tools.host_keys.judge(&target, &key)).await;
        let problem = match judged {
            Ok(judged) => judged.err(),
            Err(_) => Some(Problem::failed(Code::Internal, "the machine's key could not be looked up")),
        };
        let trusted = problem.is_none();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { fingerprint: Some(shown), problem };
        Ok(trusted)
    }
}

impl Session {
    /// Connects and logs in.
    pub(crate) async fn open(tools: &Arc<Tools>, scope: &Scope) -> Result<Self, Problem> {
        let Some(connection) = &scope.connection else {
            return Err(Problem::for_good(Code::ConnectionMismatch, "the job names no connection"));
        };
        let target = Target::read(connection)?;
        let login = Login::read(connection).await?;
        scope.recorder.progress(0, &format!("connecting to {}", target.place()));
        let patience = tools.options.patience.connect;
        let place = target.place();
        let late = || Problem::failed(Code::ConnectionFailed, format!("{place} was not connected and logged in to within {patience:?}"));
        let opening = async {
            let mut session = Self::connect(tools, target).await?;
            session.log_in(&login).await?;
            Ok(session)
        };
        tokio::time::timeout(patience, opening).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(tools: &Arc<Tools>, target: Target) -> Result<Self, Problem> {
        let known = {
            let (tools, target) = (Arc::clone(tools), target.clone());
            let known = tokio::task::spawn_blocking(move || tools.host_keys.known(&target)).await;
            known.unwrap_or_else(|_| Err(Problem::failed(Code::Internal, "the machine's key could not be looked up")))?
        };
        let place = target.place();
        let unreachable =
            |error: &dyn std::fmt::Display| Problem::failed(Code::ConnectionFailed, format!("{place} can't be reached: {error}"));
        let stream = tokio::net::TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| unreachable(&error))?;
        // A failure only costs speed.
        let _slower = stream.set_nodelay(true);
        let patience = &tools.options.patience;
        let config = client::Config {
            keepalive_interval: Some(patience.keep_alive),
            keepalive_max: patience.missed,
            preferred: Preferred { key: Cow::Owned(preferred(&known)), ..Preferred::DEFAULT },
            ..client::Config::default()
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let client = Client { tools: Arc::clone(tools), target: target.clone(), seen: Arc::clone(&seen) };
        let opened = client::connect_stream(Arc::new(config), stream, client).await;
        let refused = seen.lock().unwrap_or_else(PoisonError::into_inner).problem.take();
        match (opened, refused) {
            (_, Some(problem)) => Err(problem),
            (Ok(handle), None) => Ok(Self { handle, target, seen, connect: patience.connect }),
            (Err(error), None) => Err(unreachable(&error)),
        }
    }

    /// The key first, then the password; a machine that wants both gets both.
    async fn log_in(&mut self, login: &Login) -> Result<(), Problem> {
        let user = self.target.user.clone();
        let mut tried = Vec::new();
        let mut last = None;
        if let Some(key) = &login.key {
            let hash = if key.algorithm().is_rsa() { self.rsa_hash().await? } else { None };
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            tried.push("the private key");
            let answer = self.handle.authenticate_publickey(user.clone(), key).await;
            last = Some(answer.map_err(|error| self.cut_off(&error))?);
        }
        let wants_password = match &last {
            None => true,
            Some(AuthResult::Success) => return Ok(()),
            Some(AuthResult::Failure { remaining_methods, .. }) => remaining_methods.contains(&MethodKind::Password),
        };
        if let Some(password) = login.password.as_ref().filter(|_| wants_password) {
            tried.push("the password");
            let answer = self.handle.authenticate_password(user.clone(), password.clone()).await;
            last = Some(answer.map_err(|error| self.cut_off(&error))?);
        }
        match last {
            Some(AuthResult::Success) => Ok(()),
            Some(AuthResult::Failure { remaining_methods, partial_success }) => {
                let methods: Vec<String> = remaining_methods.iter().map(String::from).collect();
                let more = if partial_success { ", and wants more" } else { "" };
                let message = format!(
                    "{} does not let `{user}` in with {}{more} (it takes: {})",
                    self.target.place(),
                    tried.join(" and "),
                    methods.join(", ")
                );
                Err(Problem::failed(Code::LoginRefused, message))
            }
            None => Err(Problem::for_good(Code::CredentialsInvalid, "there is nothing to log in with")),
        }
    }

    /// The best hash that the machine says it takes; never SHA-1, which is what saying nothing once meant.
    async fn rsa_hash(&self) -> Result<Option<HashAlg>, Problem> {
        let best = self.handle.best_supported_rsa_hash().await.map_err(|error| self.cut_off(&error))?;
        Ok(best.flatten().or(Some(HashAlg::Sha512)))
    }

    fn cut_off(&self, error: &Error) -> Problem {
        Problem::failed(
            Code::ConnectionFailed,
            format!("{} broke off while `{}` was logging in: {error}", self.target.place(), self.target.user),
        )
    }

    /// As messages name the machine.
    pub(crate) fn host(&self) -> String {
        self.target.place()
    }

    /// The fingerprint of its key.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).fingerprint.clone()
    }

    /// Opens a channel.
    pub(crate) async fn channel(&self) -> Result<Channel<Msg>, Problem> {
        let failed = |why: String| Problem::failed(Code::ConnectionFailed, format!("{} opens no channel: {why}", self.target.place()));
        match tokio::time::timeout(self.connect, self.handle.channel_open_session()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {:?}", self.connect))),
        }
    }

    /// Waits until what was asked for on a channel is granted or refused.
    pub(crate) async fn granted(&self, channel: &mut Channel<Msg>) -> Result<bool, Problem> {
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(true),
                Some(ChannelMsg::Failure | ChannelMsg::Close) => return Ok(false),
                Some(_) => {}
                None => return Err(Problem::failed(Code::ConnectionFailed, format!("{} broke off", self.target.place()))),
            }
        }
    }

    /// Whether the connection is gone, and why.
    pub(crate) async fn lost(&mut self) -> Option<Problem> {
        let ended = tokio::time::timeout(FAREWELL, &mut self.handle).await.ok()?;
        let why = match ended {
            Err(Error::KeepaliveTimeout) => "it answers no more".to_owned(),
            Err(error) => error.to_string(),
            Ok(()) => "it said goodbye".to_owned(),
        };
        Some(Problem::failed(Code::ConnectionFailed, format!("connection lost to {}: {why}", self.target.place())))
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        let farewell = self.handle.disconnect(Disconnect::ByApplication, "", "");
        let _heard = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// The kinds of keys to ask for: those that are known of the machine first, so that it does not show another one of its keys. Never SHA-1.
fn preferred(known: &[PublicKey]) -> Vec<Algorithm> {
    let mut algorithms: Vec<Algorithm> =
        Preferred::DEFAULT.key.iter().filter(|algorithm| **algorithm != Algorithm::Rsa { hash: None }).cloned().collect();
    let same = |one: &Algorithm, other: &Algorithm| one == other || matches!((one, other), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }));
    algorithms.sort_by_key(|algorithm| !known.iter().any(|key| same(&key.algorithm(), algorithm)));
    algorithms
}
