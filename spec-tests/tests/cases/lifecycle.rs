//! The life of a container: create, start, state, kill, delete, and the
//! refusals in between.

use serde_json::Value;
use spec_tests::runtime::text;
use spec_tests::{Bundle, Case};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "a container is created, runs after start, stops after kill, and is gone after delete",
        |t| {
            let bundle = Bundle::new(t).probe(&["await", "15"]);
            let container = t.create(&bundle);
            assert_eq!(container.status(), "created");
            container.start().ok();
            assert_eq!(container.status(), "running");
            container.wait_for("ready");
            container.kill("TERM").ok();
            container.wait_status("stopped");
            assert_eq!(container.state()["pid"], 0);
            container.delete().ok();
            t.call(&["state", &bundle.id])
                .fails(1, &["container does not exist"]);
        },
    ),
    Case::runc("state has the fields that engines read", |t| {
        let bundle = Bundle::new(t)
            .probe(&["pause"])
            .with(|config| config["annotations"] = serde_json::json!({ "a.b": "c" }));
        let container = t.create(&bundle);
        let state = container.state();
        assert_eq!(state["id"], Value::from(bundle.id.clone()));
        assert_eq!(state["bundle"], text(&bundle.path));
        assert_eq!(state["rootfs"], text(&bundle.rootfs()));
        assert_eq!(state["annotations"]["a.b"], "c");
        assert!(
            state["ociVersion"]
                .as_str()
                .expect("ociVersion")
                .starts_with("1.")
        );
        let created = state["created"].as_str().expect("created");
        assert!(
            created.starts_with("20") && created.ends_with('Z'),
            "{created}"
        );
        assert_eq!(state["owner"], "");
        let pid = state["pid"].as_i64().expect("a pid");
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    }),
];
