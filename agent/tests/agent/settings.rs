//! Settings as the process reads them.

use std::process::Command;

#[test]
fn an_empty_list_of_executors_in_the_environment_means_none() {
    let printed = |value: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_muster-agent")).env("EXECUTORS", value).arg("--print-config").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(printed("").contains("executors = []"), "{}", printed(""));
    assert!(printed("shell").contains("executors = [\"shell\"]"), "{}", printed("shell"));
}
