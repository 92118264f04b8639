//! Faults in the n-th file system call of a program; see `proofs/shim.rs`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library, built at first use.
fn shim() -> &'static Path {
    static BUILT: OnceLock<(PathBuf, tempfile::TempDir)> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let dir = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let library = dir.path().join("fault.so");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let run = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-o"])
            .arg(&library)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proofs/shim.rs"))
            .output()
            .unwrap_or_else(|e| panic!("the fault injector needs rustc ({e}); set RUSTC to its path"));
        assert!(run.status.success(), "the injector does not build:\n{}", String::from_utf8_lossy(&run.stderr));
        (library, dir)
    });
    &built.0
}

/// What is to go wrong below a directory, and the record of all calls there.
pub struct Fault {
    what: String,
    dir: PathBuf,
    log: PathBuf,
}

impl Fault {
    /// `what` as the injector reads it; empty: calls are only counted.
    pub fn new(what: &str, dir: PathBuf, log: PathBuf) -> Fault {
        Fault { what: what.to_owned(), dir, log }
    }

    /// The program runs with it.
    pub fn put_on(&self, command: &mut Command) {
        let environment: [(&str, OsString); 4] = [
            ("LD_PRELOAD", shim().into()),
            ("FAULT", self.what.clone().into()),
            ("FAULT_DIR", self.dir.clone().into()),
            ("FAULT_LOG", self.log.clone().into()),
        ];
        command.envs(environment);
    }

    /// The names of the calls so far, in order.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|l| Some(l.split_once(' ')?.1.to_owned())).collect()
    }
}
