//! `ssh.download`: a file of the other machine into the result or onto the agent's machine, or a folder with all that is in it.
//!
//! The other machine may be anybody's: names that it lists become names here only when they are plain, and sizes are counted.

mod save;

use std::{collections::HashSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, Work, fields::Fields, schema as json_schema};
use muster_files::{Folder, names};
use muster_schemas::code::Code;
use save::Save;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Tools, paths,
    problem::Problem,
    session::Session,
    sftp::{Found, Kind, Sftp},
    upload::report,
};

/// The largest file whose content comes back in the result: with base64 it stays below what a result's data may have.
const INLINE: u64 = 64 * 1024;
/// Pieces that may wait to be written.
const WAITING: usize = 32;

/// A download, read and found good.
#[derive(Debug)]
pub(crate) struct Download {
    tools: Arc<Tools>,
    path: String,
    to: Option<String>,
    recursive: bool,
}

/// What an `ssh.download` takes.
pub(crate) fn schema() -> Value {
    json_schema::object(
        &["path"],
        [
            ("path", json_schema::text("The file on the other machine; with `recursive`, a folder.")),
            (
                "to",
                json_schema::text(
                    "Where it goes on the agent's machine: an absolute path beneath a folder of FILES_ROOTS. \
                     Without it, a file of up to 64 KiB comes back in the result.",
                ),
            ),
            ("recursive", json_schema::flag("Whether `path` is a folder, which goes with all that is in it into the folder `to`.")),
        ],
    )
}

impl Download {
    pub(crate) fn new(tools: Arc<Tools>, params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let path = paths::remote(&mut fields, "path")?;
        let to = paths::local(&mut fields, "to", &tools.options.files)?;
        let recursive = fields.flag("recursive")?.unwrap_or(false);
        fields.end()?;
        if recursive && to.is_none() {
            return Err(Rejection::field("recursive", "goes with `to`"));
        }
        Ok(Self { tools, path, to, recursive })
    }
}

impl Work for Download {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { run(*self, scope).await.unwrap_or_else(Finish::from) })
    }
}

async fn run(download: Download, scope: &Scope) -> Result<Finish, Problem> {
    let mut session = Session::open(&download.tools, scope).await?;
    let carried = async {
        let sftp = Sftp::open(&session).await?;
        carry(&download, &sftp, scope).await
    };
    match carried.await {
        Ok(mut data) => {
            if let Some(data) = data.as_object_mut() {
                data.insert("host".to_owned(), session.host().into());
                data.insert("host_key".to_owned(), session.fingerprint().into());
                data.insert("path".to_owned(), download.path.into());
            }
            session.close().await;
            Ok(Finish::succeeded(Some(data)))
        }
        Err(problem) if problem.code == Code::TransferFailed => Err(session.lost().await.unwrap_or(problem)),
        Err(problem) => Err(problem),
    }
}

async fn carry(download: &Download, sftp: &Sftp, scope: &Scope) -> Result<Value, Problem> {
    let shown = names::shown(&download.path);
    let found = sftp.stat(&download.path).await?.ok_or_else(|| Problem::transfer(format!("there is no `{shown}` on the other machine")))?;
    match (found.kind, &download.to) {
        (Kind::Folder, Some(to)) if download.recursive => Tree::new(download, sftp, scope, to).await?.carry().await,
        (Kind::Folder, _) => Err(Problem::transfer(format!("`{shown}` is a folder: take `recursive`, with a folder as `to`"))),
        (_, _) if download.recursive => Err(Problem::transfer(format!("`{shown}` is no folder; leave out `recursive`"))),
        (Kind::Other, _) => Err(Problem::transfer(format!("`{shown}` is neither a file nor a folder"))),
        (Kind::File, Some(to)) => {
            let roots = download.tools.options.files.clone();
            let (path, mode) = (to.clone(), here(&found));
            let save = Save::start(move || roots.create(&path, mode)).await?;
            let most = download.tools.options.limits.bytes;
            let bytes = save.from(sftp, &download.path, found.size, most, |bytes| report(scope, bytes, found.size)).await?;
            Ok(json!({"to": to, "files": 1, "bytes": bytes}))
        }
        (Kind::File, None) => inline(sftp, &download.path, &found).await,
    }
}

async fn inline(sftp: &Sftp, path: &str, found: &Found) -> Result<Value, Problem> {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(WAITING);
    let collect = async {
        let mut content = Vec::new();
        while let Some(piece) = pieces.recv().await {
            content.extend_from_slice(&piece);
        }
        content
    };
    let (read, content) = tokio::join!(sftp.get(path, found.size, INLINE, sender, |_| {}), collect);
    let bytes = read.map_err(|problem| match problem.code {
        Code::ResultTooLarge => Problem::failed(problem.code, format!("{}; give `to` for larger files", problem.message)),
        _ => problem,
    })?;
    Ok(match String::from_utf8(content) {
        Ok(content) => json!({"bytes": bytes, "content": content}),
        Err(error) => json!({"bytes": bytes, "content_base64": STANDARD.encode(error.as_bytes())}),
    })
}

/// The permissions that a file gets here: nobody else's before somebody says so.
fn here(found: &Found) -> u32 {
    0o600 | (found.mode & 0o100)
}

/// A folder that is carried over with all that is in it.
struct Tree<'a> {
    download: &'a Download,
    sftp: &'a Sftp,
    scope: &'a Scope,
    base: Arc<Folder>,
    to: &'a str,
    entries: u64,
    files: u64,
    bytes: u64,
    skipped: u64,
}

impl<'a> Tree<'a> {
    async fn new(download: &'a Download, sftp: &'a Sftp, scope: &'a Scope, to: &'a str) -> Result<Self, Problem> {
        let (roots, path) = (download.tools.options.files.clone(), to.to_owned());
        let base = Arc::new(save::blocking(move || roots.folder(&path)).await?);
        Ok(Self { download, sftp, scope, base, to, entries: 0, files: 0, bytes: 0, skipped: 0 })
    }

    async fn carry(mut self) -> Result<Value, Problem> {
        // Folders that are still to be listed: their paths beneath both ends, empty for the first.
        let mut waiting = vec![String::new()];
        while let Some(inner) = waiting.pop() {
            waiting.extend(self.folder(&inner).await?);
        }
        Ok(json!({"to": self.to, "files": self.files, "entries": self.entries, "bytes": self.bytes, "skipped": self.skipped}))
    }

    /// Carries the files of one folder; gives back the folders in it.
    async fn folder(&mut self, inner: &str) -> Result<Vec<String>, Problem> {
        let limits = &self.download.tools.options.limits;
        let path = if inner.is_empty() { self.download.path.clone() } else { format!("{}/{inner}", self.download.path) };
        let listed = self.sftp.list(&path, limits.entries - self.entries).await?;
        self.entries += listed.len() as u64;
        let mut seen = HashSet::new();
        let mut folders = Vec::new();
        for (name, found) in listed {
            let refuse = |problem: &str| {
                Problem::transfer(format!("the other machine lists `{}` in `{}`: {problem}", names::shown(&name), names::shown(&path)))
            };
            names::check(&name).map_err(refuse)?;
            if !seen.insert(names::folded(&name)) {
                return Err(refuse("the same name twice (upper and lower case count as one)"));
            }
            let inner = if inner.is_empty() { name.clone() } else { format!("{inner}/{name}") };
            let found = match found {
                Some(found) => found,
                None => self.sftp.lstat(&format!("{path}/{name}")).await?.ok_or_else(|| refuse("it is not there"))?,
            };
            match found.kind {
                Kind::Folder if inner.split('/').count() > limits.depth => return Err(refuse("folders lie too deep in each other")),
                Kind::Folder => {
                    let (base, path) = (Arc::clone(&self.base), inner.clone());
                    save::blocking(move || base.folder(&path)).await?;
                    folders.push(inner);
                }
                Kind::File => self.file(&format!("{path}/{name}"), inner, &found).await?,
                // A link may lead out of the folder, and is not the file.
                Kind::Other => self.skipped += 1,
            }
        }
        Ok(folders)
    }

    async fn file(&mut self, path: &str, inner: String, found: &Found) -> Result<(), Problem> {
        let (base, to, mode) = (Arc::clone(&self.base), inner.clone(), here(found));
        let save = Save::start(move || base.create(&to, mode)).await?;
        let most = self.download.tools.options.limits.bytes - self.bytes;
        let (scope, before, files) = (self.scope, self.bytes, self.files);
        let on = |bytes| scope.recorder.progress(0, &format!("{files} files, {} bytes", before + bytes));
        self.bytes += save.from(self.sftp, path, found.size, most, on).await?;
        self.files += 1;
        self.scope.recorder.write(Stream::Stdout, format!("{inner}\n").as_bytes()).await;
        Ok(())
    }
}
