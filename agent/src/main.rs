//! The thin binary `muster-agent`; everything is in the library.

fn main() -> std::process::ExitCode {
    muster_agent::main_with(std::env::args_os())
}
