//! A real sshd: one process for each connection (`sshd -i`), behind a listener of our own, so that the port is free for sure and each process
//! is known.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

/// A machine that listens.
pub(crate) struct Sshd {
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    children: Arc<Mutex<Vec<Child>>>,
}

/// The binary: sshd wants to be called by its whole path.
fn binary() -> PathBuf {
    muster_test_packages::program("sshd", "openssh-server")
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Makes a pair of keys; gives back the private one's path.
pub(crate) fn key(dir: &Path, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = dir.join(name);
    let mut args = vec!["-q", "-N", passphrase, "-f", path.to_str().unwrap(), "-t"];
    args.extend(kind);
    run("ssh-keygen", &args);
    path
}

impl Sshd {
    /// Starts one in this folder, which everybody may enter.
    pub(crate) fn start(dir: &Path) -> Self {
        // It brings ssh-keygen, too.
        let sshd = binary();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        key(dir, "host", &["ed25519"], "");
        key(dir, "host_rsa", &["rsa", "-b", "2048"], "");
        fs::write(dir.join("authorized"), "").unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "HostKey {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
             PasswordAuthentication yes\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\nLogLevel ERROR\n",
            path("host"),
            path("host_rsa"),
            path("authorized"),
        );
        fs::write(dir.join("config"), config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let children = Arc::new(Mutex::new(Vec::new()));
        let (started, config) = (Arc::clone(&children), path("config"));
        let log = path("log");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let input = OwnedFd::from(stream.unwrap());
                let output = input.try_clone().unwrap();
                let child = Command::new(&sshd)
                    .args(["-i", "-e", "-f", &config])
                    .stdin(Stdio::from(input))
                    .stdout(Stdio::from(output))
                    .stderr(fs::OpenOptions::new().create(true).append(true).open(&log).unwrap())
                    .spawn();
                started.lock().unwrap().push(child.unwrap());
            }
        });
        Self { port, dir: dir.to_owned(), children }
    }

    /// Lets whoever has this key in.
    pub(crate) fn authorize(&self, private: &Path) {
        let public = fs::read_to_string(private.with_extension("pub")).unwrap();
        let path = self.dir.join("authorized");
        fs::write(&path, fs::read_to_string(&path).unwrap() + &public).unwrap();
    }

    /// Another key as the machine's only one.
    pub(crate) fn change_host_key(&self) {
        fs::remove_file(self.dir.join("host")).unwrap();
        fs::remove_file(self.dir.join("host.pub")).unwrap();
        key(&self.dir, "host", &["ed25519"], "");
    }

    pub(crate) fn host_key(&self) -> String {
        let text = fs::read_to_string(self.dir.join("host.pub")).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// Signals the processes of all connections.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        for child in self.children.lock().unwrap().iter() {
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal);
        }
    }

    /// Connections whose processes have not ended.
    pub(crate) fn open(&self) -> usize {
        self.children.lock().unwrap().iter_mut().map(|child| usize::from(child.try_wait().unwrap().is_none())).sum()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        for child in self.children.lock().unwrap().iter_mut() {
            let _reaped = child.wait();
        }
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A user of this machine for one test, with a password. Only root can make one.
pub(crate) struct User {
    pub(crate) name: String,
}

impl User {
    pub(crate) fn new(password: &str) -> Self {
        let name = format!("muster-{:08x}", rand::random::<u32>());
        run("useradd", &["-M", "-N", "-d", "/tmp", "-s", "/bin/sh", &name]);
        let user = Self { name };
        let mut chpasswd = Command::new("chpasswd").args(["-c", "SHA512"]).stdin(Stdio::piped()).spawn().unwrap();
        write!(chpasswd.stdin.take().unwrap(), "{}:{password}", user.name).unwrap();
        assert!(chpasswd.wait().unwrap().success());
        user
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _gone = Command::new("userdel").args(["-f", &self.name]).output();
    }
}
