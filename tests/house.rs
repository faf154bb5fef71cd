//! The shape of the house, checked against the source: imports go down only, every module is reached, `unsafe`
//! stays in the rooms that are allowed to have it, and files stay readable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Floors from the ground up. Modules of one floor may know each other, except the hands of floor 2.
const FLOORS: &[(&[&str], bool)] = &[
    (&["error", "meta", "source", "config", "ffi"], true),
    (&["quant", "op", "sample", "text"], true),
    (&["hal", "io", "format"], false),
    (&["kv", "plan", "stream"], true),
    (&["arch", "lower"], true),
    (&["engine", "openai"], true),
    (&["cli", "serve"], true),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["hal", "io", "ffi", "python"];

/// A file that is longer should be two rooms.
const MOST_LINES: usize = 500;

struct Room {
    path: PathBuf,
    module: String,
    text: String,
}

fn rooms() -> Vec<Room> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let src = house.join("src");
    let mut files = vec![];
    walk(&src, &mut files);
    // A module beside `src`, because a program writes it.
    walk(&house.join("ffi"), &mut files);
    let room = |path: PathBuf| {
        let within = path.strip_prefix(&src).or(path.strip_prefix(house)).unwrap();
        let first = within.components().next().unwrap();
        let module = first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_string();
        Room { text: std::fs::read_to_string(&path).unwrap(), module, path }
    };
    files.into_iter().map(room).filter(|r| r.module != "lib" && r.module != "main").collect()
}

/// The code without comments and string literals, as far as a line-wise reading can tell.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("")));
    lines.filter(|(_, l)| !l.trim().is_empty())
}

/// The top-level modules that a file names: `use crate::x`, `crate::x::…`, and the branches of `use crate::{…}`.
fn imports(text: &str) -> BTreeSet<String> {
    let plain: String = code(text).map(|(_, l)| l).collect::<Vec<_>>().join("\n");
    let word = |s: &str| s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut out = BTreeSet::new();
    for rest in plain.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        out.insert(word(&item));
                        item.clear();
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            out.insert(word(&item));
        } else {
            out.insert(word(rest));
        }
    }
    out
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(modules, _)| modules.contains(&module))
}

#[test]
fn every_module_has_a_floor() {
    for r in rooms() {
        assert!(floor(&r.module).is_some(), "{}: give `{}` a floor", r.path.display(), r.module);
    }
}

#[test]
fn imports_go_down_only() {
    let mut wrong = vec![];
    for r in rooms() {
        let here = floor(&r.module).unwrap();
        for to in imports(&r.text).into_iter().filter(|m| *m != r.module) {
            let Some(there) = floor(&to) else { continue };
            if there > here || (there == here && !FLOORS[here].1) {
                wrong.push(format!("{} imports {to}", r.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "upward or sideways: {wrong:#?}");
}

#[test]
fn every_module_is_reached() {
    let rooms = rooms();
    let mut users: BTreeMap<&str, usize> = FLOORS.iter().flat_map(|(m, _)| *m).map(|m| (*m, 0)).collect();
    for r in &rooms {
        for m in imports(&r.text).iter().filter(|m| **m != r.module) {
            if let Some(n) = users.get_mut(m.as_str()) {
                *n += 1;
            }
        }
    }
    // The top floor is called by main.
    users.remove("cli");
    let idle: Vec<_> = users.iter().filter(|(_, n)| **n == 0).collect();
    assert!(idle.is_empty(), "nothing calls {idle:?}");
    // A file is a module only where its parent says so; the compiler would not tell of one that nobody declares.
    for r in &rooms {
        let stem = r.path.file_stem().unwrap().to_str().unwrap();
        let dir = r.path.parent().unwrap();
        let (name, parents) = match stem {
            "mod" => (dir.file_name().unwrap().to_str().unwrap(), dir.parent().unwrap()),
            _ => (stem, dir),
        };
        let declared = |p: PathBuf| std::fs::read_to_string(p).is_ok_and(|t| t.contains(&format!("mod {name};")));
        let at = parents.with_extension("rs");
        let parents = if parents.join("src").is_dir() { &parents.join("src") } else { parents };
        assert!(
            ["mod.rs", "lib.rs"].iter().any(|f| declared(parents.join(f))) || declared(at),
            "{} is declared nowhere",
            r.path.display()
        );
    }
}

#[test]
fn unsafe_stays_in_its_rooms() {
    for r in rooms().iter().filter(|r| !UNSAFE.contains(&r.module.as_str())) {
        for (line, text) in code(&r.text) {
            let word = text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            assert!(!word, "{}:{line}: `unsafe` belongs to {UNSAFE:?}", r.path.display());
        }
    }
}

#[test]
fn files_are_readable_and_begin_with_an_essay() {
    for r in rooms() {
        let lines = r.text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines; make two rooms of it", r.path.display());
        assert!(r.text.starts_with("//!"), "{}: say at the head what it is", r.path.display());
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [["todo", "!("].concat(), ["unimplemented", "!("].concat(), ["allow(dead", "_code"].concat()];
    for r in rooms() {
        for m in &marks {
            assert!(!r.text.contains(m.as_str()), "{} holds `{m}`", r.path.display());
        }
    }
}

/// `println!` panics where stdout cannot be written; `cli::output` makes that an error.
#[test]
fn the_command_line_writes_through_one_door() {
    for r in rooms().iter().filter(|r| r.module == "cli") {
        for (line, text) in code(&r.text) {
            assert!(!text.contains(&["print", "ln!("].concat()), "{}:{line}: use `output`", r.path.display());
            assert!(!text.contains(&["print", "!("].concat()), "{}:{line}: use `output`", r.path.display());
        }
    }
}

/// The reader of imports itself: it must see what the other tests rely on.
#[test]
fn imports_are_seen() {
    let text = "use crate::{error::Result, op::{Op, Rope}, hal};\nlet x = crate::kv::f(); // crate::cli\n";
    let seen: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(seen, ["error", "hal", "kv", "op"]);
}
