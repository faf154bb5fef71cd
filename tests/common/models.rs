//! Tiny models, changed models, and files that go when the test ends.

use air_rs::format::gguf::{self, TensorPlan, Writer};
use air_rs::meta::Meta;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file that goes when it is dropped.
pub struct Temp(String);

impl Temp {
    /// A name that nothing has.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("air-test-{}-{n}-{name}", std::process::id()));
        Temp(path.display().to_string())
    }
}

impl std::fmt::Display for Temp {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::ops::Deref for Temp {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // A test that expects that nothing was written has nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file of `tests/goldens/families`.
pub fn tiny(name: &str) -> String {
    format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A tiny model with other metadata.
pub fn altered(name: &str, change: impl Fn(&mut Meta)) -> Temp {
    rewritten(name, change, |_, _| ())
}

/// A tiny model with other metadata and other bytes: `damage` is given each tensor.
pub fn rewritten(name: &str, change: impl Fn(&mut Meta), damage: impl Fn(&str, &mut [u8])) -> Temp {
    let catalogue = gguf::open(&PathBuf::from(tiny(name))).unwrap();
    let mut meta = catalogue.meta.clone();
    change(&mut meta);
    let plan =
        |t: &air_rs::format::TensorInfo| TensorPlan { name: t.name.clone(), format: t.format, shape: t.shape.clone() };
    let plans: Vec<TensorPlan> = catalogue.tensors.values().map(plan).collect();
    let temp = Temp::new(name);
    let mut writer = Writer::create(&PathBuf::from(&*temp), &meta, &plans).unwrap();
    for t in catalogue.tensors.values() {
        let mut bytes = vec![0; t.extent.len as usize];
        catalogue.read(t, 0, &mut bytes).unwrap();
        damage(&t.name, &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    temp
}
