//! Tests of [`super`] on real files, with steps that fail where the disk would.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    sync::{Arc, Mutex},
};

use tempfile::{TempDir, tempdir};

use super::*;

const KEY: &str = "mst_agent_key";

fn open(path: &Path) -> Result<Vault, VaultError> {
    Vault::open(path, KEY)
}

/// A vault with one entry, `old`, closed again.
fn with_old() -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("vault");
    open(&path).unwrap().put("old", b"hunter2-old").unwrap();
    (dir, path)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(vault: &Vault) -> Vec<&str> {
    vault.names().collect()
}

#[test]
fn what_is_put_is_there_after_a_restart_and_what_is_removed_is_not() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("vault");
    let mut vault = open(&path).unwrap();
    assert!(!path.exists() && vault.mark().counter == 0, "no file before there is something in it");
    vault.put("b", b"two").unwrap();
    vault.put("a", b"one").unwrap();
    vault.put("b", b"three").unwrap();
    assert!(vault.remove("a").unwrap() && !vault.remove("a").unwrap());
    let mark = vault.mark();
    assert_eq!((mark.counter, mark.id.len()), (4, 32));
    drop(vault);
    let vault = open(&path).unwrap();
    assert_eq!((names(&vault), vault.mark()), (vec!["b"], mark));
    assert_eq!(*vault.get("b").unwrap().unwrap(), *b"three");
    assert_eq!(vault.get("a").unwrap(), None);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn names_values_and_their_number_are_bounded() {
    let dir = tempdir().unwrap();
    let mut vault = open(&dir.path().join("vault")).unwrap();
    assert!(matches!(vault.put("", b"x"), Err(VaultError::Name { length: 0 })));
    assert!(matches!(vault.put(&"n".repeat(NAME_MAX + 1), b"x"), Err(VaultError::Name { .. })));
    assert!(matches!(vault.put("n", &vec![0; VALUE_MAX + 1]), Err(VaultError::Value { .. })));
    assert_eq!(vault.mark().counter, 0);
    vault.put(&"n".repeat(NAME_MAX), &vec![0; VALUE_MAX]).unwrap();
    for number in 1..ENTRIES_MAX {
        let plain = BTreeMap::from([(number.to_string(), Zeroizing::new(vec![1]))]);
        let (content, _) = Content::seal(vault.content.head.clone(), &plain, &vault.cipher).unwrap();
        // Not through the disk, 256 times.
        vault.content.entries.extend(content.entries);
    }
    assert!(matches!(vault.put("one more", b"x"), Err(VaultError::Full)));
}

#[test]
fn another_api_key_is_told_from_damage_and_the_vault_is_set_aside() {
    let (dir, path) = with_old();
    let error = Vault::open(&path, "another").unwrap_err();
    assert!(matches!(error, VaultError::Key { .. }), "{error}");
    let before = fs::read(&path).unwrap();
    let aside = set_aside(&path).unwrap();
    assert_eq!((aside.clone(), fs::read(&aside).unwrap()), (dir.path().join("vault.void"), before));
    assert_eq!(names(&Vault::open(&path, "another").unwrap()), [""; 0]);
    assert_eq!(names(&open(&aside).unwrap()), ["old"], "with the old key it still opens");
}

#[test]
fn a_vault_that_is_not_for_its_owner_alone_is_refused() {
    let (_dir, path) = with_old();
    for wrong in [0o644, 0o640, 0o604, 0o660, 0o400, 0o700, 0o4600, 0] {
        mode(&path, wrong);
        let error = open(&path).unwrap_err();
        // Who is not root can't open the last one at all.
        assert!(
            matches!(error, VaultError::Mode { mode, .. } if mode == wrong) || (wrong == 0 && matches!(error, VaultError::Read { .. })),
            "{wrong:o}: {error}"
        );
    }
    mode(&path, 0o644);
    assert!(open(&path).unwrap_err().to_string().contains("mode 0644 instead of 0600"));
    mode(&path, 0o600);
    assert_eq!(names(&open(&path).unwrap()), ["old"]);
}

#[test]
fn a_vault_of_another_user_is_refused() {
    let (_dir, path) = with_old();
    // Only root can give a file away.
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&path, Some(65_534.into()), None).unwrap();
        assert!(matches!(open(&path), Err(VaultError::Owner { owner: 65_534, own: 0, .. })));
    }
}

#[test]
fn a_link_a_folder_a_pipe_and_a_socket_are_refused_at_once() {
    let (dir, path) = with_old();
    let at = |name: &str| dir.path().join(name);
    symlink(&path, at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    for link in ["link", "dangling"] {
        assert!(matches!(open(&at(link)), Err(VaultError::Symlink { .. })), "{link}");
    }
    assert!(!at("nowhere").exists());
    fs::create_dir(at("folder")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for other in ["folder", "pipe", "socket"] {
        let error = open(&at(other)).unwrap_err();
        assert!(matches!(error, VaultError::NotAFile { .. }), "{other}: {error}");
    }
    assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn a_file_that_is_too_large_or_empty_or_something_else_is_refused() {
    let (_dir, path) = with_old();
    File::options().write(true).open(&path).unwrap().set_len(file::FILE_MAX + 1).unwrap();
    assert!(matches!(open(&path), Err(VaultError::TooLarge { .. })));
    for (bytes, said) in [(&b""[..], "it is empty"), (b"MUSTER", "it is cut short"), (&[b'x'; 200], "its first bytes are wrong")] {
        fs::write(&path, bytes).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(said), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is done about it");
    }
}

#[test]
fn two_do_not_have_it_open_at_the_same_time() {
    let (_dir, path) = with_old();
    let vault = open(&path).unwrap();
    assert!(matches!(open(&path), Err(VaultError::InUse { .. })));
    assert!(matches!(set_aside(&path), Err(VaultError::InUse { .. })));
    // Who lets go soon is waited for.
    let closing = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100)); // stuck on purpose
        drop(vault);
    });
    open(&path).unwrap();
    closing.join().unwrap();
}

#[test]
fn a_file_that_was_replaced_behind_our_back_is_not_written_over() {
    let (dir, path) = with_old();
    let old = fs::read(&path).unwrap();
    let mut vault = open(&path).unwrap();
    vault.put("new", b"x").unwrap();
    let put_there: [&dyn Fn(); 4] =
        [&|| fs::write(&path, &old).unwrap(), &|| fs::write(&path, b"short").unwrap(), &|| fs::remove_file(&path).unwrap(), &|| {
            symlink(dir.path().join("elsewhere"), &path).unwrap()
        }];
    for (at, put_there) in put_there.iter().enumerate() {
        put_there();
        let error = vault.put("newer", b"x").unwrap_err();
        assert!(matches!(error, VaultError::Replaced { .. } | VaultError::Symlink { .. }), "{at}: {error}");
        assert_eq!(names(&vault), ["new", "old"]);
    }
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn an_older_file_of_the_same_vault_shows_by_its_counter() {
    let (_dir, path) = with_old();
    let (old, before) = (fs::read(&path).unwrap(), open(&path).unwrap().mark());
    open(&path).unwrap().put("new", b"x").unwrap();
    let after = open(&path).unwrap().mark();
    assert_eq!((&before.id, before.counter + 1), (&after.id, after.counter));
    fs::write(&path, &old).unwrap();
    assert_eq!(open(&path).unwrap().mark(), before);
}

/// Steps that end at one of them, as a process does that is killed there, or the disk with an error.
#[derive(Clone, Default)]
struct Failing(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    /// The step that fails, from 0; whether half of it is done.
    at: Option<(usize, i32)>,
    done: Vec<&'static str>,
}

impl Failing {
    fn step(&self, name: &'static str) -> io::Result<()> {
        let mut plan = self.0.lock().unwrap();
        match plan.at {
            Some((at, errno)) if at == plan.done.len() => Err(io::Error::from_raw_os_error(errno)),
            _ => {
                plan.done.push(name);
                Ok(())
            }
        }
    }

    fn plan(&self, at: Option<(usize, i32)>) {
        *self.0.lock().unwrap() = Plan { at, done: Vec::new() };
    }
}

impl Steps for Failing {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        // Half of it gets there, as when the disk fills up.
        file.write_all(&bytes[..bytes.len() / 2])?;
        self.step("write")?;
        file.write_all(&bytes[bytes.len() / 2..])
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step("sync")?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step("sync of the folder")?;
        File::open(folder)?.sync_all()
    }
}

#[test]
fn a_change_that_fails_at_any_step_leaves_the_old_vault_and_the_next_one_succeeds() {
    use nix::errno::Errno;
    let (dir, path) = with_old();
    let steps = Failing::default();
    let mut vault = Vault::open_on(path.clone(), KEY, Box::new(steps.clone())).unwrap();
    for (at, errno) in [(0, Errno::ENOSPC), (0, Errno::EIO), (1, Errno::EIO), (1, Errno::ENOSPC), (2, Errno::EACCES)] {
        steps.plan(Some((at, errno as i32)));
        let (before, bytes) = (vault.mark(), fs::read(&path).unwrap());
        let error = vault.put("new", b"x").unwrap_err();
        let VaultError::Write { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(errno as i32));
        assert!(error.to_string().contains("as it was before"));
        assert_eq!((fs::read(&path).unwrap(), vault.mark(), names(&vault)), (bytes, before, vec!["old"]));
        assert!(!dir.path().join("vault.new").exists());
        assert_eq!(*vault.get("old").unwrap().unwrap(), *b"hunter2-old");
    }
    steps.plan(None);
    vault.put("new", b"x").unwrap();
    assert_eq!(steps.0.lock().unwrap().done, ["write", "sync", "rename", "sync of the folder"]);
    steps.plan(Some((3, Errno::EIO as i32)));
    let error = vault.put("newer", b"x").unwrap_err();
    assert!(matches!(error, VaultError::Unsynced { .. }), "{error}");
    assert_eq!(names(&vault), ["new", "newer", "old"], "it is written all the same");
    drop(vault);
    assert_eq!(names(&open(&path).unwrap()), ["new", "newer", "old"]);
}

#[test]
fn what_a_crash_leaves_before_the_rename_is_removed_and_never_read() {
    let (dir, path) = with_old();
    let before = fs::read(&path).unwrap();
    let mut vault = open(&path).unwrap();
    vault.put("new", b"x").unwrap();
    drop(vault);
    let after = fs::read(&path).unwrap();
    let left_over = dir.path().join("vault.new");
    for length in [0, 1, after.len() / 2, after.len()] {
        fs::write(&path, &before).unwrap();
        fs::write(&left_over, &after[..length]).unwrap();
        mode(&left_over, 0o444);
        let mut vault = open(&path).unwrap();
        assert!(names(&vault) == ["old"] && !left_over.exists(), "{length} bytes were written");
        vault.put("newer", b"x").unwrap();
    }
    // Somebody else's link of that name is replaced, never followed.
    symlink(dir.path().join("elsewhere"), &left_over).unwrap();
    open(&path).unwrap().put("newest", b"x").unwrap();
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let dir = tempdir().unwrap();
    let error = open(&dir.path().join("none/vault")).unwrap_err();
    assert!(matches!(&error, VaultError::Write { source, .. } if source.kind() == io::ErrorKind::NotFound), "{error}");
}

#[test]
fn nothing_of_a_secret_is_on_the_disk_or_shown() {
    let (dir, path) = with_old();
    let mut vault = open(&path).unwrap();
    vault.put("newer", b"hunter2-newer").unwrap();
    let shown = format!("{vault:?} {:?}", vault.cipher);
    assert!(!shown.contains("hunter2") && shown.contains("counter: 2"), "{shown}");
    let mut files = 0;
    for file in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        files += 1;
    }
    assert_eq!(files, 2, "the vault and its lock");
}
