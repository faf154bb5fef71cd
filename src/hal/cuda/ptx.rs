//! The kernels, compiled while air was built: PTX text for each file of `kernels/`, which the driver compiles for its
//! GPU when one of its kernels is first launched.
//!
//! `build.rs` writes the table. What a file holds is known here at compile time, so a launcher whose kernel is missing,
//! or takes other arguments, does not build.

/// One file of `kernels/`.
#[derive(Debug)]
pub struct Module {
    /// Its name, without `.cu`.
    pub name: &'static str,
    /// PTX, with a zero at the end.
    pub text: &'static str,
    /// What can be launched.
    pub entries: &'static [Entry],
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its symbol.
    pub name: &'static str,
    /// Bytes of its one parameter, a struct that is passed by value.
    pub args: usize,
}

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// The kernel of this name, and the file that it is in.
pub const fn find(name: &str) -> Option<(&'static Module, &'static Entry)> {
    let mut m = 0;
    while m < MODULES.len() {
        let mut e = 0;
        while e < MODULES[m].entries.len() {
            if same(MODULES[m].entries[e].name, name) {
                return Some((&MODULES[m], &MODULES[m].entries[e]));
            }
            e += 1;
        }
        m += 1;
    }
    None
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_found_under_its_name_and_no_other_is() {
        let all = MODULES.iter().flat_map(|m| m.entries.iter().map(move |e| (m, e)));
        for (module, entry) in all {
            let (m, e) = find(entry.name).unwrap();
            assert_eq!((m.name, e.name, e.args), (module.name, entry.name, entry.args), "names are unique");
            assert!(module.text.ends_with('\0') && module.text.matches('\0').count() == 1, "{}", module.name);
        }
        assert!(find("").is_none() && find("no_such_kernel").is_none());
    }
}
