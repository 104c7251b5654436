//! `ssh.upload`: a file of the agent's machine, a text, or the files of an archive, onto the other machine.
//!
//! Every file is written beside its name and renamed when it is whole. An archive is read through once, before anything is written.

mod pieces;

use std::{collections::HashSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, Work, fields::Fields, schema as json_schema};
use muster_files::names;
use pieces::Pieces;
use serde_json::{Value, json};

use crate::{
    Tools, paths,
    problem::Problem,
    run::stopped,
    session::Session,
    sftp::{Kind, Piece, Sftp},
};

/// What a new file's permissions are.
const MODE: u32 = 0o644;

/// An upload, read and found good.
#[derive(Debug)]
pub(crate) struct Upload {
    tools: Arc<Tools>,
    source: Source,
    to: String,
    mode: Option<u32>,
}

/// What is carried over.
#[derive(Debug, Clone)]
enum Source {
    File(String),
    Archive(String),
    Content(Vec<u8>),
}

/// What an `ssh.upload` takes.
pub(crate) fn schema() -> Value {
    json_schema::object(
        &["to"],
        [
            (
                "from",
                json_schema::text(
                    "A file of the agent's machine, an absolute path beneath a folder of FILES_ROOTS; or `content`, or `content_base64`.",
                ),
            ),
            ("content", json_schema::text("What the file is to hold.")),
            ("content_base64", json_schema::text("The same, for what is not text.")),
            ("to", json_schema::text("The file on the other machine; of an archive, the folder.")),
            ("mode", json_schema::text("Its permissions, in octal, such as \"0644\".")),
            ("unpack", json_schema::flag("Whether `from` is an archive (tar, tar.gz, zip) whose files go into the folder `to`.")),
        ],
    )
}

impl Upload {
    pub(crate) fn new(tools: Arc<Tools>, params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let from = paths::local(&mut fields, "from", &tools.options.files)?;
        let content =
            fields.value("content").map(|value| value.as_str().ok_or_else(|| muster_executor::fields::wrong("content", "text", value)));
        let content = content.transpose()?;
        let encoded = fields.text("content_base64")?;
        let to = paths::remote(&mut fields, "to")?;
        let mode = fields.text("mode")?.map(mode).transpose()?;
        let unpack = fields.flag("unpack")?.unwrap_or(false);
        fields.end()?;
        let source = match (from, content, encoded) {
            (Some(from), None, None) if unpack => Source::Archive(from),
            (Some(from), None, None) => Source::File(from),
            (None, ..) if unpack => return Err(Rejection::field("unpack", "goes with `from`")),
            (None, Some(content), None) => Source::Content(content.into()),
            (None, None, Some(encoded)) => {
                let decoded = STANDARD.decode(encoded);
                Source::Content(decoded.map_err(|error| Rejection::field("content_base64", format!("is not base64: {error}")))?)
            }
            _ => return Err(Rejection::field("from", "give exactly one of `from`, `content` and `content_base64`")),
        };
        if unpack && mode.is_some() {
            return Err(Rejection::field("mode", "goes not with `unpack`: an archive has its own"));
        }
        Ok(Self { tools, source, to, mode })
    }
}

fn mode(text: &str) -> Result<u32, Rejection> {
    let digits = text.len() <= 4 && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
    mode.ok_or_else(|| Rejection::field("mode", "must be permissions in octal, 0 to 0777"))
}

impl Work for Upload {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { run(*self, scope).await.unwrap_or_else(Finish::from) })
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

async fn run(upload: Upload, scope: &Scope) -> Result<Finish, Problem> {
    let opening = async {
        let pieces = match &upload.source {
            Source::File(path) => Pieces::of_file(&upload.tools.options, path.clone(), upload.mode).await?,
            Source::Archive(path) => {
                scope.recorder.progress(0, "reading the archive through");
                Pieces::of_archive(&upload.tools.options, path.clone()).await?
            }
            Source::Content(content) => Pieces::of_content(content.clone(), upload.mode),
        };
        let session = Session::open(&upload.tools, scope).await?;
        let sftp = Sftp::open(&session).await?;
        Ok::<_, Problem>((pieces, session, sftp))
    };
    let (mut pieces, mut session, sftp) = tokio::select! {
        biased;
        () = scope.stop.cancelled() => return Ok(stopped()),
        opened = opening => opened?,
    };
    let carried = {
        let carrying = async {
            match upload.source {
                Source::Archive(_) => unpack(&sftp, &upload.to, &mut pieces, scope).await,
                _ => one(&sftp, &upload.to, &mut pieces, scope).await,
            }
        };
        tokio::select! {
            biased;
            () = scope.stop.cancelled() => None,
            carried = carrying => Some(carried),
        }
    };
    if !matches!(carried, Some(Ok(_))) {
        let _in_time = tokio::time::timeout(scope.settings.kill_grace, sftp.clean_up()).await;
    }
    let (files, bytes) = match carried {
        Some(Ok(carried)) => carried,
        Some(Err(problem)) => return Err(session.lost().await.unwrap_or(problem)),
        None => {
            session.close().await;
            return Ok(stopped());
        }
    };
    let data = json!({"host": session.host(), "host_key": session.fingerprint(), "to": upload.to, "files": files, "bytes": bytes});
    session.close().await;
    Ok(Finish::succeeded(Some(data)))
}

async fn one(sftp: &Sftp, to: &str, pieces: &mut Pieces, scope: &Scope) -> Result<(u64, u64), Problem> {
    if sftp.stat(to).await?.is_some_and(|found| found.kind == Kind::Folder) {
        return Err(Problem::transfer(format!("`{}` is a folder there: `to` names the file", names::shown(to))));
    }
    let Some(Piece::File(_, mode)) = pieces.next.recv().await else { return Err(pieces.why().await) };
    let total = pieces.bytes;
    let on = |bytes| report(scope, bytes, total);
    match sftp.put(to, mode, &mut pieces.next, on).await? {
        Some(bytes) => Ok((1, bytes)),
        None => Err(pieces.why().await),
    }
}

async fn unpack(sftp: &Sftp, to: &str, pieces: &mut Pieces, scope: &Scope) -> Result<(u64, u64), Problem> {
    let to = to.strip_suffix('/').filter(|to| !to.is_empty()).unwrap_or(to);
    sftp.folder(to, true).await?;
    let mut made = HashSet::new();
    let (mut files, mut done) = (0, 0);
    let total = pieces.bytes;
    while let Some(piece) = pieces.next.recv().await {
        match piece {
            Piece::Folder(path) => folders(sftp, to, &format!("{path}/"), &mut made).await?,
            Piece::File(path, mode) => {
                folders(sftp, to, &path, &mut made).await?;
                let on = |bytes| report(scope, done + bytes, total);
                let Some(bytes) = sftp.put(&format!("{to}/{path}"), mode, &mut pieces.next, on).await? else { break };
                done += bytes;
                files += 1;
                scope.recorder.write(Stream::Stdout, format!("{path}\n").as_bytes()).await;
            }
            Piece::Data(_) | Piece::End => {}
        }
    }
    match pieces.outcome().await {
        Some(problem) => Err(problem),
        None => Ok((files, done)),
    }
}

/// Makes the folders above a path. One that is a symbolic link there leads elsewhere, and is refused.
async fn folders(sftp: &Sftp, to: &str, path: &str, made: &mut HashSet<String>) -> Result<(), Problem> {
    for (at, _) in path.match_indices('/') {
        let folder = path.get(..at).unwrap_or_default();
        if made.insert(folder.to_owned()) {
            sftp.folder(&format!("{to}/{folder}"), false).await?;
        }
    }
    Ok(())
}

/// Says how far it is.
pub(crate) fn report(scope: &Scope, bytes: u64, total: u64) {
    let percent = if total == 0 { 0 } else { (u128::from(bytes) * 100 / u128::from(total)).min(100) as u8 };
    scope.recorder.progress(percent, &format!("{bytes} of {total} bytes"));
}
