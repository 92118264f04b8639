//! The committed corpus of the fuzz targets, and mutations of it, through the very functions that are fuzzed. The fuzzer
//! itself is run by hand (`just fuzz`); a finding of it is added to the corpus and stays fixed.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_input_of_the_corpus_and_its_mutations_keep_the_promises() {
    let mut random = fastrand::Rng::with_seed(1);
    for (name, _) in targets::TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 3, "{name} has {} inputs", inputs.len());
        for (path, input) in &inputs {
            println!("{}", path.display());
            targets::run(name, input);
            for _ in 0..60 {
                let mut bytes = input.clone();
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..=bytes.len());
                    match random.u8(..4) {
                        0 => bytes.insert(at, random.u8(..)),
                        1 => bytes.truncate(at),
                        2 => bytes.extend_from_within(at..),
                        _ => {
                            if let Some(byte) = bytes.get_mut(at) {
                                *byte ^= 1 << random.u8(..8);
                            }
                        }
                    }
                }
                println!("{bytes:02x?}");
                targets::run(name, &bytes);
            }
        }
    }
}

#[test]
fn every_target_is_a_program_of_the_fuzzer_and_has_a_corpus() {
    let known: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz().join(dir)).unwrap();
        entries.map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &known {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", data)")), "{name}");
    }
}
