//! That this build reads what the document of the format says: `version-1.vault` was written by another program (Python's `hashlib` and `cryptography`) from
//! `docs/vault.md` alone. A build that does not read it breaks every vault there is.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use muster_vault::Vault;

#[test]
fn a_vault_that_was_written_by_the_document_alone_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    fs::write(&path, include_bytes!("version-1.vault")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut vault = Vault::open(&path, "mst_agent_key").unwrap();
    assert_eq!(vault.names().collect::<Vec<_>>(), ["connection/db", "sealing-key"]);
    assert_eq!(**vault.get("connection/db").unwrap().unwrap(), *b"hunter2-db");
    assert_eq!((vault.mark().id.as_str(), vault.mark().counter), ("101112131415161718191a1b1c1d1e1f", 7));
    vault.put("new", b"x").unwrap();
    assert_eq!(vault.mark().counter, 8);
    assert_eq!(fs::read(&path).unwrap().get(..12), Some(&b"MUSTERVT\0\0\0\x01"[..]));
}
