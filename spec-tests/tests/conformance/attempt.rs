//! What many clauses ask: that a bundle is refused and nothing of it stays,
//! or that a program never runs. No error text is asserted here: the
//! specification leaves it to the runtime.

use serde_json::Value;
use spec_tests::runtime::{Outcome, text};
use spec_tests::{Bundle, Test};

/// `create` of this bundle, whatever comes of it.
pub(crate) fn create(t: &Test, bundle: &Bundle) -> Outcome {
    t.call(&["create", "--bundle", text(&bundle.path), &bundle.id])
}

/// `create` must fail, and no container be there afterwards.
#[track_caller]
pub(crate) fn refused(t: &Test, bundle: &Bundle) {
    let outcome = create(t, bundle);
    let _delete = t.adopt(&bundle.id);
    assert_ne!(outcome.code, 0, "the bundle was taken");
    assert!(
        !exists(t, &bundle.id),
        "a container is there after the error"
    );
}

/// `create` or `start` must fail, and the program never run: what belongs to
/// the process may be applied by either. The bundle's program is replaced.
#[track_caller]
pub(crate) fn never_runs(t: &Test, bundle: Bundle) {
    let bundle = bundle.probe(&["create", "/data/ran", "x"]);
    broken_process(t, &bundle);
}

/// [`never_runs`] for a bundle whose program is broken itself.
#[track_caller]
pub(crate) fn broken_process(t: &Test, bundle: &Bundle) {
    let outcome = create(t, bundle);
    let container = t.adopt(&bundle.id);
    if outcome.code == 0 {
        assert_ne!(container.start().code, 0, "it was created and started");
    } else {
        assert!(
            !exists(t, &bundle.id),
            "a container is there after the error"
        );
    }
    assert!(
        !bundle.rootfs().join("data/ran").exists(),
        "the program ran"
    );
}

/// Does the runtime know this container?
pub(crate) fn exists(t: &Test, id: &str) -> bool {
    t.call(&["state", id]).code == 0
}

/// Takes a field away, whose pointer is given.
pub(crate) fn remove(config: &mut Value, pointer: &str) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let object = config.pointer_mut(parent).expect("the field's parent");
    object
        .as_object_mut()
        .expect("an object")
        .remove(name)
        .expect("the field");
}

/// The topmost mount on this path, of a probe's report.
#[track_caller]
pub(crate) fn mount(report: &Value, target: &str) -> Value {
    let mounts = report["mounts"].as_array().expect("mounts");
    let found = mounts.iter().rfind(|mount| mount["target"] == target);
    found
        .unwrap_or_else(|| panic!("nothing is mounted on {target}"))
        .clone()
}

/// Is this word in a list of the report?
pub(crate) fn has(list: &Value, word: &str) -> bool {
    list.as_array()
        .is_some_and(|words| words.iter().any(|one| one == word))
}

/// A link of /proc/self/ns on the host.
pub(crate) fn own_namespace(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
    text(&link).to_owned()
}
