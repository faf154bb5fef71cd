//! Running the program.

use super::models::Temp;
use assert_cmd::Command;
use std::process::Output;

/// `air` with nothing of the caller's settings.
pub fn air(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.args(args).current_dir(std::env::temp_dir()).env_clear();
    c
}

pub fn run(args: &[&str]) -> Output {
    air(args).output().expect("air starts")
}

pub fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).expect("stdout is UTF-8")
}

pub fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).expect("stderr is UTF-8")
}

/// A file with a text.
pub fn temp_file(name: &str, text: &str) -> Temp {
    let temp = Temp::new(name);
    std::fs::write(&*temp, text).expect("the temporary directory is writable");
    temp
}
