//! The CUDA driver as air uses it, over a fake one (`fake.c`, built here by the C compiler): what is said of GPUs that
//! cannot be used, memory, copies through pinned memory, launches, errors, and the libraries beside it. No GPU is
//! needed, and none is used.
//!
//! The driver is loaded by its name, once in a process. So each case runs in one of its own: the program, or this test
//! again, with the fake in the loader's path.

mod libraries;

use air_rs::error::Error;
use air_rs::hal::cuda::{Device, Driver, Grid, ptx};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Set in a process whose driver is the fake.
const INSIDE: &str = "FAKE_IS_HERE";

/// The folder with the fake `libcuda.so`.
fn fake() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        compile("fake.c", &dir.join("libcuda.so"), &[]);
        dir
    })
}

/// A library of one of the C files here.
fn compile(source: &str, library: &Path, flags: &[&str]) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver/").to_string() + source;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", &source, "-o"]).arg(library).args(flags);
    let built = cc.output().expect("a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("LD_LIBRARY_PATH", fake()).env(INSIDE, "1");
    command.envs(env.iter().copied()).output().unwrap()
}

/// Runs the rest of the test named `name` in a process of its own, and gives what that said; `None` inside it.
fn outside(name: &str, env: &[(&str, &str)]) -> Option<String> {
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let me = std::env::current_exe().unwrap();
    let out = run(me.to_str().unwrap(), &[name, "--exact", "--nocapture"], env);
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    Some(said)
}

fn air(args: &[&str], env: &[(&str, &str)]) -> (bool, String, String) {
    let out = run(env!("CARGO_BIN_EXE_air"), args, env);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

fn devices(env: &[(&str, &str)]) -> Value {
    serde_json::from_str(&air(&["devices", "--json"], env).1).unwrap()
}

#[test]
fn gpus_are_listed_as_the_driver_describes_them() {
    let json = devices(&[("FAKE_COUNT", "2")]);
    assert_eq!(json["driver"], "CUDA 13.0", "the management library is not there, and so does not name it");
    let gpu = &json["gpus"][1];
    assert_eq!((&gpu["device"], &gpu["name"]), (&"cuda:1".into(), &"Fake 1".into()));
    assert_eq!((&gpu["compute_capability"], &gpu["memory_bytes"]), (&"9.0".into(), &(1 << 30).into()));
    assert_eq!((&gpu["runs"], &gpu["free_bytes"]), (&true.into(), &Value::Null));
    let json = devices(&[("FAKE_CAPABILITY", "75")]);
    assert_eq!((&json["gpus"][0]["runs"], json["gpus"][1].is_null()), (&false.into(), true));
}

/// Each is why there is no GPU, an error for who wants one, and no more than a line for who does not.
#[test]
fn what_cannot_be_used_is_said_and_the_processor_runs() {
    let old = "the NVIDIA driver is older than air's kernels: this one knows CUDA 12.8; they need r580 or newer";
    let cases: [(&str, &str, &str); 5] = [
        ("FAKE_VERSION", "12080", old),
        ("FAKE_INIT", "100", "the NVIDIA driver shows no GPU"),
        ("FAKE_COUNT", "0", "the NVIDIA driver shows no GPU"),
        ("FAKE_INIT", "999", "the NVIDIA driver does not start (CUDA_ERROR_OTHER: in the fake's words)"),
        ("FAKE_CAPABILITY", "75", "Fake 0: compute capability 7.5; air needs 8.0"),
    ];
    for (name, value, why) in cases {
        let env = &[(name, value)];
        let generate = |device| air(&["generate", "-p", "x", "-n", "1", "--device", device], env);
        let (done, _, notes) = generate("cuda");
        assert!(!done && notes.contains(&format!("error: --device cuda is not supported: {why}; use")), "{notes}");
        let (done, _, notes) = generate("auto");
        assert!(done && notes.contains(&format!("not on a GPU: {why}\n")), "{notes}");
        assert!(notes.contains("device: cpu: "), "{notes}");
        if name != "FAKE_CAPABILITY" {
            assert_eq!(devices(env)["no_gpu"], why);
        }
    }
}

/// Not one that the loader finds and air's calls would then end in.
#[test]
fn a_driver_that_lacks_a_call_is_none() {
    let dir = fake().join("lacking");
    std::fs::create_dir_all(&dir).unwrap();
    for call in ["cuInit", "cuGetErrorString", "cuMemcpyDtoDAsync_v2"] {
        compile("fake.c", &dir.join("libcuda.so"), &[&format!("-D{call}=left_out")]);
        let env = [("LD_LIBRARY_PATH", dir.to_str().unwrap())];
        let why = format!("the NVIDIA driver is none for air: libcuda lacks {call}");
        assert_eq!(devices(&env)["no_gpu"], why);
        let (done, _, notes) = air(&[&DEMO[..], &["--device", "auto"]].concat(), &env);
        assert!(done && notes.contains(&format!("not on a GPU: {why}\n")), "{notes}");
    }
}

/// Bytes that differ from place to place and from `salt` to `salt`.
fn pattern(n: usize, salt: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 7 + salt * 131) ^ (i >> 9)) as u8).collect()
}

#[test]
fn what_is_sent_comes_back() {
    if outside("what_is_sent_comes_back", &[]).is_some() {
        return;
    }
    let mut device = Device::open(0).unwrap();
    let properties = device.properties().unwrap();
    assert_eq!((properties.name.as_str(), properties.capability), ("Fake 0", 90));
    assert_eq!((properties.multiprocessors, properties.shared), (132, 227 << 10));
    // Around the size of the pinned memory, and below.
    for n in [0, 1, 300, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (13 << 20) + 3] {
        let sent = pattern(n, n);
        let at = device.alloc(n as u64).unwrap();
        let mut back = vec![1; n];
        device.download(at, &mut back).unwrap();
        assert!(back.iter().all(|b| *b == 0), "fresh memory is zero");
        device.upload(at, &sent).unwrap();
        let other = device.alloc(n as u64).unwrap();
        device.copy(at, other, n as u64).unwrap();
        device.download(other, &mut back).unwrap();
        assert!(back == sent, "{n} bytes");
        device.free(at).unwrap();
        device.free(other).unwrap();
    }
    // Many small ones, more than the pinned memory holds, before anything waits: none is overwritten too early.
    let places: Vec<_> = (0..3000).map(|_| device.alloc(5000).unwrap()).collect();
    for (i, at) in places.iter().enumerate() {
        let mut bytes = pattern(5000, i);
        device.upload(*at, &bytes).unwrap();
        bytes.fill(0);
    }
    for (i, at) in places.iter().enumerate() {
        let mut back = vec![0; 5000];
        device.download(*at, &mut back).unwrap();
        assert!(back == pattern(5000, i), "piece {i}");
    }
    // What is not ours is refused, and everything goes on.
    let at = device.alloc(64).unwrap();
    let error = device.upload(at, &[0; 65]).unwrap_err().to_string();
    assert!(error.contains("cannot copy to the GPU: CUDA_ERROR_OTHER"), "{error}");
    device.upload(at, &[7; 64]).unwrap();
    assert_eq!(device.properties().unwrap().free, (1 << 30) - 3000 * 5000 - 64);
}

#[test]
fn too_little_memory_says_how_much_there_is() {
    if outside("too_little_memory_says_how_much_there_is", &[("FAKE_FREE", "1000000")]).is_some() {
        return;
    }
    let mut device = Device::open(0).unwrap();
    let held = device.alloc(400_000).unwrap();
    let error = device.alloc(700_000).unwrap_err();
    assert!(matches!(&error, Error::Limit(_)), "{error:?}");
    assert_eq!(error.to_string(), "Fake 0 has 600000 bytes free; 700000 are needed");
    device.free(held).unwrap();
    device.alloc(700_000).unwrap();
}

#[test]
fn a_lost_gpu_is_an_error_of_every_call_that_waits() {
    if outside("a_lost_gpu_is_an_error_of_every_call_that_waits", &[("FAKE_SYNC", "700")]).is_some() {
        return;
    }
    let mut device = Device::open(0).unwrap();
    let at = device.alloc(8).unwrap();
    for error in [device.wait().unwrap_err(), device.download(at, &mut [0; 8]).unwrap_err()] {
        assert!(matches!(&error, Error::Engine(_)), "{error:?}");
        assert!(error.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
    }
}

#[test]
fn a_launch_has_its_grid_and_its_argument() {
    let grid = Grid { blocks: [3, 2, 1], threads: 64, shared: 100_000 };
    let entry = ptx::MODULES.iter().flat_map(|m| m.entries).next();
    if let Some(said) = outside("a_launch_has_its_grid_and_its_argument", &[("FAKE_TOLD", "1")]) {
        if let Some(kernel) = entry {
            let launch = format!("launch {} 3 2 1, 64 threads, 100000 shared, first byte 9\n", kernel.name);
            assert_eq!(said.matches(&launch).count(), 2, "{said}");
            let shared = format!("shared {} 100000\n", kernel.name);
            assert_eq!(said.matches(&shared).count(), 1, "more than 48 KiB are asked for, once: {said}");
        }
        return;
    }
    let mut device = Device::open(0).unwrap();
    let error = device.launch("no_such_kernel", grid, &[]).unwrap_err().to_string();
    assert!(error.contains("no_such_kernel"), "{error}");
    if let Some(kernel) = entry {
        let mut args = vec![0; kernel.args];
        args[0] = 9;
        device.launch(kernel.name, grid, &args).unwrap();
        device.launch(kernel.name, grid, &args).unwrap();
        let error = device.launch(kernel.name, grid, &args[1..]).unwrap_err().to_string();
        assert!(error.contains(&format!("takes {} bytes", kernel.args)), "{error}");
    }
}

const DEMO: [&str; 7] = ["generate", "-p", "ROMEO:", "-n", "3", "-t", "0"];

/// The fake computes nothing, so the answer says nothing; but all that a model needs was asked for.
#[test]
fn a_model_is_loaded_and_launched() {
    for device in ["auto", "cuda", "cuda:0"] {
        let (done, _, notes) = air(&[&DEMO[..], &["--device", device]].concat(), &[("FAKE_TOLD", "1")]);
        assert!(done && notes.contains("device: cuda: Fake 0"), "{notes}");
        for kernel in ["embed_q8_0", "quantise", "matvec_q8_0", "norm_", "position_f16_f16", "attend_f16_f16"] {
            assert!(notes.contains(&format!("launch {kernel}")), "{kernel}: {notes}");
        }
        // The prompt and the first token behind it are launched kernel by kernel, the second is the first again.
        assert_eq!(notes.matches("graph of ").count(), 1, "{notes}");
        let refused = air(&[&DEMO[..], &["--device", device]].concat(), &[("FAKE_NO_GRAPHS", "1")]);
        assert!(refused.0, "without graphs it runs: {}", refused.2);
    }
    let (_, plan, _) = air(&["plan", "--json"], &[]);
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["device"], "cuda: Fake 0");
    let budget = plan["memory"]["budget_bytes"].as_u64().unwrap();
    assert!(((1 << 30) / 20 * 18..1 << 30).contains(&budget), "of the GPU, not of the machine: {plan:#}");
    assert_eq!(plan["memory"]["program_bytes"].as_u64().unwrap_or(0), 0, "{plan:#}");
}

/// What does not fit is kept in memory or comes from the drive, through pinned memory if that can be had. Few tokens carry
/// of it what only the device computes with, a prompt all.
#[test]
fn a_model_that_does_not_fit_is_carried_to_the_gpu() {
    let small = ["--device", "cuda", "--vram-budget", "7MB", "-c", "64"];
    let plan = |more: &[&str]| -> Value {
        let (_, plan, notes) = air(&[&["plan", "--json"], &small[..], more].concat(), &[]);
        serde_json::from_str(&plan).unwrap_or_else(|e| panic!("{e}: {notes}"))
    };
    let kept = plan(&[]);
    let number = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("{kept:#}"));
    let [link, beside] = ["pcie", "mem"].map(|to| number(&kept["bytes_per_pass"][to]));
    let hosted = number(&kept["host_memory"]["kept_bytes"]);
    assert!(hosted == link + beside && link > 1 << 17 && beside > 1 << 20, "{kept:#}");
    let streamed = plan(&["--ram-budget", "1MB"]);
    assert!(streamed["streamed_bytes"].as_u64() > Some(0), "{streamed:#}");
    assert_eq!(streamed["bytes_per_pass"]["pcie"], link, "from the drive it goes the same way");

    let brought = |notes: &str| -> u64 {
        let (_, after) = notes.rsplit_once("brought ").unwrap_or_else(|| panic!("{notes}"));
        after.split(' ').next().unwrap().parse().unwrap()
    };
    let run = |more: &[&str], env: &[(&str, &str)]| {
        let env = [&[("FAKE_TOLD", "1")], env].concat();
        let long = ["generate", "-p", "Speak, speak. First, you know Caius", "-n", "3", "-t", "0"];
        let (done, _, notes) = air(&[&long[..], &small[..], more].concat(), &env);
        assert!(done && notes.contains("device: cuda: Fake 0 and cpu: "), "{notes}");
        notes
    };
    // The prompt, and two of three tokens, each a pass.
    let all = hosted + 2 * link;
    let notes = run(&[], &[]);
    assert!(brought(&notes) == all && !notes.contains("not pinned"), "{all}: {notes}");
    assert_eq!(brought(&run(&["--ram-budget", "1MB"], &[])), all);
    let notes = run(&[], &[("FAKE_NO_PINS", "1")]);
    assert!(brought(&notes) == all && notes.contains("memory for weights is not pinned"), "{notes}");
}

#[test]
fn a_model_that_does_not_fit_runs_on_the_processor_or_is_an_error() {
    let env = &[("FAKE_FREE", "5000000")];
    let (done, _, notes) = air(&[&DEMO[..], &["--device", "cuda"]].concat(), env);
    assert!(!done && notes.contains("error: a memory budget of") && notes.contains("too small"), "{notes}");
    let (done, answer, notes) = air(&DEMO, env);
    assert!(done && notes.contains("not on a GPU: a memory budget of 4 MiB is too small"), "{notes}");
    assert!(notes.contains("device: cpu: "), "{notes}");
    let (_, alone, _) = air(&[&DEMO[..], &["--device", "cpu"]].concat(), &[]);
    assert_eq!(answer, alone);
    // Nobody is put on a GPU unasked to which much would be carried for each token.
    let (done, answer, notes) = air(&[&DEMO[..], &["-c", "64", "--vram-budget", "6500kB"]].concat(), &[]);
    assert!(done && answer == alone && notes.contains("not on a GPU: carrying attention and head"), "{notes}");
    let (done, _, notes) = air(&[&DEMO[..], &["-c", "64", "--vram-budget", "8MB"]].concat(), &[]);
    assert!(done && notes.contains("device: cuda: Fake 0 and cpu: "), "{notes}");
}

/// Whoever takes the rest of a GPU's memory meanwhile takes nothing from a model: all that it needs it has before a
/// weight is read, whether it fits or parts of it are carried.
#[test]
fn a_model_takes_all_of_its_memory_at_once() {
    let small = ["-c", "64", "--vram-budget", "7MB"];
    for more in [&[][..], &["--secure"], &small] {
        let run = |env: &[(&str, &str)]| air(&[&DEMO[..], &["--device", "cuda"], more].concat(), env);
        let (done, answer, notes) = run(&[("FAKE_GREEDY", "1"), ("FAKE_TOLD", "1")]);
        assert!(done && notes.contains("device: cuda: Fake 0"), "{notes}");
        assert_eq!(answer, run(&[]).1);
        assert_eq!(nothing_is_left(&notes), more.contains(&"--secure"), "{notes}");
        let (done, _, notes) = run(&[("FAKE_TAKEN", "1070000000"), ("FAKE_TOLD", "1")]);
        let what = "error: weights, sequence state and workspace: Fake 0 has 1073741824 bytes free; ";
        assert!(!done && notes.contains(what) && nothing_is_left(&notes), "{notes}");
    }
}

/// What is short because of others is said to be.
#[test]
fn memory_that_others_hold_is_named() {
    let dir = fake().join("managed");
    std::fs::create_dir_all(&dir).unwrap();
    compile("nvml.c", &dir.join("libnvidia-ml.so.1"), &[]);
    let path = format!("{}:{}", fake().display(), dir.display());
    let run = |args: &[&str], env: &[(&str, &str)]| air(args, &[&[("LD_LIBRARY_PATH", path.as_str())], env].concat());
    let held = ("FAKE_OTHERS", "900000000");
    for device in ["auto", "cuda"] {
        let (done, _, notes) = run(&[&DEMO[..], &["--device", device]].concat(), &[held, ("FAKE_FREE", "5000000")]);
        assert_eq!(done, device == "auto", "{notes}");
        assert!(notes.contains("type needs less; other programs hold 858 MiB of the GPU's memory\n"), "{notes}");
    }
    let free = ("FAKE_FREE", "7500000");
    let little = [("FAKE_OTHERS", "100000"), free];
    // A budget that was asked for is nobody's fault.
    for (env, budget, said) in [([held, free], "100%", true), (little, "100%", false), ([held, free], "7MB", false)] {
        let small = ["--device", "cuda", "-c", "64", "--vram-budget", budget];
        let (done, _, notes) = run(&[&DEMO[..], &small].concat(), &env);
        assert!(done && notes.contains("MB of weights on the GPU"), "{notes}");
        assert_eq!(notes.contains("on the GPU (other programs hold 900 MB there)"), said, "{notes}");
        let (_, plan, _) = run(&[&["plan"][..], &small].concat(), &env);
        assert_eq!(plan.contains("; other programs hold 900"), said, "{plan}");
    }
}

/// The fake reads what it is given back.
#[test]
fn memory_is_overwritten_before_it_is_given_back() {
    for (more, clean) in
        [(&["--secure"][..], true), (&["--secure", "-c", "64", "--vram-budget", "7MB"], true), (&[], false)]
    {
        let (done, _, notes) = air(&[&DEMO[..], &["--device", "cuda"], more].concat(), &[("FAKE_TOLD", "1")]);
        assert!(done && notes.contains("device: cuda: Fake 0"), "{notes}");
        assert_eq!(nothing_is_left(&notes), clean, "{more:?}: {notes}");
    }
}

/// By what the fake says at its end.
fn nothing_is_left(notes: &str) -> bool {
    let (_, left) = notes.rsplit_once("left ").unwrap_or_else(|| panic!("{notes}"));
    left.starts_with("0 bytes")
}

#[test]
fn a_gpu_that_is_lost_ends_the_request_with_its_error() {
    let (done, _, notes) = air(&[&DEMO[..], &["--device", "cuda"]].concat(), &[("FAKE_SYNC", "700")]);
    assert!(!done && notes.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{notes}");
    let (done, _, notes) = air(&[&DEMO[..], &["--device", "cuda"]].concat(), &[("FAKE_COMPILE", "218")]);
    assert!(!done && notes.contains("cannot compile") && notes.contains(".cu for Fake 0"), "{notes}");
}

/// Whatever the fake is asked for takes two milliseconds, between any two moments.
#[test]
fn the_bench_measures_the_gpu_and_lists_what_it_launched() {
    let env = &[("FAKE_FREE", "200000000")];
    let bench = ["bench", "--device", "cuda", "-p", "5", "-n", "4", "-r", "1", "-d", "7", "-b", "2", "--kernels"];
    let (done, text, notes) = air(&bench, env);
    assert!(done, "{notes}");
    for row in ["GPU gives", "49.3 GB/s in copies", "33.6 GB/s to the GPU", "2.00 µs", "GPU's memory and launches"] {
        assert!(text.contains(row), "{row}: {text}");
    }
    let (_, json, _) = air(&[&bench[..], &["--json"]].concat(), env);
    let json: Value = serde_json::from_str(&json).unwrap();
    let number = |path: &str| json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {json:#}"));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}: {json:#}");
    // A quarter of what is free, in whole MiB, read and written.
    near(number("/limits/gpu/copy_gbps"), 2.0 * 47.0 * 1.048576e6 / 2e-3 / 1e9);
    near(number("/limits/gpu/h2d_gbps"), 64.0 * 1.048576e6 / 2e-3 / 1e9);
    near(number("/limits/gpu/d2h_gbps"), number("/limits/gpu/h2d_gbps"));
    near(number("/limits/gpu/empty_kernel_us"), 2.0);
    // The law of a step of two tokens.
    let (_, info, _) = air(&["info", "--json"], &[]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let layers = info["metadata"]["llama.block_count"].as_f64().unwrap_or_else(|| panic!("{info:#}"));
    let bytes = number("/bytes_per_token/mem");
    let step = 2.0 * bytes / number("/limits/gpu/copy_gbps") / 1e9 + 8.0 * layers * 2e-6;
    near(number("/roofline/predicted_tps"), 2.0 / step);
    near(number("/roofline/percent"), 100.0 * number("/decode_tps") / number("/roofline/predicted_tps"));
    near(number("/roofline/percent_of_copy"), number("/decode_tps") * bytes / number("/limits/gpu/copy_gbps") / 1e7);
    assert_eq!((&json["roofline"]["bound"], number("/kernels/steps")), (&"vram".into(), 3.0));

    let list = |part: &str| json["kernels"][part].as_array().unwrap().clone();
    for (part, attends) in [("prompt", "attend_tiles_"), ("answer", "attend_f16_f16")] {
        let kernels = list(part);
        let named = |name: &str| kernels.iter().filter(|k| k["kernel"].as_str().unwrap().starts_with(name)).count();
        assert!(named("embed_q8_0") == 1 && named("norm_") > 0 && named(attends) == 1, "{kernels:#?}");
        kernels.iter().for_each(|k| near(k["us"].as_f64().unwrap(), 2000.0 * k["calls"].as_f64().unwrap()));
    }
    // All weights but vectors and the embedding's rows, in each of three steps, once for both sequences.
    let answer = list("answer");
    let read = |prefix: &str| -> f64 {
        let of = answer.iter().filter(|k| k["kernel"].as_str().unwrap().starts_with(prefix));
        of.map(|k| k["bytes"].as_f64().unwrap()).sum()
    };
    let state = number("/bytes_per_token/state");
    near(read("attend_"), 3.0 * 2.0 * state);
    let weights = 2.0 * (bytes - state);
    assert!((0.98..1.0).contains(&(read("matvec_") / 3.0 / weights)), "{} of {weights}", read("matvec_") / 3.0);
}

/// What is carried to the GPU in each pass.
#[test]
fn the_bench_tells_what_is_carried() {
    let env = &[("FAKE_FREE", "200000000")];
    let small = ["--json", "--device", "cuda", "--vram-budget", "7MB", "-c", "64"];
    let plan: Value = serde_json::from_str(&air(&[&["plan"], &small[..]].concat(), env).1).unwrap();
    let bench = [&["bench", "-p", "20", "-n", "3", "-r", "1"], &small[..]].concat();
    let bench: Value = serde_json::from_str(&air(&bench, env).1).unwrap();
    // One token carries nothing but what is the device's own, a prompt also what the processor computes with else.
    let bytes = |n: &Value| n.as_f64().unwrap();
    let [carried, beside] = ["pcie", "mem"].map(|to| bytes(&plan["bytes_per_pass"][to]));
    let all = bytes(&plan["host_memory"]["kept_bytes"]) + bytes(&plan["streamed_bytes"]);
    assert!(carried > 0.0 && beside > 0.0 && carried + beside == all, "{plan:#}");
    assert_eq!(bench["bytes_per_token"]["pcie"].as_f64(), Some(carried), "{bench:#}");
    let reached = |name: &str| bench["achieved_gbps"][name].as_f64().unwrap() * 1e9;
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}: {bench:#}");
    near(reached("pcie"), carried * bench["decode_tps"].as_f64().unwrap());
    // The prompt is one pass.
    near(reached("prefill_pcie"), all * bench["prefill_tps"].as_f64().unwrap() / 20.0);
    let bound = bench["roofline"]["bound"].as_str();
    assert!(matches!(bound, Some("mem" | "vram")), "the fake link takes no longer than they: {bound:?}");
}

#[test]
fn kernels_are_listed_of_gpus_only() {
    let (done, _, notes) = air(&["bench", "--device", "cpu", "-p", "2", "-n", "2", "-r", "1", "--kernels"], &[]);
    assert!(!done && notes.contains("a list of kernels of cpu") && notes.contains("use --device cuda"), "{notes}");
}
