//! One container's directory under one command, and under many.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A state root of its own, removed at the end.
struct TestRoot(PathBuf);

impl TestRoot {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rrun-state-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn open(&self) -> Root {
        Root::open(Some(&self.0)).unwrap()
    }
}

impl Drop for TestRoot {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

fn record(name: &str) -> Record {
    Record::new(id(name), "/b".into(), "/b/rootfs".into())
}

fn never_frozen() -> Result<bool> {
    Ok(false)
}

#[test]
fn the_default_root_is_the_users_own_where_root_is_not_root() {
    let xdg = Some(PathBuf::from("/run/user/7"));
    let user = (PathBuf::from("/run/user/7/rrun"), true);
    let system = (PathBuf::from("/run/rrun"), false);
    assert_eq!(choose_root(true, xdg.clone()), system);
    assert_eq!(choose_root(true, None), system);
    assert_eq!(choose_root(false, xdg), user);
    assert_eq!(choose_root(false, None), system);
    assert_eq!(choose_root(false, Some("relative".into())), system);
}

#[test]
fn the_root_directory_is_no_state_root() {
    let error = Root::open(Some(Path::new("/"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "state root \"/\": the root directory can't hold containers"
    );
    assert_eq!(error.kind(), Kind::Usage);
}

#[test]
fn a_container_is_made_found_and_removed() {
    let test = TestRoot::new();
    let mut root = test.open();
    assert_eq!(root.ids().unwrap(), []);
    assert!(!test.0.exists(), "only a container makes the root");
    let locked = root.create(&id("web")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&test.0), 0o700);
    assert_eq!(mode(&test.0.join("web")), 0o700);

    locked.save(&record("web")).unwrap();
    locked.save(&record("web")).unwrap();
    assert_eq!(mode(&test.0.join("web/state.json")), 0o600);
    assert_eq!(locked.record().unwrap().bundle, Path::new("/b"));
    std::fs::create_dir_all(locked.path().join("notify/a")).unwrap();
    locked.write("notify/a/b", b"").unwrap();
    std::os::unix::fs::symlink("/etc", locked.path().join("notify/link")).unwrap();

    let other = test.open();
    assert_eq!(other.ids().unwrap(), [id("web")]);
    assert_eq!(
        other.container(&id("web")).unwrap().record().unwrap().id,
        id("web")
    );
    locked.remove().unwrap();
    assert_eq!(other.ids().unwrap(), []);
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn a_taken_id_and_a_missing_one_have_the_words_engines_grep() {
    let test = TestRoot::new();
    let mut root = test.open();
    let missing = root.container(&id("web")).unwrap_err();
    assert_eq!(missing.to_string(), "container does not exist");
    assert_eq!(missing.kind(), Kind::NotFound);
    let _locked = root.create(&id("web")).unwrap();
    let taken = root.create(&id("web")).unwrap_err();
    assert_eq!(taken.to_string(), "container with given ID already exists");
    assert_eq!(taken.kind(), Kind::AlreadyExists);
    // Neither a file nor a symlink in the root is a container.
    std::fs::write(test.0.join("file"), "").unwrap();
    std::os::unix::fs::symlink("web", test.0.join("link")).unwrap();
    for name in ["file", "link", "none"] {
        assert_eq!(
            root.container(&id(name)).unwrap_err().kind(),
            Kind::NotFound,
            "{name}"
        );
    }
    assert_eq!(root.ids().unwrap(), [id("web")]);
}

#[test]
fn a_directory_without_a_record_is_no_container_but_can_be_removed() {
    let test = TestRoot::new();
    let mut root = test.open();
    drop(root.create(&id("half")).unwrap());
    assert_eq!(
        root.container(&id("half"))
            .unwrap()
            .record()
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
    root.lock(&id("half")).unwrap().remove().unwrap();
    assert_eq!(
        root.container(&id("half")).unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn who_waits_for_a_deleted_container_learns_that_it_is_gone() {
    let test = TestRoot::new();
    let mut root = test.open();
    let locked = root.create(&id("web")).unwrap();
    let waiting = root.container(&id("web")).unwrap();
    let waiting = waiting.try_lock().unwrap().unwrap_err();
    locked.remove().unwrap();
    assert_eq!(
        waiting.lock().unwrap_err().to_string(),
        "container does not exist"
    );

    // Deleted and made anew: the old directory is not the new container.
    let locked = root.create(&id("web")).unwrap();
    let waiting = root.container(&id("web")).unwrap();
    locked.remove().unwrap();
    let _anew = root.create(&id("web")).unwrap();
    assert_eq!(waiting.lock().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_container_that_another_command_made_is_not_claimed() {
    let test = TestRoot::new();
    let mut root = test.open();
    let first = root.create(&id("web")).unwrap();
    first.claim(b"first").unwrap();
    drop(first);
    // Who made a directory of this name that was deleted meanwhile opens this one.
    let second = root.lock(&id("web")).unwrap();
    let refused = second.claim(b"second").unwrap_err();
    assert_eq!(refused.kind(), Kind::AlreadyExists);
    assert_eq!(
        refused.to_string(),
        "container with given ID already exists"
    );
    assert_eq!(second.read(CONFIG).unwrap(), b"first");
}

#[test]
fn a_lock_given_back_can_be_taken() {
    let test = TestRoot::new();
    let mut root = test.open();
    let container = root.create(&id("web")).unwrap().unlock().unwrap();
    let again = root.lock(&id("web")).unwrap();
    let container = container.try_lock().unwrap().unwrap_err();
    drop(again);
    container.try_lock().unwrap().unwrap();
}

#[test]
fn the_status_is_derived_from_the_process() {
    let test = TestRoot::new();
    let mut root = test.open();
    let locked = root.create(&id("web")).unwrap();
    let reader = root.container(&id("web")).unwrap();
    let mut record = record("web");

    // Before there is a process: creating for others, dead if nobody works on it.
    assert_eq!(
        reader.status(&record, never_frozen).unwrap(),
        Status::Creating
    );
    assert_eq!(
        locked.status(&record, never_frozen).unwrap(),
        Status::Stopped
    );

    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    record.init = Some(Process::now(pid).unwrap());
    assert_eq!(
        locked.status(&record, never_frozen).unwrap(),
        Status::Creating
    );
    record.creating = false;
    locked.write(START_FIFO, b"").unwrap();
    assert_eq!(
        reader.status(&record, never_frozen).unwrap(),
        Status::Created
    );
    locked.remove_file(START_FIFO).unwrap();
    assert_eq!(
        reader.status(&record, never_frozen).unwrap(),
        Status::Running
    );
    assert_eq!(reader.status(&record, || Ok(true)).unwrap(), Status::Paused);
    assert!(record.init.unwrap().open().unwrap().is_some());

    // The same pid with another start time is another process.
    let mut reused = record.clone();
    reused.init.as_mut().unwrap().start_time += 1;
    assert_eq!(
        reader.status(&reused, never_frozen).unwrap(),
        Status::Stopped
    );
    assert!(reused.init.unwrap().open().unwrap().is_none());

    // A zombie has ended, and so has a process that is gone.
    child.kill().unwrap();
    while crate::sys::process::stat(pid).unwrap().state != 'Z' {
        std::thread::yield_now();
    }
    assert_eq!(
        reader.status(&record, never_frozen).unwrap(),
        Status::Stopped
    );
    assert!(record.init.unwrap().open().unwrap().is_none());
    child.wait().unwrap();
    assert_eq!(
        reader.status(&record, || unreachable!()).unwrap(),
        Status::Stopped
    );
    assert!(record.init.unwrap().open().unwrap().is_none());
}

#[test]
fn a_record_of_a_later_version_is_read_for_what_is_known() {
    let json =
        r#"{"version":1,"id":"a","bundle":"/b","rootfs":"/r","created":"x","owner":0,"new":1}"#;
    let record: Record = serde_json::from_str(json).unwrap();
    assert!(!record.creating && record.init.is_none());
    let bad = json.replace("\"a\"", "\"../a\"");
    let error = serde_json::from_str::<Record>(&bad)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("invalid container ID format: \"../a\""),
        "{error}"
    );
}

/// 64 processes make, read and remove one container at the same time. Each
/// directory that was made is removed once, also where its `create` was
/// overtaken by a remove; a record is always whole, and nothing is left.
#[test]
fn sixty_four_commands_on_one_id_are_safe() {
    let test = TestRoot::new();
    drop(test.open().create(&id("warm-up")).unwrap());
    let inside = AtomicU32::new(0);
    let (made, removed) = (AtomicU32::new(0), AtomicU32::new(0));
    let worker = |number: usize| {
        let mut root = test.open();
        for round in 0..40 {
            let outcome = match (number + round) % 4 {
                0 => root.create(&id("web")).and_then(|locked| {
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "the lock is ours alone"
                    );
                    made.fetch_add(1, Ordering::Relaxed);
                    let saved = locked.save(&record("web"));
                    inside.fetch_sub(1, Ordering::SeqCst);
                    saved
                }),
                1 => root.lock(&id("web")).and_then(|locked| {
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "the lock is ours alone"
                    );
                    removed.fetch_add(1, Ordering::Relaxed);
                    // The lock goes with the directory.
                    inside.fetch_sub(1, Ordering::SeqCst);
                    locked.remove()
                }),
                2 => root
                    .lock(&id("web"))
                    .and_then(|locked| locked.save(&record("web"))),
                _ => root
                    .container(&id("web"))
                    .and_then(|container| container.record())
                    .map(drop),
            };
            if let Err(error) = outcome {
                let kind = error.kind();
                if error.to_string() == "container was deleted while it was created" {
                    made.fetch_add(1, Ordering::Relaxed);
                }
                assert!(
                    matches!(kind, Kind::NotFound | Kind::AlreadyExists),
                    "{error}"
                );
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..64 {
            let worker = &worker;
            scope.spawn(move || worker(number));
        }
    });
    if let Ok(locked) = test.open().lock(&id("web")) {
        locked.remove().unwrap();
        removed.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(test.open().ids().unwrap(), [id("warm-up")]);
    assert_eq!(made.into_inner(), removed.into_inner());
}
