//! What the fuzzer found, again: every file of the corpus goes through its target.

use std::path::Path;

use undermesh_fuzz::TARGETS;

#[test]
fn no_file_of_the_corpus_breaks_its_target() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).expect("a readable file");
            // The file's name comes before the panic's message.
            eprintln!("{}", file.display());
            target(&bytes);
        }
    }
}

#[test]
fn scripts_of_any_bytes_are_configurations() {
    use undermesh_worlds::chance::Chance;
    let mut chance = Chance::new(3);
    for _ in 0..30 {
        let script: Vec<u8> = (0..chance.below(600)).map(|_| chance.below(256) as u8).collect();
        undermesh_fuzz::config(&script);
    }
}
