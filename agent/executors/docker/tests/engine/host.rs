//! A Docker Engine and two registries of the tests' own: one daemon each for the whole run.
//!
//! A shell watches over them: it waits for the end of its input, which comes with the end of this process, however that ends; then it ends them by their
//! ids and removes their folder. All of it is in a network namespace of its own, so that bridges and addresses are nobody else's, and go with it.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Who may pull from the second registry. Of this password the usual base64 has characters that the engine does not read.
pub(crate) const USERNAME: &str = "muster";
pub(crate) const PASSWORD: &str = "s3cret~?>-pass";
const HTPASSWD: &str = "muster:$2y$05$q/mfBriJDK6H7gmEx75kbeSqKLUVaqBAxCCGvf6jmXVygpggR/I66\n";

/// How long a daemon may take to start.
const START: Duration = Duration::from_secs(60);

/// Starts the rest, and ends it with its input.
const WATCH: &str = r#"
trap '' INT TERM HUP
busybox ifconfig lo up
dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/dockerd.pid" --bridge none \
    --shutdown-timeout 2 >"$1/dockerd.log" 2>&1 </dev/null &
engine=$!
docker-registry serve "$1/open.yml" >"$1/open.log" 2>&1 </dev/null &
open=$!
docker-registry serve "$1/locked.yml" >"$1/locked.log" 2>&1 </dev/null &
locked=$!
read -r _
kill -TERM "$open" "$locked" "$engine"
wait
rm -rf "$1"
"#;

/// What runs.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    /// Lets anybody push and pull.
    pub(crate) open: String,
    /// The same images, for [`USERNAME`].
    pub(crate) locked: String,
    _watch: Child,
}

impl Host {
    /// As it is.
    pub(crate) fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::start)
    }

    /// Where the engine listens.
    pub(crate) fn socket(&self) -> String {
        self.dir.join("docker.sock").to_string_lossy().into_owned()
    }

    fn start() -> Self {
        assert!(nix::unistd::Uid::effective().is_root(), "these tests start a Docker Engine, and so need root");
        install();
        let dir = tempfile::Builder::new().prefix("muster-docker-").tempdir().unwrap().keep();
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        let registry = |name: &str, auth: &str| {
            let text = format!(
                "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {0}/images}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n{auth}",
                dir.display()
            );
            fs::write(dir.join(format!("{name}.yml")), text).unwrap();
        };
        registry("open", "");
        registry("locked", &format!("auth: {{htpasswd: {{realm: tests, path: {}/htpasswd}}}}\n", dir.display()));
        let watch = Command::new("unshare")
            .args(["--net", "sh", "-c", WATCH, "watch"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let open = listening(&dir, "open");
        let locked = listening(&dir, "locked");
        let socket = dir.join("docker.sock");
        eventually("the engine listens", &dir.join("dockerd.log"), || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { dir, open, locked, _watch: watch }
    }
}

/// Has the programs here.
fn install() {
    for (program, package) in [("dockerd", "docker.io"), ("docker-registry", "docker-registry"), ("iptables", "iptables")] {
        muster_test_packages::program(program, package);
    }
    // One that needs no library in its container.
    muster_test_packages::package("busybox-static");
}

/// The address of a registry, which chose its port.
fn listening(dir: &Path, name: &str) -> String {
    let log = dir.join(format!("{name}.log"));
    eventually("the registry listens", &log, || {
        let text = fs::read_to_string(&log).ok()?;
        let (_, rest) = text.split_once("listening on 127.0.0.1:")?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        Some(format!("127.0.0.1:{}", &rest[..digits]))
    })
}

fn eventually<T>(what: &str, log: &Path, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + START;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}\n{}", fs::read_to_string(log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20)); // poll
    }
}
