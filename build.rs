//! Compiles `kernels/*.cu` to PTX where the feature `cuda` is on, and does nothing else.
//!
//! nvcc is `$NVCC`, that of `$CUDA_HOME`, the one in `$PATH`, or what `scripts/setup_cuda.sh` installed, in this order.
//! Each file is compiled by itself, several at once, for compute_80, which the driver then compiles for its own GPU.
//! What was compiled is kept under a hash of all that it depends on: the text, the headers, the flags, the compiler. At
//! last a table for `src/hal/cuda/ptx.rs` is written, with the kernels of each file and the size of their argument.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// No fast math: the results are compared with the interpreter's.
const FLAGS: [&str; 7] = ["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "-lineinfo", "-Werror", "all-warnings"];

type Result<T> = std::result::Result<T, String>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "AIR_CUDA"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(problem) = kernels() {
        for line in problem.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn kernels() -> Result<()> {
    let nvcc = nvcc()?;
    let version = run(Command::new(&nvcc).arg("--version"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut sources = vec![];
    let mut headers = vec![];
    walk(Path::new("kernels"), &mut |path| match path.extension().and_then(|e| e.to_str()) {
        Some("cu") => sources.push(path),
        Some("cuh") => headers.push(path),
        _ => {}
    })?;
    sources.sort();
    headers.sort();
    let mut common = DefaultHasher::new();
    (FLAGS, &version).hash(&mut common);
    for header in &headers {
        (header, read(header)?).hash(&mut common);
    }
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = vec![];
        while let Some(source) = sources.get(next.fetch_add(1, Relaxed)) {
            done.push(compile(&nvcc, source, common.clone(), &out));
        }
        done
    };
    let compiled: Vec<Result<Compiled>> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..jobs.clamp(1, sources.len().max(1))).map(|_| s.spawn(worker)).collect();
        threads.into_iter().flat_map(|t| t.join().expect("a worker returns its errors")).collect()
    });
    let mut compiled = compiled.into_iter().collect::<Result<Vec<_>>>()?;
    compiled.sort_by(|a, b| a.name.cmp(&b.name));
    let write = |name: &str, text: String| fs::write(out.join(name), text).map_err(|e| format!("{name}: {e}"));
    // For scripts/check_kernels.sh.
    write("nvcc", nvcc.display().to_string())?;
    write("ptx.rs", table(&compiled, toolkit(&version)?))
}

/// A file of kernels.
struct Compiled {
    name: String,
    ptx: PathBuf,
    /// Symbols and bytes of their argument.
    entries: Vec<(String, usize)>,
}

fn compile(nvcc: &Path, source: &Path, mut hash: DefaultHasher, out: &Path) -> Result<Compiled> {
    let name = source.file_stem().and_then(|s| s.to_str()).ok_or("a kernel's file name is not Unicode")?.to_string();
    read(source)?.hash(&mut hash);
    let ptx = out.join(format!("{name}-{:016x}.ptx", hash.finish()));
    if !ptx.exists() {
        // Renamed when it is whole: a build that is ended leaves no half of it under this name.
        let part = ptx.with_extension("part");
        run(Command::new(nvcc).args(FLAGS).arg("-Ikernels").arg("-o").arg(&part).arg(source))?;
        // Lines are known by the file's place in the package, not by where the package lies.
        let here = env::current_dir().map_err(|e| e.to_string())?;
        let text = read(&part)?.replace(&format!("{}/", here.display()), "");
        fs::write(&part, text).and_then(|()| fs::rename(&part, &ptx)).map_err(|e| format!("{}: {e}", ptx.display()))?;
    }
    let entries = entries(&read(&ptx)?).map_err(|problem| format!("{}: {problem}", source.display()))?;
    Ok(Compiled { name, ptx, entries })
}

/// The kernels of a PTX text: `.entry NAME(` and `.param .align 8 .b8 NAME_param_0[SIZE]`.
fn entries(ptx: &str) -> Result<Vec<(String, usize)>> {
    let mut all = vec![];
    for rest in ptx.split(".entry ").skip(1) {
        let name = rest.split(['(', '\n']).next().unwrap_or("").trim();
        let params = rest.split('{').next().unwrap_or("");
        let shape = format!("the kernel {name} must take one struct, by value");
        let size = params.split(&format!("{name}_param_0[")).nth(1).and_then(|s| s.split(']').next()).ok_or(&shape)?;
        if params.contains("_param_1") {
            return Err(shape);
        }
        all.push((name.to_string(), size.parse().map_err(|_| shape)?));
    }
    Ok(all)
}

fn table(compiled: &[Compiled], (major, minor): (u32, u32)) -> String {
    let mut out = format!("/// The CUDA that wrote them.\npub const TOOLKIT: (i32, i32) = ({major}, {minor});\n\n");
    out += "/// All files of kernels.\npub const MODULES: &[Module] = &[\n";
    for Compiled { name, ptx, entries } in compiled {
        let text = format!("concat!(include_str!({:?}), \"\\0\")", ptx.display().to_string());
        let _ = writeln!(out, "    Module {{\n        name: {name:?},\n        text: {text},\n        entries: &[");
        for (name, args) in entries {
            let _ = writeln!(out, "            Entry {{ name: {name:?}, args: {args} }},");
        }
        out += "        ],\n    },\n";
    }
    out + "];\n"
}

/// The compiler.
fn nvcc() -> Result<PathBuf> {
    let program = format!("nvcc{}", env::consts::EXE_SUFFIX);
    if let Some(named) = env::var_os("NVCC") {
        return Ok(named.into());
    }
    let home = |name: &str| env::var_os(name).map(PathBuf::from);
    let mut places: Vec<PathBuf> = home("CUDA_HOME").into_iter().map(|h| h.join("bin")).collect();
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    let cache = home("XDG_CACHE_HOME").or_else(|| Some(home("HOME")?.join(".cache")));
    let installed = home("AIR_CUDA").or_else(|| Some(cache?.join("air-cuda")));
    places.extend(installed.map(|i| i.join("nvidia/cu13/bin")));
    let found = places.into_iter().map(|p| p.join(&program)).find(|p| p.is_file());
    found.ok_or_else(|| {
        "the feature `cuda` needs nvcc, which is neither in CUDA_HOME nor in PATH; run: scripts/setup_cuda.sh".into()
    })
}

/// `Cuda compilation tools, release 13.0, V13.0.88`
fn toolkit(version: &str) -> Result<(u32, u32)> {
    let number = version.split("release ").nth(1).and_then(|s| s.split(',').next()).and_then(|s| s.split_once('.'));
    let parse = |(a, b): (&str, &str)| Some((a.parse().ok()?, b.parse().ok()?));
    number.and_then(parse).ok_or_else(|| format!("nvcc does not say which release it is: {version}"))
}

fn walk(dir: &Path, found: &mut dyn FnMut(PathBuf)) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() { walk(&path, found)? } else { found(path) }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Standard output, or all that it said if it failed.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{program} failed:\n{}{}", text(&output.stdout), text(&output.stderr)))
}
