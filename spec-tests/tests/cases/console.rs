//! Terminals: sent over a console socket, or held in the foreground.

use std::os::fd::AsFd;
use std::process::Stdio;

use serde_json::{Value, json};
use spec_tests::runtime::text;
use spec_tests::sys::{Before, before};
use spec_tests::terminal::{Receiver, Terminal};
use spec_tests::{Bundle, Case};

pub(crate) const CASES: &[Case] = &[
    Case::runc(
        "a terminal is sent over --console-socket and is the program's own",
        |t| {
            let bundle = with_terminal(Bundle::new(t))
                .probe(&["report"])
                .with(|config| {
                    config["process"]["consoleSize"] = json!({ "height": 33, "width": 101 });
                });
            let receiver = Receiver::new(&t.directory.join("console.sock"));
            let container = t.create_with(&bundle, &["--console-socket", text(&receiver.path)]);
            let (name, master) = receiver.receive();
            assert!(String::from_utf8_lossy(&name).contains("/dev/"), "{name:?}");
            let mut terminal = Terminal::of(master);
            container.start().ok();
            terminal.wait_end();
            let report: Value = serde_json::from_str(terminal.text().trim()).expect("JSON");
            let tty = &report["tty"];
            assert_eq!(tty["stdin"], true);
            assert_eq!(tty["stdout"], true);
            assert_eq!(tty["window"], json!([33, 101]));
            assert!(
                tty["controlling"]
                    .as_str()
                    .expect("a controlling terminal")
                    .starts_with("136:")
            );
            assert_eq!(report["sid"], 1);
            assert_eq!(report["pgid"], 1);
            let console = &report["dev"]["console"];
            assert_eq!(console["type"], "char");
            assert!(
                console["device"]
                    .as_str()
                    .expect("device")
                    .starts_with("136:"),
                "{console}"
            );
            let target = &report["descriptors"]["0"];
            assert!(
                target.as_str().expect("stdin").starts_with("/dev/pts/")
                    || target == "/dev/console"
            );
        },
    ),
    Case::runc("the terminal belongs to the program's user", |t| {
        let bundle = with_terminal(Bundle::new(t))
            .probe(&[
                "stat",
                "/proc/self/fd/0",
                ";",
                "report",
                ";",
                "stat",
                "/dev/pts/0",
            ])
            .with(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
        let receiver = Receiver::new(&t.directory.join("console.sock"));
        let container = t.create_with(&bundle, &["--console-socket", text(&receiver.path)]);
        let mut terminal = Terminal::of(receiver.receive().1);
        container.start().ok();
        terminal.wait_end();
        let last = terminal
            .text()
            .trim()
            .lines()
            .last()
            .expect("a line")
            .to_owned();
        let stat: Value = serde_json::from_str(&last).expect("JSON");
        assert_eq!(stat["uid"], 1000, "{stat}");
    }),
    Case::runc(
        "a terminal without console socket is refused for whom detaches",
        |t| {
            let bundle = with_terminal(Bundle::new(t)).probe(&["true"]);
            t.call(&["create", "-b", text(&bundle.path), &bundle.id])
                .fails(
                    1,
                    &[
                        "cannot allocate tty if",
                        "will detach without setting console socket",
                    ],
                );
            t.call(&["run", "-d", "-b", text(&bundle.path), &bundle.id])
                .fails(
                    1,
                    &[
                        "cannot allocate tty if",
                        "will detach without setting console socket",
                    ],
                );
        },
    ),
    Case::runc("a console socket without a terminal is refused", |t| {
        let bundle = Bundle::new(t).probe(&["true"]);
        let receiver = Receiver::new(&t.directory.join("console.sock"));
        t.call(&[
            "create",
            "--console-socket",
            text(&receiver.path),
            "-b",
            text(&bundle.path),
            &bundle.id,
        ])
        .fails(1, &["cannot use console socket if"]);
    }),
    Case::runc(
        "a foreground terminal is raw, follows the size and hands text on",
        |t| {
            let bundle = with_terminal(Bundle::new(t)).probe(&[
                "await-window",
                "40",
                "120",
                ";",
                "line",
                ";",
                "exit",
                "6",
            ]);
            let (mut terminal, slave) = Terminal::pair(24, 80);
            let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
            let stdio = |slave: &std::os::fd::OwnedFd| {
                Stdio::from(slave.as_fd().try_clone_to_owned().expect("dup"))
            };
            command
                .stdin(stdio(&slave))
                .stdout(stdio(&slave))
                .stderr(stdio(&slave));
            before(&mut command, Before::Terminal);
            let mut child = command.spawn().expect("spawn");
            drop(command);
            terminal.wait_for("[24,80]");
            assert!(terminal.is_raw());
            terminal.resize(40, 120);
            terminal.wait_for("[40,120]");
            terminal.write("typed\n");
            terminal.wait_for("\"line\":\"typed\"");
            assert_eq!(child.wait().expect("wait").code(), Some(6));
            drop(slave);
        },
    ),
    Case::kernel("nobody works while a program has left its terminal", |t| {
        // It closes its three descriptors (3 is close) and lives on.
        let words = "syscall 3 0 ; syscall 3 2 ; syscall 3 1 ; sleep 1500";
        let bundle = with_terminal(Bundle::new(t)).probe(&words.split(' ').collect::<Vec<_>>());
        let (terminal, slave) = Terminal::pair(24, 80);
        let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
        command.stdin(Stdio::from(slave.try_clone().expect("dup")));
        command.stdout(Stdio::from(slave.try_clone().expect("dup")));
        before(&mut command, Before::Terminal);
        let mut child = command.spawn().expect("spawn");
        drop(command);
        // However long its start takes, a time without work follows: who spins works
        // in all of them, to its end.
        let mut before = ticks(child.id());
        let mut quiet = false;
        let status = loop {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let (then, now) = (before, ticks(child.id()));
            before = now;
            quiet |= then.zip(now).is_some_and(|(then, now)| now - then <= 2);
            if let Some(status) = child.try_wait().expect("wait") {
                break status;
            }
        };
        assert!(status.success());
        drop((terminal, slave));
        assert!(quiet, "it worked all the time: {before:?} ticks at last");
    }),
    Case::runc("the foreground terminal's modes are restored", |t| {
        let bundle = with_terminal(Bundle::new(t)).probe(&["true"]);
        let (terminal, slave) = Terminal::pair(24, 80);
        let mut command = t.command(&["run", "-b", text(&bundle.path), &bundle.id]);
        let stdio = |slave: &std::os::fd::OwnedFd| {
            Stdio::from(slave.as_fd().try_clone_to_owned().expect("dup"))
        };
        command
            .stdin(stdio(&slave))
            .stdout(stdio(&slave))
            .stderr(stdio(&slave));
        before(&mut command, Before::Terminal);
        assert!(command.status().expect("spawn").success());
        assert!(!terminal.is_raw());
    }),
];

fn with_terminal(bundle: Bundle) -> Bundle {
    bundle.with(|config| config["process"]["terminal"] = json!(true))
}

/// The ticks of 10 ms for which a process has worked; none once it has ended.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit(')').next()?;
    let mut fields = after_name.split_whitespace();
    if fields.next() == Some("Z") {
        return None;
    }
    // utime and stime are fields 14 and 15, the state is 3.
    fields
        .skip(10)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().ok())
        .sum()
}
