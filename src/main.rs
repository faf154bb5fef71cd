//! The `air` program: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    air_rs::cli::main()
}
