//! The dispatcher as a process of its own. All of it is in the library.

fn main() -> std::process::ExitCode {
    muster_dispatcher::main_with(std::env::args_os())
}
