//! Every way out of a folder that names, links, devices and mounts offer, tried on a real file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use muster_files::{FileError, Roots};

struct Place {
    _dir: tempfile::TempDir,
    /// What is allowed.
    root: String,
    /// What is not.
    outside: String,
    roots: Roots,
}

/// An allowed folder with `a.txt` and `sub/b.txt`, and one beside it with `secret`.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let [root, outside] = ["root", "outside"].map(|name| base.join(name).to_str().unwrap().to_owned());
    fs::create_dir_all(format!("{root}/sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(format!("{root}/a.txt"), "a").unwrap();
    fs::write(format!("{root}/sub/b.txt"), "b").unwrap();
    fs::write(format!("{outside}/secret"), "secret").unwrap();
    let roots = Roots::new(&[root.clone().into()]).unwrap();
    Place { _dir: dir, root, outside, roots }
}

impl Place {
    fn read(&self, path: &str) -> Result<String, FileError> {
        let mut text = String::new();
        self.roots.open(path)?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn write(&self, path: &str, text: &str) -> Result<(), FileError> {
        let mut file = self.roots.create(path, 0o640)?;
        file.write_all(text.as_bytes()).unwrap();
        file.finish()
    }

    fn entries(&self) -> usize {
        fs::read_dir(&self.root).unwrap().count()
    }
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

#[test]
fn files_beneath_an_allowed_folder_are_read_and_made() {
    let place = place();
    assert_eq!(place.read(&format!("{}/a.txt", place.root)).unwrap(), "a");
    assert_eq!(place.read(&format!("{}/sub/b.txt", place.root)).unwrap(), "b");
    let new = format!("{}/sub/new", place.root);
    place.write(&new, "one").unwrap();
    place.write(&new, "two").unwrap();
    assert_eq!(place.read(&new).unwrap(), "two");
    assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o640);
    let folder = place.roots.folder(&format!("{}/made", place.root)).unwrap();
    folder.folder("deeper").unwrap();
    folder.create("deeper/c", 0o600).unwrap().finish().unwrap();
    assert_eq!(place.read(&format!("{}/made/deeper/c", place.root)).unwrap(), "");
    place.roots.folder(&place.root).unwrap();
}

#[test]
fn no_name_leads_out() {
    let place = place();
    let (root, outside) = (&place.root, &place.outside);
    for path in [
        format!("{root}/../outside/secret"),
        format!("{root}/sub/../../outside/secret"),
        format!("{root}/.."),
        format!("{root}/./a.txt"),
        format!("{root}//a.txt"),
        format!("{root}/"),
        root.clone(),
        format!("{root}/..\\outside\\secret"),
        format!("{root}/a.txt\0.png"),
        format!("{root}/a.txt."),
        format!("{root}/a.txt "),
        format!("{root}/a\n.txt"),
        format!("{root}/{}", "x".repeat(256)),
        format!("{outside}/secret"),
        format!("{root}x/a.txt"),
        "a.txt".to_owned(),
        "../outside/secret".to_owned(),
        "~/a.txt".to_owned(),
        "/proc/self/environ".to_owned(),
        "/etc/passwd".to_owned(),
        String::new(),
    ] {
        for error in [place.roots.open(&path).err(), place.roots.create(&path, 0o600).err()] {
            assert!(matches!(error, Some(FileError::Name { .. } | FileError::Outside { .. })), "{path:?}: {error:?}");
        }
    }
    // Nothing is decoded or folded: these are names that are not there.
    for path in [format!("{root}/%2e%2e/outside/secret"), format!("{root}/%2e%2e%2foutside%2fsecret"), format!("{root}/A.TXT")] {
        assert!(matches!(place.roots.open(&path), Err(FileError::Io { .. })), "{path}");
    }
    assert_eq!(place.entries(), 2);
}

#[test]
fn without_an_allowed_folder_there_are_no_files() {
    let error = Roots::default().open("/etc/hostname").unwrap_err();
    assert!(matches!(error, FileError::NoRoots { .. }) && error.to_string().contains("FILES_ROOTS"), "{error}");
}

#[test]
fn what_must_not_be_allowed_is_refused_by_its_name() {
    for wrong in ["/", "//", "srv", "", "/srv/..", "/srv//a", "/srv/./a", "/proc", "/proc/self", "/sys", "/dev/shm", "/srv/a\\b"] {
        let error = Roots::new(&["/srv".into(), wrong.into()]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{wrong}`")), "{wrong}: {error}");
    }
    Roots::new(&["/srv/".into(), "/process".into()]).unwrap();
}

#[test]
fn the_environment_of_processes_is_not_had_over_a_link_to_it_either() {
    let place = place();
    let link = format!("{}/proc", place.root);
    symlink("/proc/self", &link).unwrap();
    let roots = Roots::new(&[link.clone().into()]).unwrap();
    assert!(roots.open(&format!("{link}/environ")).is_err());
    assert!(matches!(place.read(&format!("{link}/environ")), Err(FileError::Leads { .. })));
}

#[test]
fn symbolic_links_are_not_followed() {
    let place = place();
    let (root, outside) = (&place.root, &place.outside);
    symlink(format!("{outside}/secret"), format!("{root}/link")).unwrap();
    symlink(outside, format!("{root}/dir")).unwrap();
    symlink("a.txt", format!("{root}/inner")).unwrap();
    symlink(format!("{outside}/new"), format!("{root}/dangling")).unwrap();
    for name in ["link", "dir/secret", "inner", "dangling"] {
        let path = format!("{root}/{name}");
        assert!(matches!(place.read(&path), Err(FileError::Leads { .. })), "{name}");
        assert!(matches!(place.write(&path, "x"), Err(FileError::Leads { .. })), "{name}");
    }
    assert!(place.roots.folder(&format!("{root}/dir")).is_err());
    assert!(place.roots.folder(&format!("{root}/dir/new")).is_err());
    assert_eq!(fs::read_to_string(format!("{outside}/secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1);
}

#[test]
fn a_file_with_a_second_name_is_not_read_and_one_that_is_replaced_keeps_its_content() {
    let place = place();
    let (secret, link) = (format!("{}/secret", place.outside), format!("{}/hard", place.root));
    fs::hard_link(&secret, &link).unwrap();
    assert!(matches!(place.read(&link), Err(FileError::HardLinked { links: 2, .. })));
    place.write(&link, "new").unwrap();
    assert_eq!((fs::read_to_string(&secret).unwrap().as_str(), fs::read_to_string(&link).unwrap().as_str()), ("secret", "new"));
}

#[test]
fn only_regular_files_are_opened_and_nothing_waits_for_a_fifo() {
    let place = place();
    let root = &place.root;
    run("mkfifo", &[&format!("{root}/fifo")]);
    let _socket = UnixListener::bind(format!("{root}/socket")).unwrap();
    fs::create_dir(format!("{root}/folder")).unwrap();
    let mut kinds = vec![("fifo", "FIFO"), ("socket", "socket"), ("folder", "folder")];
    // Only root can make devices.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        run("mknod", &[&format!("{root}/null"), "c", "1", "3"]);
        kinds.push(("null", "device"));
    }
    for (name, what) in kinds {
        let path = format!("{root}/{name}");
        for error in [place.roots.open(&path).map(drop), place.write(&path, "x")] {
            let error = error.unwrap_err();
            assert!(matches!(error, FileError::NotRegular { .. }) && error.to_string().contains(what), "{name}: {error}");
        }
    }
}

#[test]
fn a_mount_point_beneath_the_folder_is_not_entered() {
    // A mount that is there everywhere: `/dev/shm`, or whatever else lies on another file system in a folder of the root's.
    let device = |path: &str| fs::metadata(path).ok().map(|found| found.dev());
    let place = place();
    let mount = format!("{}/mount", place.root);
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs", &mount]).output().is_ok_and(|done| done.status.success());
    if mounted {
        fs::write(format!("{mount}/file"), "x").unwrap();
        let (read, written) = (place.read(&format!("{mount}/file")), place.write(&format!("{mount}/new"), "x"));
        run("umount", &[&mount]);
        assert!(matches!(read, Err(FileError::Leads { .. })), "{read:?}");
        assert!(matches!(written, Err(FileError::Leads { .. })), "{written:?}");
        return;
    }
    // Nobody lets us mount: `/dev` is no folder that may be allowed, but `/run`, `/etc` or `/mnt` often have mounts in them.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in points {
        let Some((parent, name)) = point.rsplit_once('/').filter(|(parent, _)| parent.len() > 1) else { continue };
        let Ok(roots) = Roots::new(&[parent.into()]) else { continue };
        if Path::new(point).is_file() || device(parent) != device(point) {
            let error = roots.open(&format!("{parent}/{name}")).unwrap_err();
            assert!(matches!(error, FileError::Leads { .. } | FileError::NotRegular { .. }), "{point}: {error}");
        }
    }
}

/// Swaps a folder for a link that leads out, and a file for one, as fast as it can.
#[test]
fn whoever_swaps_links_in_between_gets_nothing_out_and_nothing_in() {
    let place = place();
    let (root, outside) = (&place.root, &place.outside);
    fs::write(format!("{outside}/b.txt"), "secret").unwrap();
    symlink(outside, format!("{root}/evil")).unwrap();
    symlink(format!("{outside}/secret"), format!("{root}/evil.txt")).unwrap();
    let done = AtomicBool::new(false);
    let (mut good, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let swapper = || {
            let exchange = |one: &str, other: &str| {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    format!("{root}/{one}"),
                    rustix::fs::CWD,
                    format!("{root}/{other}"),
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .unwrap();
            };
            while !done.load(Ordering::Relaxed) {
                exchange("sub", "evil");
                exchange("a.txt", "evil.txt");
            }
        };
        scope.spawn(swapper);
        for round in 0..20_000 {
            for (path, content) in [(format!("{root}/sub/b.txt"), "b"), (format!("{root}/a.txt"), "a")] {
                match place.read(&path) {
                    Ok(text) if text == content => good += 1,
                    Ok(text) => panic!("read {text} from outside"),
                    Err(FileError::Leads { .. }) => refused += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            if round % 20 == 0 {
                let _refused = place.write(&format!("{root}/sub/written"), "x");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(good > 0 && refused > 0, "{good} read, {refused} refused: nothing was swapped");
    let mut names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["b.txt", "secret"]);
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let place = place();
    let path = format!("{}/a.txt", place.root);
    let mut file = place.roots.create(&path, 0o600).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!(place.read(&path).unwrap(), "a");
    drop(file);
    assert_eq!((place.read(&path).unwrap().as_str(), place.entries()), ("a", 2));
    // Its folder moves away meanwhile: it goes with it.
    let mut file = place.roots.create(&format!("{}/sub/new", place.root), 0o600).unwrap();
    fs::rename(format!("{}/sub", place.root), format!("{}/moved", place.root)).unwrap();
    symlink(&place.outside, format!("{}/sub", place.root)).unwrap();
    file.write_all(b"whole").unwrap();
    file.finish().unwrap();
    assert_eq!(place.read(&format!("{}/moved/new", place.root)).unwrap(), "whole");
    assert_eq!(fs::read_dir(&place.outside).unwrap().count(), 1);
}
