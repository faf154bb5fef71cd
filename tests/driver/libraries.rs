//! The libraries beside the driver, as `air devices` tells of them, over fake ones (`libraries.c`).

use super::{air, compile, fake};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const CUFILE: &str = "libcufile.so.0";
const NCCL: &str = "libnccl.so.2";

/// A folder of its own beside the driver's.
fn folder(name: &str) -> PathBuf {
    let dir = fake().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The folder with both fakes.
fn both() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = folder("both");
        [CUFILE, NCCL].iter().for_each(|name| compile("libraries.c", &dir.join(name), &[]));
        dir
    })
}

/// What `air devices` says, and prints on stderr, with this folder in the loader's path.
fn devices(dir: &Path, env: &[(&str, &str)]) -> (Value, String) {
    let path = format!("{}:{}", fake().display(), dir.display());
    let (done, json, notes) = air(&["devices", "--json"], &[&[("LD_LIBRARY_PATH", path.as_str())], env].concat());
    assert!(done, "{notes}");
    (serde_json::from_str::<Value>(&json).unwrap()["libraries"].take(), notes)
}

#[test]
fn versions_and_the_way_of_reads_are_told() {
    let ways = [
        ("16", "0", "direct, by nvidia-fs 2.26"),
        ("32", "2", "direct, by nvidia-fs 2.26"),
        ("2048", "2", "direct, by the kernel's peer-to-peer DMA"),
        ("0", "2", "compatibility mode, through the CPU's memory"),
        ("1", "1", "no way to read from NVMe drives, and the compatibility mode is off"),
    ];
    for (status, control, state) in ways {
        let env = [("FAKE_CUFILE_STATUS", status), ("FAKE_CUFILE_CONTROL", control), ("TMPDIR", "/there")];
        let (libraries, notes) = devices(both(), &env);
        let [cufile, nccl] = [&libraries[0], &libraries[1]];
        assert_eq!((&cufile["name"], &cufile["version"]), (&"cuFile".into(), &"1.23".into()));
        assert_eq!((&cufile["state"], cufile["why_not"].is_null()), (&state.into(), true));
        assert_eq!((&nccl["name"], &nccl["version"]), (&"NCCL".into(), &"2.27.7".into()));
        assert!(nccl["state"].is_null() && nccl["why_not"].is_null());
        assert!(notes.contains("as NVIDIA's does"), "{notes}");
        assert!(notes.contains("cufile: parameter 2 is /there\ncufile: open\ncufile: close\n"), "{notes}");
    }
}

/// Without a GPU cuFile would only complain, and keep a log of it.
#[test]
fn without_a_gpu_the_way_is_not_asked_for() {
    let (libraries, notes) = devices(both(), &[("FAKE_COUNT", "0")]);
    assert_eq!(libraries[0]["version"], "1.23");
    assert!(libraries[0]["state"].is_null() && !notes.contains("cufile:"), "{notes}");
}

#[test]
fn errors_have_their_names() {
    let cases = [
        (0, "FAKE_CUFILE_VERSION", "5044", "cuFileGetVersion ends with error 5044"),
        (0, "FAKE_CUFILE_OPEN", "5033", "cuFileDriverOpen ends with CU_FILE_NVFS_SETUP_ERROR"),
        (0, "FAKE_CUFILE_OPEN", "5011", "cuFileDriverOpen ends with CU_FILE_CUDA_DRIVER_ERROR, CUDA's error 7"),
        (0, "FAKE_CUFILE_PROPERTIES", "5001", "cuFileDriverGetProperties ends with CU_FILE_DRIVER_NOT_INITIALIZED"),
        (0, "FAKE_CUFILE_CLOSE", "5006", "cuFileDriverClose_v2 ends with error 5006"),
        (1, "FAKE_NCCL", "2", "ncclGetVersion ends with the fake's system error"),
    ];
    for (library, name, value, why) in cases {
        let (libraries, notes) = devices(both(), &[(name, value)]);
        let library = &libraries[library];
        assert_eq!((&library["why_not"], library["version"].is_null()), (&why.into(), true));
        let opened = name != "FAKE_CUFILE_VERSION" && value != "5033" && value != "5011";
        assert_eq!(notes.contains("cufile: close"), opened, "what was opened is closed: {notes}");
    }
    let (libraries, _) = devices(both(), &[("FAKE_CUFILE_PARAMETER", "5022"), ("FAKE_CUFILE_CONTROL", "2")]);
    assert!(libraries[0]["why_not"].is_null(), "where the log lies is a wish");
}

#[test]
fn a_library_that_is_none_says_why_and_the_one_of_the_script_is_taken_instead() {
    let dir = folder("none");
    std::fs::write(dir.join(CUFILE), "text").unwrap();
    compile("libraries.c", &dir.join(NCCL), &["-DncclGroupEnd=left_out"]);
    let (libraries, _) = devices(&dir, &[]);
    let why = |i: usize| libraries[i]["why_not"].as_str().unwrap().to_owned();
    assert!(why(0).contains(CUFILE), "{}", why(0));
    assert!(why(1).contains("undefined symbol: ncclGroupEnd"), "{}", why(1));

    let installed = folder("installed");
    let lib = installed.join("nvidia/cu13/lib");
    std::fs::create_dir_all(&lib).unwrap();
    compile("libraries.c", &lib.join(CUFILE), &[]);
    let (libraries, _) = devices(&dir, &[("AIR_CUDA", installed.to_str().unwrap())]);
    assert_eq!((&libraries[0]["version"], &libraries[0]["why_not"]), (&"1.23".into(), &Value::Null));
    assert!(libraries[1]["why_not"].is_string(), "NCCL is not there");
}
