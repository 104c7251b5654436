//! Hostile archives, made byte by byte where no tool makes them, and honest ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs::File,
    io::{Seek, Write},
    ops::ControlFlow,
};

use flate2::{Compression, Crc, write::DeflateEncoder, write::GzEncoder};
use muster_files::archive::{ArchiveError, Event, Limits, Totals, walk};
use tar::{Builder, EntryType, Header};

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Paths and contents.
type Unpacked = Vec<(String, Vec<u8>)>;

/// What comes out: paths, those of folders with a slash, and contents.
fn unpack(bytes: &[u8], limits: &Limits) -> Result<(Unpacked, Totals), ArchiveError> {
    let mut out = Unpacked::new();
    let totals = walk(&file(bytes), limits, &mut |event| {
        match event {
            Event::Folder { path } => out.push((format!("{path}/"), Vec::new())),
            Event::File { path, .. } => out.push((path.to_owned(), Vec::new())),
            Event::Data(data) => out.last_mut().unwrap().1.extend_from_slice(data),
            Event::End => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok((out, totals))
}

fn refusal(bytes: &[u8]) -> String {
    refusal_within(bytes, &Limits::default())
}

/// Counts what comes instead of keeping it.
fn refusal_within(bytes: &[u8], limits: &Limits) -> String {
    let mut passed = 0;
    let result = walk(&file(bytes), limits, &mut |event| {
        if let Event::Data(data) = event {
            passed += data.len() as u64;
        }
        ControlFlow::Continue(())
    });
    assert!(passed <= limits.bytes, "{passed} bytes came out");
    result.expect_err("it was taken").to_string()
}

/// A tar of these entries, written as they are: names, kinds, contents.
fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name("/etc").unwrap();
        }
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An entry of a zip, with what it says of itself.
#[derive(Clone)]
struct Zipped {
    name: String,
    local_name: String,
    packed: Vec<u8>,
    size: u32,
    crc: u32,
    method: u16,
    flags: u16,
    mode: u32,
}

fn zipped(name: &str, content: &[u8]) -> Zipped {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    let mut crc = Crc::new();
    crc.update(content);
    Zipped {
        name: name.into(),
        local_name: name.into(),
        packed: encoder.finish().unwrap(),
        size: content.len() as u32,
        crc: crc.sum(),
        method: 8,
        flags: 0,
        mode: if name.ends_with('/') { 0o040_755 } else { 0o100_755 },
    }
}

fn zip(entries: &[Zipped]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = bytes.len() as u32;
        let common = |name: &str| {
            let mut out = Vec::new();
            for short in [20, entry.flags, entry.method, 0, 0] {
                out.extend(u16::to_le_bytes(short));
            }
            for long in [entry.crc, entry.packed.len() as u32, entry.size] {
                out.extend(long.to_le_bytes());
            }
            out.extend((name.len() as u16).to_le_bytes());
            out.extend(0_u16.to_le_bytes());
            out
        };
        bytes.extend(b"PK\x03\x04");
        bytes.extend(common(&entry.local_name));
        bytes.extend(entry.local_name.as_bytes());
        bytes.extend(&entry.packed);
        directory.extend(b"PK\x01\x02");
        directory.extend((3_u16 << 8 | 20).to_le_bytes());
        directory.extend(common(&entry.name));
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    end(bytes, &directory, entries.len() as u16)
}

fn end(mut bytes: Vec<u8>, directory: &[u8], entries: u16) -> Vec<u8> {
    let at = bytes.len() as u32;
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(entries.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;

#[test]
fn honest_archives_come_out_as_they_went_in() {
    let expect = vec![("a/".to_owned(), vec![]), ("a/b.txt".to_owned(), b"bee".to_vec()), ("c".to_owned(), vec![])];
    let plain = tar(&[("./", FOLDER, b""), ("a/", FOLDER, b""), ("./a/b.txt", FILE, b"bee"), ("c", FILE, b"")]);
    let zip = zip(&[zipped("a/", b""), zipped("a/b.txt", b"bee"), zipped("c", b"")]);
    for (kind, bytes) in [("tar", plain.clone()), ("tar.gz", gz(&plain)), ("zip", zip)] {
        let (out, totals) = unpack(&bytes, &Limits::default()).unwrap();
        assert_eq!(out, expect, "{kind}");
        assert_eq!(totals, Totals { files: 2, folders: 1, bytes: 3 }, "{kind}");
    }
    for bytes in [&b""[..], b"hello", &gz(b"no tar")] {
        assert!(unpack(bytes, &Limits::default()).is_err(), "{bytes:?}");
    }
}

#[test]
fn archives_of_the_usual_tools_are_read_long_names_and_all() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    std::fs::create_dir(dir.path().join("d".repeat(120))).unwrap();
    std::fs::write(dir.path().join(&long), "long").unwrap();
    for format in ["gnu", "pax", "posix"] {
        let out = dir.path().join("out.tar");
        let status = std::process::Command::new("tar")
            .args(["--format", format, "-cf"])
            .arg(&out)
            .arg("-C")
            .arg(dir.path())
            .arg("d".repeat(120))
            .status()
            .unwrap();
        assert!(status.success());
        let (files, _) = unpack(&std::fs::read(&out).unwrap(), &Limits::default()).unwrap();
        assert!(files.contains(&(long.clone(), b"long".to_vec())), "{format}: {files:?}");
    }
}

#[test]
fn no_name_in_an_archive_leads_out() {
    for name in [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "..",
        "a/..",
        "..\\evil",
        "C:\\evil",
        "a/b\\..\\c",
        "a\u{1}b",
        "evil.",
        "evil ",
        "a/./../b",
    ] {
        let tarred = refusal(&tar(&[("good", FILE, b""), (name, FILE, b"x")]));
        let zipped = refusal(&zip(&[zipped("good", b""), zipped(name, b"x")]));
        for message in [tarred, zipped] {
            assert!(message.starts_with("entry `"), "{name}: {message}");
        }
    }
    let message = refusal(&zip(&[Zipped { local_name: "../evil".into(), ..zipped("fine123", b"x") }]));
    assert!(message.contains("fine123"), "{message}");
    // Not decoded: a name like any other.
    assert_eq!(unpack(&tar(&[("%2e%2e/evil", FILE, b"x")]), &Limits::default()).unwrap().0[0].0, "%2e%2e/evil");
}

#[test]
fn a_name_that_an_extended_header_or_a_long_name_gives_is_checked_like_any_other() {
    let pax = |text: &str| {
        let length = text.len() + 4;
        format!("{length} {text}\n").into_bytes()
    };
    for entries in [
        vec![("h", EntryType::XHeader, pax("path=../../evil")), ("fine", FILE, vec![])],
        vec![("h", EntryType::GNULongName, b"/abs/evil\0".to_vec()), ("fine", FILE, vec![])],
    ] {
        let entries: Vec<_> = entries.iter().map(|(name, kind, content)| (*name, *kind, content.as_slice())).collect();
        assert!(refusal(&tar(&entries)).contains("evil"));
    }
    for text in ["GNU.sparse.realsize=9", "size=999999999"] {
        let header = pax(text);
        let message = refusal(&tar(&[("h", EntryType::XHeader, &header), ("fine", FILE, b"x")]));
        assert!(message.contains("sparse") || message.contains("sizes"), "{message}");
    }
    for broken in [&b"999 path=a\n"[..], b"5 a\n", b"x", b"0 a=b\n"] {
        assert!(refusal(&tar(&[("h", EntryType::XHeader, broken), ("fine", FILE, b"")])).contains("malformed"));
    }
    // Held in memory, so it is bounded.
    let huge = vec![b'a'; 70 << 10];
    assert!(refusal(&tar(&[("h", EntryType::GNULongName, &huge), ("fine", FILE, b"")])).contains("header"));
}

#[test]
fn links_devices_and_sparse_files_are_refused_by_name() {
    for (kind, what) in [
        (EntryType::Symlink, "symbolic link"),
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "FIFO"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::new(b'?'), "unknown"),
    ] {
        // And what is written through the link never comes.
        let message = refusal(&tar(&[("link", kind, b""), ("link/passwd", FILE, b"x")]));
        assert!(message.starts_with("entry `link`") && message.contains(what), "{message}");
    }
    let link = Zipped { mode: 0o120_777, ..zipped("link", b"/etc") };
    assert!(refusal(&zip(&[link, zipped("link/passwd", b"x")])).contains("symbolic link"));
    assert!(refusal(&zip(&[Zipped { mode: 0o020_644, ..zipped("tty", b"") }])).contains("neither"));
}

#[test]
fn two_entries_are_never_one_file() {
    for (one, other) in [("a", "a"), ("a", "A"), ("ä", "Ä"), ("a", "./a"), ("d/a", "D/A"), ("x", "x/y"), ("x/y", "x")] {
        let tarred = refusal(&tar(&[(one, FILE, b"1"), (other, FILE, b"2")]));
        let zipped = refusal(&zip(&[zipped(one, b"1"), zipped(other, b"2")]));
        for message in [tarred, zipped] {
            assert!(message.contains("twice") || message.contains("is a file"), "{one} {other}: {message}");
        }
    }
}

#[test]
fn bombs_are_stopped_early() {
    let zeros = vec![0; 64 << 20];
    let bombs = [("zip", zip(&[zipped("zeros", &zeros)])), ("tar.gz", gz(&tar(&[("zeros", FILE, &zeros)])))];
    for (kind, bytes) in bombs {
        let message = refusal(&bytes);
        assert!(message.contains("times its size") && message.contains("zeros"), "{kind}: {message}");
        assert!(refusal_within(&bytes, &Limits { bytes: 1 << 20, ..Limits::default() }).contains("1048576 bytes"));
    }
    // Many entries over the same data (no overlap is looked for: the sum is what counts).
    let one = zipped("0", &zeros[..4 << 20]);
    let many: Vec<_> = (0..20).map(|at| Zipped { name: at.to_string(), local_name: at.to_string(), ..one.clone() }).collect();
    assert!(refusal(&zip(&many)).contains("times its size"));
}

#[test]
fn an_archive_within_an_archive_is_a_file() {
    let mut nested = zip(&[zipped("zeros", &vec![0; 1 << 20])]);
    for _ in 0..5 {
        nested = zip(&[zipped("nested.zip", &nested)]);
    }
    let (out, _) = unpack(&nested, &Limits::default()).unwrap();
    assert_eq!((out.len(), out[0].0.as_str()), (1, "nested.zip"));
}

#[test]
fn a_million_entries_are_refused_before_they_are_held() {
    // As a stream: each entry is a header of 512 bytes, and they pack well.
    let mut header = Header::new_ustar();
    header.set_entry_type(FILE);
    header.set_size(0);
    header.set_mode(0o644);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for at in 0..1_000_000 {
        let name = format!("{at:07}");
        header.as_mut_bytes()[..7].copy_from_slice(name.as_bytes());
        header.set_cksum();
        encoder.write_all(header.as_bytes()).unwrap();
    }
    let message = refusal(&encoder.finish().unwrap());
    assert!(message.contains("more than 10000 entries") && message.contains("0010000"), "{message}");
    // A zip says how many it has; more than it can count are zip64.
    let many: Vec<_> = (0..20_000).map(|at| zipped(&at.to_string(), b"")).collect();
    assert!(refusal(&zip(&many)).contains("20000 entries"));
    assert!(refusal(&end(b"PK\x03\x04".to_vec(), b"", u16::MAX)).contains("zip64"));
    // Nothing but headers of names.
    let long: Vec<_> = (0..30).map(|_| ("h", EntryType::GNULongName, &b"x\0"[..])).collect();
    assert!(refusal_within(&tar(&long), &Limits { entries: 5, ..Limits::default() }).contains("headers"));
}

#[test]
fn what_an_archive_says_of_sizes_is_not_believed() {
    let honest = zipped("a", b"hello");
    for (lie, word) in [
        (Zipped { size: 3, ..honest.clone() }, "more"),
        (Zipped { size: 9, ..honest.clone() }, "fewer"),
        (Zipped { crc: 1, ..honest.clone() }, "checksum"),
        (Zipped { size: u32::MAX, ..honest.clone() }, "zip64"),
        (Zipped { method: 0, ..honest.clone() }, "bytes"),
        (Zipped { method: 14, ..honest.clone() }, "method"),
        (Zipped { flags: 1, ..honest.clone() }, "encrypted"),
        (Zipped { packed: vec![0xff; 9], ..honest.clone() }, "damaged"),
    ] {
        let message = refusal(&zip(&[lie]));
        assert!(message.starts_with("entry `a`") && message.contains(word), "{word}: {message}");
    }
    // A tar whose header promises terabytes, and one that is cut off.
    let mut header = Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_size(1 << 42);
    header.set_cksum();
    let mut lie = header.as_bytes().to_vec();
    lie.extend([0; 2048]);
    assert!(refusal(&lie).contains("huge"));
    let whole = tar(&[("a", FILE, &[1; 4096])]);
    assert!(refusal(&whole[..2048]).contains('a'));
}

#[test]
fn depth_and_length_of_paths_are_bounded() {
    for name in [vec!["d"; 33].join("/"), "x".repeat(256), vec!["x".repeat(200); 6].join("/")] {
        assert!(refusal(&zip(&[zipped(&name, b"")])).starts_with("entry `"), "{name}");
    }
}

#[test]
fn an_archive_that_is_cut_or_flipped_anywhere_is_an_error_or_harmless() {
    let content: Vec<u8> = (0..3000_u32).map(|at| (at % 251) as u8).collect();
    let plain = tar(&[("d/", FOLDER, b""), ("d/a", FILE, &content)]);
    for bytes in [zip(&[zipped("d/", b""), zipped("d/a", &content)]), gz(&plain), plain] {
        for at in (0..bytes.len().min(1500)).step_by(3) {
            let _cut = unpack(&bytes[..at], &Limits::default());
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            if let Ok((out, _)) = unpack(&flipped, &Limits::default()) {
                assert!(out.iter().all(|(path, _)| !path.starts_with('/') && !path.contains("..")), "{out:?}");
            }
        }
    }
}

#[test]
fn whoever_wants_no_more_gets_no_more() {
    let mut events = 0;
    let stopped = walk(&file(&tar(&[("a", FILE, b"x"), ("b", FILE, b"y")])), &Limits::default(), &mut |_| {
        events += 1;
        if events == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(ArchiveError::Stopped)) && events == 2);
}
