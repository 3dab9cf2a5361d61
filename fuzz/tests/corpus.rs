//! Stories that reach something of their own, and those that once broke something.

use std::{fs, path::Path};

#[test]
fn the_corpus_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut stories = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        netd_fuzz::play(&fs::read(&path).unwrap());
        stories += 1;
    }
    assert!(stories > 0, "no stories in {}", directory.display());
}
