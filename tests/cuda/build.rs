//! The kernels as a library of the host: compiled once for each content, with g++ and the sanitizers.

use crate::device;
use air_rs::hal::cuda::kernels::{LAYOUTS, names};
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
];

/// Set in the process that has the sanitizers loaded.
const RESTARTED: &str = "AIR_CUDA_TESTS_RESTARTED";

pub fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".into())
}

/// The compiler, without the sanitizers' library.
fn command() -> Command {
    let mut c = Command::new(compiler());
    c.env_remove("LD_PRELOAD");
    c
}

/// What the compiler prints, if there is one.
fn ask(args: &[&str]) -> Option<String> {
    let output = command().args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// The library of all kernels; none where there is no compiler, which is said.
pub fn library() -> Option<PathBuf> {
    if ask(&["--version"]).is_none() {
        eprintln!("skipped: no {} to compile the kernels with", compiler());
        return None;
    }
    let mut sources = files(&kernels(), "cu");
    sources.push(kernels().join("host/emulator.cpp"));
    sources.push(layouts());
    Some(compile("kernels", &sources, &[]))
}

/// Files of a folder by their ending, in order.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == ending)).collect();
    files.sort();
    files
}

/// Compiles sources, those that are not in the cache, on all cores, and links them.
pub fn compile(name: &str, sources: &[PathBuf], more: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&dir).unwrap();
    let common = common(more);
    let objects: Vec<PathBuf> = sources
        .iter()
        .map(|s| {
            let key = hash(&(common, std::fs::read(s).unwrap()));
            dir.join(format!("{}-{key:016x}.o", s.file_stem().unwrap().to_str().unwrap()))
        })
        .collect();
    let missing = sources.iter().zip(&objects).filter(|(_, o)| !o.exists());
    let queue: Mutex<Vec<_>> = Mutex::new(missing.collect());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((source, object)) = { queue.lock().unwrap().pop() } {
                    object_of(source, object, more);
                }
            });
        }
    });
    let library = dir.join(format!("{name}-{:016x}.so", hash(&objects)));
    if !library.exists() {
        run(command().args(FLAGS).arg("-shared").args(&objects), &library);
    }
    library
}

fn object_of(source: &Path, object: &Path, more: &[&str]) {
    let mut c = command();
    c.args(FLAGS).args(more).arg("-I").arg(kernels()).arg("-I").arg(kernels().join("host"));
    if source.extension() == Some(OsStr::new("cu")) {
        c.arg("-include").arg(kernels().join("host/cuda_host.h")).args(["-x", "c++"]);
    }
    run(c.arg("-c").arg(source), object);
}

/// Runs a compiler; its output appears at once and whole.
fn run(c: &mut Command, to: &Path) {
    let temp = to.with_extension(format!("{}.tmp", std::process::id()));
    let output = c.arg("-o").arg(&temp).output().unwrap();
    assert!(output.status.success(), "{c:?}\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(temp, to).unwrap();
}

/// What every object depends on: the headers, the flags, the compiler.
fn common(more: &[&str]) -> u64 {
    let dirs = [kernels(), kernels().join("formats"), kernels().join("host")];
    let headers: Vec<PathBuf> = dirs.iter().flat_map(|d| [files(d, "cuh"), files(d, "h")]).flatten().collect();
    let texts: Vec<Vec<u8>> = headers.iter().map(|h| std::fs::read(h).unwrap()).collect();
    hash(&(texts, FLAGS, more, compiler(), ask(&["--version"])))
}

fn hash(x: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    x.hash(&mut hasher);
    hasher.finish()
}

/// A source that does not compile unless every struct is laid out as the Rust side has it.
fn layouts() -> PathBuf {
    let mut text = String::from("#include \"cuda_host.h\"\n#include \"args.cuh\"\n");
    for l in LAYOUTS {
        writeln!(text, "static_assert(sizeof({}) == {}, \"size\");", l.name, l.size).unwrap();
        for (field, offset, bytes) in l.fields {
            let name = l.name;
            writeln!(text, "static_assert(offsetof({name}, {field}) == {offset}, \"{field}\");").unwrap();
            writeln!(text, "static_assert(sizeof((({name}*)0)->{field}) == {bytes}, \"{field}\");").unwrap();
        }
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layouts.cpp");
    std::fs::write(&path, text).unwrap();
    path
}

/// Goes on as a process with the address sanitizer's library loaded, which must come first.
pub fn restart_with_sanitizers() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(RESTARTED).is_some() {
        return;
    }
    let library = ask(&["-print-file-name=libasan.so"]).expect("a compiler with sanitizers knows their library");
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(std::env::args_os().skip(1)).env(RESTARTED, "1").env("LD_PRELOAD", library);
    // Rust's memory is not given back at the end, and what is allocated is counted by the tests' device.
    c.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0");
    c.env("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1");
    panic!("cannot start again: {}", c.exec());
}

/// The kernels that are launched are those that there are.
pub fn every_kernel_has_a_launcher() {
    let mut defined = vec![];
    for source in files(&kernels(), "cu") {
        let mut c = command();
        c.arg("-E").arg("-include").arg(kernels().join("host/cuda_host.h")).args(["-x", "c++"]).arg(&source);
        let output = c.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.split("air_facts_").skip(1).map(|rest| rest.split(['[', ' ']).next().unwrap().to_string());
        defined.extend(names);
    }
    defined.sort();
    assert_eq!(defined, names(), "kernels of kernels/*.cu, and those that kernels.rs launches");
    names().iter().for_each(|name| device::kernel(name).map(drop).unwrap());
}
