//! What is written and read, byte by byte.

use super::*;

fn dump(options: Options) -> Vec<u8> {
    Request::Work(Type::Dump, Box::new(options)).encode()
}

#[test]
fn an_option_is_written_under_its_number() {
    let own = Options::default;
    let some = |text: &str| Some(text.to_owned());
    let cases: [(&str, Options, &[u8]); 22] = [
        ("nothing", own(), &[]),
        (
            "pid",
            Options {
                pid: Some(5),
                ..own()
            },
            &[0x10, 5],
        ),
        (
            "leave_running",
            Options {
                leave_running: true,
                ..own()
            },
            &[0x18, 1],
        ),
        (
            "tcp_established",
            Options {
                tcp_established: true,
                ..own()
            },
            &[0x28, 1],
        ),
        (
            "file_locks",
            Options {
                file_locks: true,
                ..own()
            },
            &[0x40, 1],
        ),
        (
            "log_file",
            Options {
                log_file: some("d"),
                ..own()
            },
            &[0x52, 1, b'd'],
        ),
        (
            "page_server",
            Options {
                page_server: Some(PageServer {
                    address: "h".to_owned(),
                    port: 80,
                }),
                ..own()
            },
            &[0x5a, 5, 0x0a, 1, b'h', 0x10, 80],
        ),
        (
            "root",
            Options {
                root: some("/"),
                ..own()
            },
            &[0x6a, 1, b'/'],
        ),
        (
            "work_dir_fd",
            Options {
                work_dir_fd: Some(4),
                ..own()
            },
            &[0x88, 1, 4],
        ),
        (
            "link_remap",
            Options {
                link_remap: true,
                ..own()
            },
            &[0x90, 1, 1],
        ),
        (
            "ext_mnt",
            Options {
                ext_mnt: vec![External {
                    key: "a".to_owned(),
                    value: "b".to_owned(),
                }],
                ..own()
            },
            &[0xba, 1, 6, 0x0a, 1, b'a', 0x12, 1, b'b'],
        ),
        (
            "manage_cgroups, ignore",
            Options {
                manage_cgroups: Some(CgroupMode::Ignore),
                ..own()
            },
            &[0xc0, 1, 1, 0x90, 2, 0],
        ),
        (
            "inherit_fd",
            Options {
                inherit_fd: vec![Inherited {
                    key: "p".to_owned(),
                    fd: 3,
                }],
                ..own()
            },
            &[0xda, 1, 5, 0x0a, 1, b'p', 0x10, 3],
        ),
        (
            "empty_ns",
            Options {
                empty_ns: 0x4000_0000,
                ..own()
            },
            &[0xb0, 2, 0x80, 0x80, 0x80, 0x80, 4],
        ),
        (
            "lazy_pages",
            Options {
                lazy_pages: true,
                ..own()
            },
            &[0x80, 3, 1],
        ),
        (
            "orphan_pts_master",
            Options {
                orphan_pts_master: true,
                ..own()
            },
            &[0x90, 3, 1],
        ),
        (
            "config_file",
            Options {
                config_file: some("c"),
                ..own()
            },
            &[0x9a, 3, 1, b'c'],
        ),
        (
            "cg_root",
            Options {
                cg_root: vec![CgroupRoot {
                    controllers: some("cpu"),
                    path: "/c".to_owned(),
                }],
                ..own()
            },
            &[0xca, 1, 9, 0x0a, 3, b'c', b'p', b'u', 0x12, 2, b'/', b'c'],
        ),
        (
            "join_ns",
            Options {
                join_ns: vec![JoinedNamespace {
                    kind: "ipc".to_owned(),
                    path: "/i".to_owned(),
                }],
                ..own()
            },
            &[0xba, 2, 9, 0x0a, 3, b'i', b'p', b'c', 0x12, 2, b'/', b'i'],
        ),
        (
            "tcp_close",
            Options {
                tcp_close: true,
                ..own()
            },
            &[0xa0, 3, 1],
        ),
        (
            "network_lock",
            Options {
                network_lock: Some(NetworkLock::Skip),
                ..own()
            },
            &[0x80, 4, 3],
        ),
        (
            "lsm_mount_context",
            Options {
                lsm_mount_context: some("l"),
                ..own()
            },
            &[0xfa, 3, 1, b'l'],
        ),
    ];
    for (name, options, expected) in cases {
        let inner = u8::try_from(expected.len() + 2).unwrap();
        let mut packet = vec![0x08, 1, 0x12, inner, 0x08, 0];
        packet.extend_from_slice(expected);
        assert_eq!(dump(options), packet, "{name}");
    }
}

#[test]
fn our_word_on_a_notification_is_always_written() {
    assert_eq!(Request::Notified(true).encode(), [0x08, 6, 0x18, 1]);
    assert_eq!(Request::Notified(false).encode(), [0x08, 6, 0x18, 0]);
}

#[test]
fn an_answer_is_read() {
    let none = Response {
        kind: None,
        success: true,
        restored: None,
        notify: None,
        errno: None,
        message: None,
        version: None,
        features: Features::default(),
    };
    let notify = |script: &str, pid| {
        Some(Notify {
            script: script.to_owned(),
            pid,
        })
    };
    let cases: [(&str, &[u8], Option<Response>); 9] = [
        (
            "a dump",
            &[0x08, 1, 0x10, 1],
            Some(Response {
                kind: Some(Type::Dump),
                ..none.clone()
            }),
        ),
        (
            "restored",
            &[0x08, 2, 0x10, 1, 0x22, 2, 0x08, 42],
            Some(Response {
                kind: Some(Type::Restore),
                restored: Some(42),
                ..none.clone()
            }),
        ),
        (
            "a moment",
            &[0x08, 6, 0x10, 1, 0x2a, 6, 0x0a, 2, b'p', b'r', 0x10, 7],
            Some(Response {
                kind: Some(Type::Notify),
                notify: notify("pr", Some(7)),
                ..none.clone()
            }),
        ),
        (
            "a failure",
            &[0x08, 1, 0x10, 0, 0x38, 2, 0x4a, 2, b'n', b'o'],
            Some(Response {
                kind: Some(Type::Dump),
                success: false,
                errno: Some(2),
                message: Some("no".to_owned()),
                ..none.clone()
            }),
        ),
        (
            "3.17.1",
            &[0x08, 10, 0x10, 1, 0x52, 6, 0x08, 3, 0x10, 17, 0x20, 1],
            Some(Response {
                kind: Some(Type::Version),
                version: Some(31_701),
                ..none.clone()
            }),
        ),
        (
            "what it can do",
            &[0x08, 9, 0x10, 1, 0x42, 4, 0x08, 1, 0x10, 0],
            Some(Response {
                kind: Some(Type::FeatureCheck),
                features: Features {
                    mem_track: true,
                    lazy_pages: false,
                },
                ..none.clone()
            }),
        ),
        (
            "a type of tomorrow",
            &[0x08, 99, 0x10, 1],
            Some(none.clone()),
        ),
        ("no outcome", &[0x08, 1], None),
        ("cut short", &[0x08, 1, 0x10], None),
    ];
    for (name, packet, expected) in cases {
        assert_eq!(Response::decode(packet), expected, "{name}");
    }
}
