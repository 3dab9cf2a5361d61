use std::{fs, process::Command};

use serde_json::json;

use super::*;

fn put(name: &str, value: Value) -> Change {
    Change::Put(Kind::Endpoint, name.to_owned(), value)
}

fn names(records: &[Record]) -> Vec<&str> {
    let mut names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn survives_a_restart() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut store = RedbStore::open(directory.path())?;
    assert_eq!(store.load().await?, []);
    store.commit(vec![put("a", json!({"x": 1})), put("b", json!(2))]).await?;
    store.commit(vec![put("a", json!({"x": 2})), Change::delete(Kind::Endpoint, "b")]).await?;
    drop(store);
    let mut store = RedbStore::open(directory.path())?;
    let records = store.load().await?;
    assert_eq!(records, [Record { kind: Kind::Endpoint, name: "a".to_owned(), value: json!({"x": 2}) }]);
    Ok(())
}

/// A new file has its name only when it is complete; one of no length, as an older netd or a full disk may have left, is no file.
#[tokio::test]
async fn there_is_no_half_of_a_new_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join(FRESH), b"half of it")?;
    for empty in [false, true] {
        if empty {
            fs::write(directory.path().join(FILE), b"")?;
        }
        let mut store = RedbStore::open(directory.path())?;
        assert_eq!(store.load().await?, []);
        store.commit(vec![put("a", json!(1))]).await?;
        assert!(!directory.path().join(FRESH).exists());
        drop(store);
        fs::remove_file(directory.path().join(FILE))?;
    }
    // It is made at the start, and never later: what was in it would be forgotten without a word.
    assert!(open(&directory.path().join(FILE)).is_err());
    Ok(())
}

/// As after SIGKILL: a copy of the file at a moment when nothing was closed.
#[tokio::test]
async fn survives_a_kill() -> Result<()> {
    let (before, after) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut store = RedbStore::open(before.path())?;
    store.commit(vec![put("a", json!(1))]).await?;
    fs::copy(before.path().join(FILE), after.path().join(FILE))?;
    let mut copy = RedbStore::open(after.path())?;
    assert_eq!(names(&copy.load().await?), ["a"]);
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_is_refused() -> Result<()> {
    for damage in ["garbage", "truncated", "overwritten", "flipped"] {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join(FILE);
        let mut store = RedbStore::open(directory.path())?;
        let many = (0..500).map(|i| put(&format!("endpoint-{i}"), json!({"padding": "x".repeat(100)})));
        store.commit(many.collect()).await?;
        drop(store);
        let mut bytes = fs::read(&path)?;
        match damage {
            "garbage" => bytes = b"this is no database".repeat(100),
            "truncated" => bytes.truncate(bytes.len() / 3),
            "overwritten" => {
                let half = bytes.len() / 2;
                bytes[4096..half].fill(0xa5);
            }
            _ => {
                for byte in bytes.iter_mut().skip(4096).step_by(511) {
                    *byte ^= 0xff;
                }
            }
        }
        fs::write(&path, bytes)?;
        let error = match RedbStore::open(directory.path()) {
            Ok(mut store) => store.load().await.expect_err(damage),
            Err(error) => error,
        };
        let text = format!("{error:#}");
        assert!(text.contains(FILE) && text.contains("damaged") && !text.contains('\n'), "{damage}: {text}");
    }
    Ok(())
}

#[test]
fn records_of_a_later_version_are_refused() {
    let error = decode("endpoint", "a", br#"{"schema": 2, "record": {}}"#).unwrap_err();
    assert!(error.to_string().contains("later version"), "{error}");
    assert!(decode("endpoint", "a", br#"{"schema": 1, "record": {}}"#).is_ok());
}

/// A commit on a full disk fails, leaves what was there, and succeeds once there is room.
#[tokio::test]
async fn a_full_disk() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP a_full_disk: mounting a tmpfs needs root");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "netd-test"])
        .arg(directory.path())
        .status()?
        .success();
    assert!(mounted);
    let result = full_disk(directory.path()).await;
    let _ = Command::new("umount").arg(directory.path()).status();
    result
}

async fn full_disk(directory: &Path) -> Result<()> {
    let mut store = RedbStore::open(directory)?;
    store.commit(vec![put("first", json!(1))]).await?;
    let ballast = directory.join("ballast");
    // Ends with ENOSPC, and that is the point.
    let _ = fs::write(&ballast, vec![1; 4 << 20]);
    let mut failed = None;
    for i in 0..2000 {
        let change = put(&format!("more-{i}"), json!("x".repeat(2000)));
        if let Err(error) = store.commit(vec![change]).await {
            failed = Some((i, error));
            break;
        }
    }
    let Some((failed, error)) = failed else { bail!("4 MB went into 3 MB") };
    let text = format!("{error:#}");
    assert!(text.contains("No space left") && !text.contains('\n'), "{text}");

    fs::remove_file(ballast)?;
    store.commit(vec![put("last", json!(1))]).await?;
    drop(store);
    let records = RedbStore::open(directory)?.load().await?;
    let failed = format!("more-{failed}");
    assert!(records.iter().all(|record| record.name != failed), "half a commit is there");
    assert!(names(&records).contains(&"first") && names(&records).contains(&"last"));
    Ok(())
}
