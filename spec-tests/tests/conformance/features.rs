//! features.md and features-linux.md: what the runtime says it knows, it takes.

use serde_json::{Value, json};
use spec_tests::{Bundle, Case, Test};

/// The names that the structure may have on its upper two levels.
const TOP: [&str; 7] = [
    "ociVersionMin",
    "ociVersionMax",
    "hooks",
    "mountOptions",
    "linux",
    "annotations",
    "potentiallyUnsafeConfigAnnotations",
];
const LINUX: [&str; 10] = [
    "namespaces",
    "capabilities",
    "cgroup",
    "seccomp",
    "apparmor",
    "selinux",
    "intelRdt",
    "mountExtensions",
    "netDevices",
    "memoryPolicy",
];

const BIG_ENDIAN: [&str; 11] = [
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_SHEB",
];

pub(crate) const CASES: &[Case] = &[
    Case::clause(
        &[
            "features/ociVersionMin",
            "features/ociVersionMin-taken",
            "features/ociVersionMax",
            "features/ociVersionMax-taken",
            "features/ociVersion-order",
        ],
        "the lowest and the highest version are in order, and config.json may have both",
        |t| {
            let features = features(t);
            let version = |name: &str| features[name].as_str().expect("a version").to_owned();
            let (min, max) = (version("ociVersionMin"), version("ociVersionMax"));
            assert!(numbers(&min) <= numbers(&max), "{min} {max}");
            for version in [min, max] {
                runs(t, |config| config["ociVersion"] = json!(version));
            }
        },
    ),
    Case::clause(
        &["features/undefined"],
        "it has no property that the specification does not define",
        |t| {
            let features = features(t);
            for (object, known) in [(&features, &TOP[..]), (&features["linux"], &LINUX)] {
                for name in object.as_object().expect("an object").keys() {
                    assert!(known.contains(&name.as_str()), "{name}");
                }
            }
        },
    ),
    Case::clause(&["features/hooks"], "each hook of the list is run", |t| {
        let features = features(t);
        for moment in words(&features["hooks"]) {
            let bundle = Bundle::new(t).args(&["true"]);
            let file = bundle.rootfs().join("data/hook");
            let hook = if moment == "startContainer" {
                json!({ "path": "/bin/probe", "args": ["probe", "create", "/data/hook", "x"] })
            } else {
                json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("echo x > {}", file.display())] })
            };
            let bundle = bundle.hook(&moment, hook);
            let container = t.start(&bundle);
            container.wait_status("stopped");
            container.delete().ok();
            assert!(file.exists(), "{moment}");
        }
    }),
    Case::clause(
        &["features/mountOptions"],
        "each mount option of the list is known",
        |t| {
            let features = features(t);
            for option in words(&features["mountOptions"]) {
                // Those that the kernel takes of a tmpfs only with more are left to cases of their own.
                if [
                    "idmap",
                    "ridmap",
                    "bind",
                    "rbind",
                    "tmpcopyup",
                    "copy-symlink",
                    "src-nofollow",
                    "dest-nofollow",
                ]
                .contains(&option.as_str())
                {
                    continue;
                }
                // An option that is not known is handed to the tmpfs, which refuses it.
                let mut bundle = Bundle::new(t).probe(&["say", "runs"]);
                if option == "remount" {
                    bundle = bundle.mount("/mnt", "tmpfs", "tmpfs", &[]);
                }
                let bundle = bundle.mount("/mnt", "tmpfs", "tmpfs", &[&option]);
                let outcome = t.run(&bundle);
                assert_eq!(outcome.code, 0, "{option}: {}", outcome.stderr);
            }
        },
    )
    .except(&[(
        "runc",
        "1.1.5 lists `defaults` and hands it to the file system",
    )]),
    Case::clause(
        &["features/namespaces"],
        "each namespace of the list can be asked for",
        |t| {
            let features = features(t);
            for kind in words(&features["linux"]["namespaces"]) {
                let bundle = Bundle::new(t).probe(&["report"]);
                let bundle = match kind.as_str() {
                    "user" => bundle.in_user_namespace(100_000),
                    _ => bundle.without_namespace(&kind).with(|config| {
                        spec_tests::bundle::push(
                            &mut config["linux"]["namespaces"],
                            json!({ "type": kind }),
                        );
                    }),
                };
                let link = match kind.as_str() {
                    "network" => "net",
                    "mount" => "mnt",
                    other => other,
                };
                let report = t.run(&bundle).answer();
                assert_ne!(
                    report["namespaces"][link],
                    crate::attempt::own_namespace(link),
                    "{kind}"
                );
            }
        },
    ),
    Case::clause(
        &["features/capabilities"],
        "each capability of the list can be asked for",
        |t| {
            let features = features(t);
            let all = words(&features["linux"]["capabilities"]);
            // In the bounding set: of the others the runtime may have fewer itself.
            runs(t, |config| {
                config["process"]["capabilities"] = json!({ "bounding": all });
            });
        },
    ),
    Case::clause(
        &[
            "features/seccomp-actions",
            "features/seccomp-operators",
            "features/seccomp-archs",
        ],
        "each action, operator and architecture of the lists is known",
        |t| {
            let seccomp = features(t)["linux"]["seccomp"].clone();
            for action in words(&seccomp["actions"]) {
                if action == "SCMP_ACT_NOTIFY" {
                    continue; // It needs an agent: the cases of seccomp have one.
                }
                profile(t, |rule| rule["syscalls"][0]["action"] = json!(action));
            }
            for operator in words(&seccomp["operators"]) {
                profile(t, |rule| {
                    rule["syscalls"][0]["args"] =
                        json!([{ "index": 0, "value": 7, "valueTwo": 7, "op": operator }]);
                });
            }
            // libseccomp does not take both orders of bytes in one filter.
            let little = |arch: &String| !BIG_ENDIAN.contains(&arch.as_str());
            let archs: Vec<String> = words(&seccomp["archs"])
                .into_iter()
                .filter(little)
                .collect();
            profile(t, |rule| rule["architectures"] = json!(archs));
        },
    ),
    Case::clause(
        &[
            "features/seccomp-knownFlags",
            "features/seccomp-supportedFlags",
        ],
        "each flag of the lists is known, and those that are supported are set",
        |t| {
            let seccomp = features(t)["linux"]["seccomp"].clone();
            if seccomp["knownFlags"].is_null() {
                t.does_not_apply("the runtime lists no flags, as it may");
            }
            let known = words(&seccomp["knownFlags"]);
            for flag in words(&seccomp["supportedFlags"]) {
                assert!(known.contains(&flag), "{flag} is not among the known ones");
                profile(t, |rule| rule["flags"] = json!([flag]));
            }
        },
    ),
    Case::clause(
        &["features/idmap"],
        "a runtime that knows idmap says so",
        |t| {
            let features = features(t);
            let listed = words(&features["mountOptions"])
                .iter()
                .any(|option| option.contains("idmap"));
            assert_eq!(
                features["linux"]["mountExtensions"]["idmap"]["enabled"] == true,
                listed
            );
        },
    ),
];

/// What `features` prints.
fn features(t: &Test) -> Value {
    let outcome = t.call(&["features"]);
    if outcome.code != 0 {
        t.does_not_apply("the runtime has no `features`");
    }
    outcome.json()
}

/// The words of a list, which has some.
#[track_caller]
fn words(list: &Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    assert!(!list.is_empty(), "an empty list shows nothing");
    list.iter()
        .map(|word| word.as_str().expect("text").to_owned())
        .collect()
}

/// The three numbers of a version; what comes before a release is lower.
fn numbers(version: &str) -> (Vec<u32>, bool) {
    let (core, rest) = version
        .split_once('-')
        .map_or((version, false), |(core, _)| (core, true));
    (
        core.split('.')
            .map(|part| part.parse().expect("a number"))
            .collect(),
        !rest,
    )
}

#[track_caller]
fn runs(t: &Test, change: impl FnOnce(&mut Value)) {
    let outcome = t.run(&Bundle::new(t).probe(&["say", "runs"]).with(change));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

/// A program under a profile, changed, of a call that nobody makes.
#[track_caller]
fn profile(t: &Test, change: impl FnOnce(&mut Value)) {
    runs(t, |config| {
        let mut seccomp = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["acct"], "action": "SCMP_ACT_ERRNO" }],
        });
        change(&mut seccomp);
        config["linux"]["seccomp"] = seccomp;
    });
}
