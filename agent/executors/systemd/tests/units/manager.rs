//! A systemd of the test's own: `systemd --user` with a bus, in mount and process namespaces that end with it.
//!
//! It is the same manager with the same interfaces as the one that runs a machine. It wants a machine that was started with systemd, and a
//! hierarchy of control groups; the namespace has both, whatever this machine has.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

const SCRIPT: &str = r#"
set -e
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run
mkdir -p /run/systemd/system "/sys/fs/cgroup/$(basename "$DIR")"
echo 0 > "/sys/fs/cgroup/$(basename "$DIR")/cgroup.procs"
"$DBUS_DAEMON" --config-file="$DIR/bus.conf" --nofork --nopidfile &
while ! [ -S "$DIR/bus" ]; do sleep 0.02; done
# Not in place of this shell: as the first process it would take itself for the machine's.
"$SYSTEMD" --user --unit=basic.target --log-target=console &
wait $!
"#;

const BUS: &str = r#"<busconfig><type>session</type><listen>unix:path=DIR/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>"#;

const UNITS: &[(&str, &str)] = &[
    ("good", "ExecStart=/bin/sleep 1000\nExecReload=/bin/true"),
    ("broken", "Type=oneshot\nExecStart=/bin/sh -c 'exit 7'"),
    ("slow", "Type=oneshot\nExecStart=/bin/sleep 1000"),
    ("slow-to-stop", "ExecStart=/bin/sleep 1000"),
    ("s3cret-in-its-name", "ExecStart=/bin/sleep 1000"),
];

const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Manager {
    process: Child,
    dir: TempDir,
}

impl Manager {
    pub(crate) async fn start() -> Self {
        let systemd = muster_test_packages::program("systemd", "systemd");
        let dbus = muster_test_packages::program("dbus-daemon", "dbus");
        let dir = tempfile::tempdir().unwrap();
        let units = dir.path().join("home/.config/systemd/user");
        std::fs::create_dir_all(&units).unwrap();
        for (name, service) in UNITS {
            std::fs::write(units.join(format!("{name}.service")), format!("[Service]\n{service}\n")).unwrap();
        }
        let path = dir.path().display().to_string();
        std::fs::write(dir.path().join("bus.conf"), BUS.replace("DIR", &path)).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DIR", &path).env("SYSTEMD", systemd);
        command.env("DBUS_DAEMON", dbus).env("HOME", dir.path().join("home")).env("XDG_RUNTIME_DIR", &path);
        command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={path}/bus"));
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut manager = Self { process, dir };
        manager.ready().await;
        manager
    }

    async fn ready(&mut self) {
        let end = Instant::now() + SOON;
        let service = muster_executor_systemd::Service::new(Some(self.address()), None);
        while let Err(why) = muster_executor::Executor::works_here(&service).await {
            let log = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no systemd (this test takes root): {why}; {ended:?}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await; // poll
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}/bus", self.path().display())
    }

    /// Ends it, at once.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ended_already = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.end();
    }
}
